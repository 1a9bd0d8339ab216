// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	statusTimeout = 500 * time.Millisecond
	moveTimeout   = 5 * time.Second
)

// xdpha runs the lab's executable.
type xdpha struct{ profile string }

func (x xdpha) name() string { return nameXdpha }

func (x xdpha) faults() []Fault { return []Fault{Rest, Hang, Kill, Stop} }

// start uses manual failback: the round says when the address goes home.
func (x xdpha) start(l *lab.Lab) error {
	if err := l.WriteConfig(lab.Scene{Profile: x.profile, Staging: "ahead", Failback: "manual"}); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

// settle asks both nodes, and gives back what is away as soon as its home is fit.
func (x xdpha) settle(ctx context.Context, l *lab.Lab) (string, error) {
	if err := ended(l); err != nil {
		return "", err
	}
	known := map[string]control.Status{}
	for _, n := range l.Nodes {
		st, err := statusOf(ctx, n)
		if err != nil {
			return fmt.Sprintf("%s does not answer: %v", n.Name, err), nil
		}
		known[n.Name] = st
	}
	missing := unprepared(known)
	if missing != "" {
		return missing, nil
	}
	for _, id := range known[identity.Home].Identities {
		if id.Owner == id.Home {
			continue
		}
		missing = id.Name + " is not at home"
		if err := giveback(ctx, l.Node(id.Home), id.Name); err != nil {
			missing += ": " + err.Error()
		}
	}
	return missing, nil
}

func statusOf(ctx context.Context, n *lab.Node) (control.Status, error) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return c.Status(ctx)
}

// giveback may be refused, while the node that gets it still prepares.
func giveback(ctx context.Context, n *lab.Node, id string) error {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	return c.Giveback(ctx, id)
}

// unprepared says what is missing until each node serves what it owns and could take
// over the rest; "" if nothing is.
func unprepared(known map[string]control.Status) string {
	for _, name := range []string{lab.Serv1, lab.Serv2} {
		st := known[name]
		if st.Peer.State != control.PeerUp {
			return fmt.Sprintf("%s sees its peer %q", name, st.Peer.State)
		}
		if len(st.Identities) != len(lab.Identities) {
			return name + " does not know its identities"
		}
		for _, id := range st.Identities {
			switch {
			case id.Owner == "":
				return fmt.Sprintf("%s sees %s owned by nobody", name, id.Name)
			case id.Owner == name && id.Gate != control.GateOpen:
				return fmt.Sprintf("%s has the gate of %s closed: %s", name, id.Name, id.Reason)
			case id.Owner != name && !id.Armed:
				return fmt.Sprintf("%s is not ready to take %s: %s", name, id.Name, id.Reason)
			}
		}
		for _, l := range st.Links {
			if !l.Up {
				return fmt.Sprintf("%s has not heard link %s", name, l.Name)
			}
		}
	}
	return ""
}

func (x xdpha) signal(n *lab.Node, sig unix.Signal, worker bool) error {
	if worker {
		return fmt.Errorf("signal %s: its daemon is one process", n.Name)
	}
	return n.Signal(sig)
}
