// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Limit bounds a list: some 1.5 MiB on the wire. What is beyond it notices by itself.
const Limit = 1 << 16

// established is the state's number in sock_diag(7), as in /proc/net/tcp.
const established = 1

// readAgain is how often a reading is begun anew that others' changes spoilt.
const readAgain = 3

// Connection is an established TCP connection, by its ends: Local is the node's.
type Connection struct{ Local, Remote netip.AddrPort }

func (c Connection) String() string { return fmt.Sprintf("%v-%v", c.Local, c.Remote) }

// List returns the established connections of this network namespace whose local address
// counts, in order, and at most Limit of them.
func List(counts func(netip.Addr) bool) ([]Connection, error) {
	var list []Connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := sockets(family)
		if err != nil {
			return nil, fmt.Errorf("list TCP connections: %w", err)
		}
		for _, s := range sockets {
			c, ok := connection(s)
			if ok && counts(c.Local.Addr()) {
				list = append(list, c)
			}
		}
	}
	slices.SortFunc(list, Connection.compare)
	list = slices.Compact(list)
	return list[:min(len(list), Limit)], nil
}

func sockets(family uint8) (list []*netlink.Socket, err error) {
	for range readAgain {
		list, err = netlink.SocketDiagTCP(family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, nil // as good as it gets: a connection more or less
}

// connection: a socket of IPv6 may carry IPv4.
func connection(s *netlink.Socket) (c Connection, ok bool) {
	local, okL := netip.AddrFromSlice(s.ID.Source)
	remote, okR := netip.AddrFromSlice(s.ID.Destination)
	if s.State != established || !okL || !okR {
		return c, false
	}
	return Connection{
		Local:  netip.AddrPortFrom(local.Unmap(), s.ID.SourcePort),
		Remote: netip.AddrPortFrom(remote.Unmap(), s.ID.DestinationPort),
	}, true
}

func (c Connection) compare(d Connection) int {
	if n := c.Local.Compare(d.Local); n != 0 {
		return n
	}
	return c.Remote.Compare(d.Remote)
}
