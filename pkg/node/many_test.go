// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Three nodes, the third home to nothing: it comes first for files, and last for mail.
func TestThreeNodesStandInForEachOther(t *testing.T) {
	a := newArbitratedOf(t, 3, lab.Scene{Prefer: map[string]string{"files": "serv3, serv2", "mail": "serv1, serv3"}})
	for _, s := range []struct {
		name string
		test func(*testing.T, *arbitrated)
	}{
		{"a standby's death costs the owners nothing", oneOfThreeDies},
		{"the next in order takes over, and the next one after it", nodesDieInTurn},
		{"two that do not hear each other, with a third that hears both, change nothing", twoOfThreeArePartedFromEachOther},
		{"without their crossovers and the trunk all hear each other across, and nothing changes", threeHearEachOtherAcross},
		{"an idle client notices its server's death, whoever takes over", idleClientOfThree},
		{"an identity goes where it is told to go", movedAmongThree},
		{"one that is cut off from all keeps nothing, and takes nothing", oneOfThreeIsCutOff},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			a.bringHome(t)
			s.test(t, a)
		}) {
			a.logs(t)
		}
	}
}

// third is what a fault needs to break serv3.
var third = lab.Identity{Home: lab.Serv3}

func (a *arbitrated) awaitOwners(t *testing.T, owners map[string]string, nodes ...string) {
	t.Helper()
	for _, n := range nodes {
		await(t, fmt.Sprintf("%s knows the owners %v", n, owners), func() error { return a.serves(n, owners) })
	}
}

func oneOfThreeDies(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1)
	before := a.generation(t, lab.Serv1, "files")
	a.inject(t, lab.FaultPower, third)
	for _, n := range []string{lab.Serv1, lab.Serv2} {
		await(t, n+" holds the keys of what it owns", func() error {
			for _, k := range a.mustStatus(t, n).Arbiter.Etcd.Keys {
				if atHome[k.Identity] == n && k.LeftUS == 0 {
					return fmt.Errorf("%+v", k)
				}
			}
			return nil
		})
	}
	a.heal(t, lab.FaultPower, third)
	a.awaitSettled(t, atHome)
	if after := a.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.endLossless()
}

func nodesDieInTurn(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv3)
	a.inject(t, lab.FaultPower, files)
	w.awaitAnswerBy(lab.Serv3)
	a.awaitOwners(t, map[string]string{"files": lab.Serv3, "mail": lab.Serv2}, lab.Serv2, lab.Serv3)
	w.end()
	w = a.watch(t, files, lab.Serv2)
	a.inject(t, lab.FaultPower, third)
	w.awaitAnswerBy(lab.Serv2)
	a.awaitOwners(t, everythingOn(lab.Serv2), lab.Serv2)
	w.end()
	a.heal(t, lab.FaultPower, third)
	a.heal(t, lab.FaultPower, files)
	a.awaitSettled(t, everythingOn(lab.Serv2))
}

// All candidates know of the connections, and a node that has taken over tells the others of its own.
func idleClientOfThree(t *testing.T, a *arbitrated) {
	a.greets(t, lab.Serv1, lab.Serv2, lab.Serv3)
	clients := a.idleAtHome(t)
	a.knowClients(t, len(clients), lab.Serv1, lab.Serv2, lab.Serv3)
	a.inject(t, lab.FaultPower, files)
	a.noticed(t, lab.Serv3, clients)
	clients = append(clients, a.idle(t, files.Addr))
	a.knowClients(t, len(clients), lab.Serv2, lab.Serv3)
	a.heal(t, lab.FaultPower, files)
}

func twoOfThreeArePartedFromEachOther(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1)
	before := a.generation(t, lab.Serv1, "files")
	must(t, a.Part(lab.Serv1, lab.Serv2))
	stays(t, "files stays at serv1, and mail at serv2, for longer than a lease", 5*time.Second, func() error {
		for _, n := range a.Nodes {
			s, err := a.status(n.Name)
			if err != nil {
				return err
			}
			for _, id := range s.Identities {
				if id.Owner != "" && id.Owner != atHome[id.Name] {
					return fmt.Errorf("%s says that %s owns %s", n.Name, id.Owner, id.Name)
				}
			}
		}
		return nil
	})
	must(t, a.Join(lab.Serv1, lab.Serv2))
	a.awaitSettled(t, atHome)
	if after := a.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.endLossless()
}

func threeHearEachOtherAcross(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv1)
	before := a.generation(t, lab.Serv1, "files")
	since := map[string]uint64{}
	for _, n := range a.Nodes {
		since[n.Name] = a.lastEvent(t, n.Name)
		must(t, a.Cut(n.Name, lab.Crossover))
	}
	a.inject(t, lab.FaultTrunk, files)
	stays(t, "all are up, and own what they did", 2*time.Second, func() error {
		for _, n := range a.Nodes {
			s, err := a.status(n.Name)
			if err != nil {
				return err
			}
			for _, p := range s.Peers {
				if p.State != control.PeerUp {
					return fmt.Errorf("%s sees %s %s", n.Name, p.Name, p.State)
				}
			}
			if a.hasTold(t, n.Name, since[n.Name], "dead") {
				return fmt.Errorf("%s called a peer dead", n.Name)
			}
			for _, id := range s.Identities {
				if id.Owner != atHome[id.Name] {
					return fmt.Errorf("%s says that %q owns %s", n.Name, id.Owner, id.Name)
				}
			}
		}
		return nil
	})
	a.heal(t, lab.FaultTrunk, files)
	for _, n := range a.Nodes {
		must(t, a.Mend(n.Name, lab.Crossover))
	}
	a.awaitSettled(t, atHome)
	if after := a.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.endLossless()
}

func movedAmongThree(t *testing.T, a *arbitrated) {
	for _, m := range []struct{ at, to string }{
		{lab.Serv1, lab.Serv2}, // past the one that comes first
		{lab.Serv3, lab.Serv3}, // by order of who shall have it
		{lab.Serv3, lab.Serv1},
	} {
		w := a.watch(t, files)
		a.handOver(t, m.at, "files", m.to)
		a.awaitSettled(t, map[string]string{"files": m.to, "mail": lab.Serv2})
		if sum := w.end(); sum.After != m.to {
			t.Errorf("moved to %s, %s answers", m.to, sum.After)
		}
	}
	err := a.api[lab.Serv3].Move(t.Context(), "files", lab.Serv2, false)
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), lab.Serv1) {
		t.Errorf("an order given on who neither has it nor shall have it: %v", err)
	}
}

func oneOfThreeIsCutOff(t *testing.T, a *arbitrated) {
	w := a.watch(t, files, lab.Serv3)
	for _, r := range []lab.Role{lab.Crossover, lab.LAN, lab.Spare} {
		must(t, a.Cut(lab.Serv1, r)) // and from etcd, which is in the clients' network
	}
	w.awaitAnswerBy(lab.Serv3)
	a.awaitOwners(t, map[string]string{"files": lab.Serv3, "mail": lab.Serv2}, lab.Serv2, lab.Serv3)
	for _, r := range []lab.Role{lab.Crossover, lab.LAN, lab.Spare} {
		must(t, a.Mend(lab.Serv1, r))
	}
	a.awaitSettled(t, map[string]string{"files": lab.Serv3, "mail": lab.Serv2})
	w.end()
}
