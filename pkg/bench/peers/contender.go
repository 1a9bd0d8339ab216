// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// contender is what is measured. It serves the lab's first identity's address,
// from that identity's home unless there is trouble.
type contender interface {
	name() string
	// faults are what it is measured under.
	faults() []Fault
	// start runs it on both nodes.
	start(l *lab.Lab) error
	// settle brings the address home if that does not happen by itself, and says what
	// is missing until home serves and the other node could take over; "" if nothing is.
	settle(ctx context.Context, l *lab.Lab) (missing string, err error)
	// signal reaches the daemon's processes on a node: all, or only its worker,
	// if it has one that another process watches over.
	signal(n *lab.Node, sig unix.Signal, worker bool) error
}

// The address that clients ask for, and its home.
var (
	identity = lab.Identities[0]
	address  = identity.Addr
)

const (
	settleTimeout = 60 * time.Second
	pollEvery     = 20 * time.Millisecond
)

// awaitSettled polls until nothing is missing.
func awaitSettled(ctx context.Context, l *lab.Lab, c contender) error {
	deadline := time.Now().Add(settleTimeout)
	for {
		missing, err := c.settle(ctx, l)
		if err != nil || missing == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("await %s: not ready after %s: %s%s", c.name(), settleTimeout, missing, pair.Logs(l))
		}
		if err := pair.Pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// holders are the nodes that have the address on an interface, as `ip addr` would say.
func holders(l *lab.Lab, addr netip.Addr) ([]string, error) {
	var all []string
	for _, n := range l.Nodes {
		err := l.Do(n.Name, func() error {
			addrs, err := netlink.AddrList(nil, unix.AF_INET)
			for _, a := range addrs {
				if a.IP.Equal(addr.AsSlice()) {
					all = append(all, n.Name)
					break
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the addresses of %s: %w", n.Name, err)
		}
	}
	return all, nil
}
