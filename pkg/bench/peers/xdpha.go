// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// xdpha runs the lab's executable.
type xdpha struct{ profile string }

func (x xdpha) name() string { return nameXdpha }

func (x xdpha) faults() []Fault { return []Fault{Rest, Hang, Kill, Stop} }

// start uses manual failback: the round says when the address goes home.
func (x xdpha) start(l *lab.Lab) error {
	return pair.Start(l, lab.Scene{Profile: x.profile, Staging: "ahead", Failback: "manual", UpDelay: "500ms"})
}

func (x xdpha) settle(ctx context.Context, l *lab.Lab) (string, error) { return pair.Settle(ctx, l) }

func (x xdpha) signal(n *lab.Node, sig unix.Signal, worker bool) error {
	if worker {
		return fmt.Errorf("signal %s: its daemon is one process", n.Name)
	}
	return n.Signal(sig)
}
