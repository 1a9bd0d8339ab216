// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// data is where the test finds what a node's daemon has at /srv.
func data(n *lab.Node, name string) string { return filepath.Join(n.Dir, "srv", name) }

func content(n *lab.Node, name string) string {
	b, err := os.ReadFile(data(n, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// startWithSrv starts the daemon in a mount namespace of its own, in which /srv is the node's own.
func startWithSrv(t *testing.T, n *lab.Node) {
	t.Helper()
	must(t, os.MkdirAll(data(n, ""), 0o755))
	executable, err := program()
	must(t, err)
	script := `mount --bind "$1" /srv && shift && exec "$@"`
	args := append([]string{"-m", "sh", "-c", script, "sh", data(n, ""), executable}, n.Flags()...)
	must(t, n.StartProgram("/usr/bin/unshare", append(args, "run")...))
}

// mirrored waits until a node says that the set flows in a direction, and a copy is complete.
func (c *cluster) mirrored(t *testing.T, node, direction string) {
	t.Helper()
	await(t, fmt.Sprintf("the set on %s: %s, complete", node, direction), func() error {
		s, err := c.status(node)
		if err != nil {
			return err
		}
		if len(s.Mirrors) != 1 {
			return fmt.Errorf("%d sets", len(s.Mirrors))
		}
		if m := s.Mirrors[0]; m.Direction != direction || m.LagS < 0 || m.Error != "" {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
}

func TestTheOwnersDataIsOnTheOtherNode(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious", Mirror: "{paths: [/srv]}"})
	for _, n := range c.Nodes {
		startWithSrv(t, n)
	}
	c.awaitSettled(t, atHome)
	one, two := c.Nodes[0], c.Nodes[1]
	same := func(name, want string) {
		t.Helper()
		await(t, name+" is on both nodes", func() error {
			if a, b := content(one, name), content(two, name); a != want || b != want {
				return fmt.Errorf("%q here, %q there, want %q", a, b, want)
			}
			return nil
		})
	}
	c.mirrored(t, lab.Serv1, control.MirrorOut)
	c.mirrored(t, lab.Serv2, control.MirrorIn)
	must(t, os.WriteFile(data(one, "mail"), []byte("before the failure"), 0o600))
	same("mail", "before the failure")

	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	must(t, os.WriteFile(data(two, "mail"), []byte("after the failure"), 0o600))
	must(t, os.WriteFile(data(one, "unsent"), []byte("written as the power went"), 0o600))
	await(t, "serv2 owns the set", func() error {
		if m := c.mustStatus(t, lab.Serv2).Mirrors[0]; m.Direction != control.MirrorOut || !strings.Contains(m.Error, "reach serv1") {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})

	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	c.mirrored(t, lab.Serv1, control.MirrorIn)
	c.mirrored(t, lab.Serv2, control.MirrorOut)
	same("mail", "after the failure")
	if _, err := os.Stat(data(one, "unsent")); err == nil {
		t.Error("the old owner's last words are still there")
	}

	c.bringHome(t)
	c.mirrored(t, lab.Serv1, control.MirrorOut)
	c.mirrored(t, lab.Serv2, control.MirrorIn)
	must(t, os.WriteFile(data(one, "mail"), []byte("at home again"), 0o600))
	same("mail", "at home again")
}
