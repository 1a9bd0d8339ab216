// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// patientLease is for tests in which no daemon is stopped: one that does not come to run, on a machine
// that compiles beside it, is none that is lost.
const patientLease = "10s"

// TestTheArticle shows what the system of 1999 did, by the numbers of ctl/article_test.go, which
// says where the others are shown.
func TestTheArticle(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: patientLease})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"L1 two nodes, each home to half of the services, take over from each other", eachTakesOver},
		{"L3 L4 what suits running twice runs on both nodes, the rest on its owner alone", onceOrTwice},
		{"L5 the addresses of both nodes answer with either of them dead", bothAddressesAnswer},
		{"L10 the node that reaches fewer hosts serves no more", whoReachesFewerStops},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

func (c *cluster) breaks(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, kind, id); return err })
}

func (c *cluster) heal(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	within(t, func(ctx context.Context) error { return c.Heal(ctx, kind, id) })
}

// answered returns when a node answers at both identities' addresses.
func (c *cluster) answered(t *testing.T, by string) {
	t.Helper()
	for _, id := range lab.Identities {
		within(t, func(ctx context.Context) error {
			p, err := c.StartProber(ctx, id.Addr, lab.ProbeOptions{})
			if err != nil {
				return err
			}
			defer p.Stop()
			return p.AwaitAnswer(ctx, by, lab.NowNs())
		})
	}
}

func eachTakesOver(t *testing.T, c *cluster) {
	for _, id := range lab.Identities {
		other := c.Peer(id.Home).Name
		c.breaks(t, lab.FaultPower, id)
		await(t, other+" runs everything", func() error { return c.serves(other, everythingOn(other)) })
		c.heal(t, lab.FaultPower, id)
		c.awaitSettled(t, everythingOn(other))
		c.bringHome(t)
	}
}

func onceOrTwice(t *testing.T, c *cluster) {
	runs := func(service string) (on []string) {
		for _, n := range c.Nodes {
			if n.ServiceRuns(service) {
				on = append(on, n.Name)
			}
		}
		return on
	}
	both := []string{lab.Serv1, lab.Serv2}
	for _, owner := range []string{lab.Serv1, lab.Serv2, lab.Serv1} {
		c.handOver(t, lab.Serv1, "files", owner)
		c.awaitSettled(t, map[string]string{"files": owner, "mail": lab.Serv2})
		for service, want := range map[string][]string{"filesd": {owner}, "maild": {lab.Serv2}, "dns": both} {
			if on := runs(service); !slices.Equal(on, want) {
				t.Errorf("with files on %s, %s runs on %v, not on %v", owner, service, on, want)
			}
		}
	}
}

func bothAddressesAnswer(t *testing.T, c *cluster) {
	for _, id := range lab.Identities {
		c.breaks(t, lab.FaultPower, id)
		c.answered(t, c.Peer(id.Home).Name)
		c.heal(t, lab.FaultPower, id)
		c.bringHome(t)
	}
}

func whoReachesFewerStops(t *testing.T, c *cluster) {
	w := c.watch(t, files)
	c.breaks(t, lab.FaultIsolate, files)
	w.awaitAnswerBy(lab.Serv2)
	await(t, "serv1, cut off, serves nothing", func() error {
		for _, id := range c.mustStatus(t, lab.Serv1).Identities {
			if id.Gate != "closed" {
				return fmt.Errorf("the gate of %s is %s", id.Name, id.Gate)
			}
		}
		return nil
	})
	c.heal(t, lab.FaultIsolate, files)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.end()
}

// configured is a cluster at home in a configuration of which something is replaced.
func configured(t *testing.T, home map[string]string, s lab.Scene, replace ...string) *cluster {
	t.Helper()
	s.Profile, s.SupervisorLease = "cautious", patientLease
	c := newCluster(t, s)
	b, err := os.ReadFile(c.edited(t, replace...))
	must(t, err)
	must(t, os.WriteFile(c.ConfigPath(), b, 0o600))
	for _, n := range c.Nodes {
		must(t, n.Start())
	}
	c.awaitSettled(t, home)
	return c
}

func TestL6AHotStandbyIsOneNodeThatIsHomeToAll(t *testing.T) {
	c := configured(t, everythingOn(lab.Serv1), lab.Scene{}, "home: serv2", "home: serv1")
	c.breaks(t, lab.FaultPower, files)
	await(t, "serv2 runs everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	c.answered(t, lab.Serv2)
	c.heal(t, lab.FaultPower, files)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	within(t, func(ctx context.Context) error { return c.api[lab.Serv1].Giveback(ctx, "") })
	c.awaitSettled(t, everythingOn(lab.Serv1))
}

func TestL12ANodeThatComesBackIsHeldUntilItIsLetGoByHand(t *testing.T) {
	c := configured(t, atHome, lab.Scene{}, "cluster: lab\n", "cluster: lab\nhold: manual\n")
	c.breaks(t, lab.FaultPower, files)
	await(t, "serv2 runs everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	c.heal(t, lab.FaultPower, files)
	await(t, "serv1 is back and held", func() error {
		s, err := c.status(lab.Serv1)
		if err == nil && !s.Standby {
			err = fmt.Errorf("it is not in standby, its peer is %s", s.Peer.State)
		}
		return err
	})
	if err := c.api[lab.Serv2].Move(t.Context(), "files", lab.Serv1, false); !errors.Is(err, control.ErrRefused) {
		t.Errorf("an order to move an identity to a node that is held was answered with: %v", err)
	}
	must(t, c.serves(lab.Serv2, everythingOn(lab.Serv2)))
	within(t, func(ctx context.Context) error { return c.api[lab.Serv1].Standby(ctx, false) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	c.bringHome(t)
}
