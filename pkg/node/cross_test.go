// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Without the crossover, a trunk or a switch that fails leaves no link on which the nodes hear each
// other, but a lan and a spare NIC on the same switch.
func TestTheNodesHearEachOtherAcross(t *testing.T) {
	c := running(t, lab.Scene{})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"without crossover and trunk nobody is dead and nothing moves", trunkGoneMovesNobody},
		{"without crossover and switch 1 nobody is dead and nobody moves", func(t *testing.T, c *cluster) { switchGone(t, c, files) }},
		{"without crossover and switch 2 nobody is dead and nobody moves", func(t *testing.T, c *cluster) { switchGone(t, c, mail) }},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

// bothBroken breaks the crossover, and then something else, and waits until no link is heard at all.
func (c *cluster) bothBroken(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	for _, k := range []lab.Fault{lab.FaultCrossover, kind} {
		within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, k, id); return err })
	}
	for _, n := range c.Nodes {
		await(t, n.Name+" hears its peer on no link", func() error {
			s, err := c.status(n.Name)
			for _, l := range s.Links {
				if l.Up {
					return fmt.Errorf("it hears it on %s", l.Name)
				}
			}
			return err
		})
	}
}

func (c *cluster) healBoth(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	for _, k := range []lab.Fault{kind, lab.FaultCrossover} {
		within(t, func(ctx context.Context) error { return c.Heal(ctx, k, id) })
	}
}

// peersUp tells whether the nodes see each other alive, and did so all the time since.
func (c *cluster) peersUp(t *testing.T, since map[string]uint64) error {
	for _, n := range c.Nodes {
		s, err := c.status(n.Name)
		if err != nil {
			return err
		}
		if s.Peer.State != control.PeerUp {
			return fmt.Errorf("%s sees its peer %s", n.Name, s.Peer.State)
		}
		if c.hasTold(t, n.Name, since[n.Name], "dead") {
			return fmt.Errorf("%s has called its peer dead", n.Name)
		}
	}
	return nil
}

func trunkGoneMovesNobody(t *testing.T, c *cluster) {
	since, before := c.lastEvents(t), c.generation(t, lab.Serv1, "files")
	w := c.watch(t, files, lab.Serv1)
	c.bothBroken(t, lab.FaultTrunk, files)
	stays(t, "both are up, and what they own", 2*time.Second, func() error {
		for _, n := range c.Nodes {
			if err := c.serves(n.Name, atHome); err != nil {
				return err
			}
		}
		return c.peersUp(t, since)
	})
	c.healBoth(t, lab.FaultTrunk, files)
	c.awaitSettled(t, atHome)
	must(t, c.peersUp(t, since))
	if after := c.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.endLossless()
}

// switchGone: each node has lost a NIC. What it owns it carries by the other one, and both nodes know of
// it across the switch that is left.
func switchGone(t *testing.T, c *cluster, id lab.Identity) {
	since := c.lastEvents(t)
	w := c.watchAt(t, id, atNode(id.Home))
	c.bothBroken(t, lab.FaultSwitch, id)
	stays(t, "both are up", 2*time.Second, func() error { return c.peersUp(t, since) })
	for _, n := range c.Nodes {
		await(t, n.Name+" serves what is at home there", func() error { return c.serves(n.Name, atHome) })
	}
	c.carriedBy(t, id, id.Home, "spare")
	c.healBoth(t, lab.FaultSwitch, id)
	c.carriedBy(t, id, id.Home, "lan")
	w.awaitAnswerBy(id.Home)
	c.awaitSettled(t, atHome)
	must(t, c.peersUp(t, since))
	w.end()
}
