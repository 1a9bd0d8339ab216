// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	statusTimeout = 500 * time.Millisecond
	moveTimeout   = 5 * time.Second
	pollEvery     = 20 * time.Millisecond
)

// Start runs the lab's executable on both nodes.
func Start(l *lab.Lab, s lab.Scene) error {
	if err := l.WriteConfig(s); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

// AwaitSettled returns when Settle has nothing to say, or fails after patience.
func AwaitSettled(ctx context.Context, l *lab.Lab, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		missing, err := Settle(ctx, l)
		if err != nil || missing == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("await xdpha: not ready after %s: %s%s", patience, missing, Logs(l))
		}
		if err := Pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// AtRest asks both nodes, and says what is missing until every identity is served by one node, which
// both of them know, and covered by the other one, wherever its home is.
func AtRest(ctx context.Context, l *lab.Lab) (missing string, owners map[string]string, err error) {
	known, missing, err := ask(ctx, l)
	if missing != "" || err != nil {
		return missing, nil, err
	}
	owners = map[string]string{}
	for _, id := range known[lab.Serv1].Identities {
		owners[id.Name] = id.Owner
	}
	if missing := disagreement(known); missing != "" {
		return missing, nil, nil
	}
	for name, node := range owners {
		if n := l.Node(node); n == nil || !n.ServiceRuns(name+"d") {
			return fmt.Sprintf("the service of %s does not run on its owner %q", name, node), nil, nil
		}
	}
	return "", owners, nil
}

// disagreement is what the nodes do not see alike; "" if there is nothing.
func disagreement(known map[string]control.Status) string {
	for i, a := range known[lab.Serv1].Identities {
		if b := known[lab.Serv2].Identities[i]; a.Name != b.Name || a.Owner != b.Owner || a.Generation != b.Generation {
			return fmt.Sprintf("%s: serv1 sees %s at generation %d, serv2 sees %s at %d", a.Name, a.Owner, a.Generation, b.Owner, b.Generation)
		}
	}
	return ""
}

// ask asks both nodes, and says what is missing until each serves what it owns and could take over the rest.
func ask(ctx context.Context, l *lab.Lab) (known map[string]control.Status, missing string, err error) {
	if err := Ended(l); err != nil {
		return nil, "", err
	}
	known = map[string]control.Status{}
	for _, n := range l.Nodes {
		st, err := Status(ctx, n)
		if err != nil {
			return nil, fmt.Sprintf("%s does not answer: %v", n.Name, err), context.Cause(ctx)
		}
		known[n.Name] = st
	}
	return known, unprepared(known), nil
}

// Settle asks both nodes, gives back what is away as soon as its home is fit, and says what
// is missing until every identity is served by its home, by its lan NIC, and covered by the other node.
func Settle(ctx context.Context, l *lab.Lab) (missing string, err error) {
	known, missing, err := ask(ctx, l)
	if missing != "" || err != nil {
		return missing, err
	}
	for _, id := range lab.Identities {
		home := l.Node(id.Home)
		if identity(known[home.Name], id.Name).Owner != home.Name {
			missing = id.Name + " is not at home"
			if err := Giveback(ctx, home, id.Name); err != nil {
				missing += ": " + err.Error()
			}
		} else if !home.ServiceRuns(id.Name + "d") {
			missing = "the service of " + id.Name + " does not run"
		} else if identity(known[home.Name], id.Name).Carrier == "spare" {
			missing = "the spare NIC still carries " + id.Name
		}
	}
	return missing, nil
}

func identity(s control.Status, name string) control.Identity {
	for _, id := range s.Identities {
		if id.Name == name {
			return id
		}
	}
	return control.Identity{}
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

// Status asks a node; one that is busy or stopped does not answer in time.
func Status(ctx context.Context, n *lab.Node) (control.Status, error) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return c.Status(ctx)
}

// Giveback may be refused, while the node that gets it still prepares.
func Giveback(ctx context.Context, n *lab.Node, identity string) error {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	return c.Giveback(ctx, identity)
}

// HandOver is a lab's planned hand-over, for lab.Options. A node that is refused because the
// other one was suspected for a moment orders it again, as an administrator would.
func HandOver(ctx context.Context, n *lab.Node, identity string) error {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	for {
		err := c.Move(ctx, identity, "", false)
		if !errors.Is(err, control.ErrRefused) {
			return err
		}
		if Pause(ctx, pollEvery) != nil {
			return err
		}
	}
}

// Ended says so if a daemon that should run does not.
func Ended(l *lab.Lab) error {
	for _, n := range l.Nodes {
		if !n.Alive() {
			return fmt.Errorf("the daemon of %s ended; its output:\n%s", n.Name, n.Tail(40))
		}
	}
	return nil
}

// Logs are the last lines of both daemons.
func Logs(l *lab.Lab) string {
	var s string
	for _, n := range l.Nodes {
		s += fmt.Sprintf("\noutput of %s:\n%s", n.Name, n.Tail(20))
	}
	return s
}

// Pause waits for d or the end of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
