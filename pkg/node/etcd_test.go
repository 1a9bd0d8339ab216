// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/arbiter/etcdtest"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// arbitrated is a cluster at home with an etcd of three members in the client's network.
type arbitrated struct {
	*cluster
	members *etcdtest.Cluster
	wires   []*etcdtest.Wire
}

func newArbitrated(t *testing.T) *arbitrated { return newArbitratedOf(t, 2, lab.Scene{}) }

func newArbitratedOf(t *testing.T, nodes int, s lab.Scene) *arbitrated {
	c := newClusterOf(t, nodes, lab.Scene{})
	a := &arbitrated{cluster: c, members: etcdtest.Start(t, nil)}
	var endpoints []string
	for _, member := range a.members.Endpoints() {
		var l net.Listener
		must(t, c.Do(lab.Client, func() (err error) {
			l, err = net.Listen("tcp", "192.0.2.100:0")
			return err
		}))
		a.wires = append(a.wires, etcdtest.NewWire(t, l, member))
		endpoints = append(endpoints, fmt.Sprintf("%q", "http://"+l.Addr().String()))
	}
	// The members run in this process, which is busy with the faults: their answers need room.
	s.Probe, s.DeadAfter, s.Etcd = "10ms", "500ms", strings.Join(endpoints, ", ")
	must(t, c.WriteConfig(s))
	for _, n := range c.Nodes {
		must(t, n.Start())
	}
	c.bringHome(t)
	a.awaitEtcd(t, true)
	return a
}

// cut takes so many members' wires away from both nodes; 0: all are there.
func (a *arbitrated) cut(t *testing.T, n int) {
	t.Helper()
	for i, w := range a.wires {
		w.Cut(i < n)
	}
	a.awaitEtcd(t, n < len(a.wires))
}

func (a *arbitrated) awaitEtcd(t *testing.T, reached bool) {
	t.Helper()
	for _, n := range a.Nodes {
		await(t, fmt.Sprintf("%s reaches etcd: %v", n.Name, reached), func() error {
			s, err := a.status(n.Name)
			if err == nil && (s.Arbiter.Kind != "etcd" || s.Arbiter.Etcd == nil || s.Arbiter.Etcd.Reached != reached || s.Arbiter.Satisfied != reached) {
				err = fmt.Errorf("its arbiter: %+v %+v", s.Arbiter, s.Arbiter.Etcd)
			}
			return err
		})
	}
}

// gates tells whether a node's gates are as they should be.
func (a *arbitrated) gates(node string, open map[string]bool) error {
	s, err := a.status(node)
	if err != nil {
		return err
	}
	for name, want := range open {
		id, err := identity(s, name)
		if err != nil {
			return err
		}
		if (id.Gate == control.GateOpen) != want {
			return fmt.Errorf("%s has the gate of %s %s: %s", node, name, id.Gate, id.Reason)
		}
	}
	return nil
}

func (a *arbitrated) inject(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	within(t, func(ctx context.Context) error { _, err := a.Inject(ctx, kind, id); return err })
}

func (a *arbitrated) heal(t *testing.T, kind lab.Fault, id lab.Identity) {
	t.Helper()
	within(t, func(ctx context.Context) error { return a.Heal(ctx, kind, id) })
}

func TestEtcdDecidesWhoServes(t *testing.T) {
	a := newArbitrated(t)
	for _, s := range []struct {
		name string
		test func(*testing.T, *arbitrated)
	}{
		{"without etcd nothing happens while both nodes are up", withoutEtcdNothingHappens},
		{"a standby's death costs the owner nothing", standbyDeathCostsNothing},
		{"a dead owner's identity is taken", deadOwnersIdentityIsTaken},
		{"cut off from each other each keeps what it has", cutOffEachKeepsItsOwn},
		{"cut off from each other and from etcd nobody serves, until etcd is back", cutOffFromAllNobodyServes},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			a.bringHome(t)
			s.test(t, a)
		}) {
			a.logs(t)
		}
	}
}

func withoutEtcdNothingHappens(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1, lab.Serv2)
	since := a.lastEvent(t, lab.Serv1)
	a.members.Stop(0, 1)
	a.awaitEtcd(t, false)
	must(t, a.settled(atHome))
	a.awaitEvent(t, lab.Serv1, since, "etcd-lost", "a majority of its members")
	a.members.Start(0, 1)
	a.awaitEtcd(t, true)
	w.endLossless()
}

func standbyDeathCostsNothing(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1)
	before := a.generation(t, lab.Serv1, "files")
	a.inject(t, lab.FaultPower, mail)
	await(t, "serv1 owns everything", func() error { return a.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	if after := a.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	a.heal(t, lab.FaultPower, mail)
	a.awaitSettled(t, everythingOn(lab.Serv1))
	w.endLossless()
}

func deadOwnersIdentityIsTaken(t *testing.T, a *arbitrated) {
	w := fail(t, a.cluster, lab.FaultPower)
	s := a.mustStatus(t, lab.Serv2)
	for _, k := range s.Arbiter.Etcd.Keys {
		id, err := identity(s, k.Identity)
		must(t, err)
		if k.LeftUS <= 0 || k.Holder != lab.Serv2 || k.Generation != id.Generation {
			t.Errorf("the key of %s: %+v, the identity: %+v", k.Identity, k, id)
		}
	}
	a.heal(t, lab.FaultPower, files)
	a.awaitSettled(t, everythingOn(lab.Serv2))
	await(t, "the keys are given up when both nodes are up", func() error {
		for _, k := range a.mustStatus(t, lab.Serv2).Arbiter.Etcd.Keys {
			if k.Holder != "" || k.LeftUS != 0 {
				return fmt.Errorf("key %+v", k)
			}
		}
		return nil
	})
	w.end()
}

func cutOffEachKeepsItsOwn(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1, lab.Serv2)
	own := map[string]map[string]bool{lab.Serv1: {"files": true, "mail": false}, lab.Serv2: {"files": false, "mail": true}}
	a.inject(t, lab.FaultPartition, files)
	for node, open := range own {
		await(t, node+" holds its key, and its peer is dead", func() error {
			s, err := a.status(node)
			if err == nil && s.Peer.State != control.PeerDead {
				err = fmt.Errorf("its peer is %s", s.Peer.State)
			}
			if err == nil {
				err = a.gates(node, open)
			}
			return err
		})
	}
	stays(t, "each serves its own alone, for longer than a lease", 5*time.Second, func() error {
		for node, open := range own {
			if err := a.gates(node, open); err != nil {
				return err
			}
		}
		return nil
	})
	a.heal(t, lab.FaultPartition, files)
	a.awaitSettled(t, atHome)
	w.endLossless()
}

func cutOffFromAllNobodyServes(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1, lab.Serv2)
	nobody := map[string]bool{"files": false, "mail": false}
	a.inject(t, lab.FaultPartition, files)
	a.cut(t, 3)
	for _, n := range a.Nodes {
		await(t, n.Name+" closes its gates", func() error { return a.gates(n.Name, nobody) })
	}
	stays(t, "nobody serves", time.Second, func() error {
		for _, n := range a.Nodes {
			if err := a.gates(n.Name, nobody); err != nil {
				return err
			}
		}
		return nil
	})
	a.cut(t, 0)
	await(t, "one of both serves files again", func() error {
		if e1, e2 := a.gates(lab.Serv1, map[string]bool{"files": true}), a.gates(lab.Serv2, map[string]bool{"files": true}); e1 != nil && e2 != nil {
			return fmt.Errorf("%w; %w", e1, e2)
		}
		return nil
	})
	a.heal(t, lab.FaultPartition, files)
	await(t, "both nodes agree again", func() error {
		s, err := a.status(lab.Serv1)
		if err != nil {
			return err
		}
		owners := map[string]string{}
		for _, id := range s.Identities {
			owners[id.Name] = id.Owner
		}
		return a.settled(owners)
	})
	w.end()
}
