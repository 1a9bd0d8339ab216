// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
)

func newLabOf(t *testing.T, nodes int) *Lab {
	t.Helper()
	needRoot(t)
	l, err := New(t.Context(), Options{Nodes: nodes, root: labRoot(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// address is a node's on a link, without its network.
func address(of string, link Role) string {
	a := lanAddress(numberOf(of))
	if link == Crossover {
		a = crossAddress(numberOf(of))
	}
	return a[:len(a)-len("/24")]
}

// reaches compares who answers whom, by LAN and crossover, with who should.
func reaches(t *testing.T, l *Lab, when string, want func(from, to string) bool) {
	t.Helper()
	for _, from := range l.Nodes {
		for _, to := range l.Nodes {
			for _, link := range []Role{LAN, Crossover} {
				ttl := 0
				if want(from.Name, to.Name) {
					ttl = to.ttl()
				}
				if from == to {
					continue
				}
				if got := ping(t, l, from.Name, address(to.Name, link), uint8(ttl)); int(got) != ttl {
					t.Errorf("%s: %s asks %s by %s: answered with TTL %d, want %d", when, from.Name, to.Name, link, got, ttl)
				}
			}
		}
	}
}

func everybody(string, string) bool { return true }

func TestTheNodesOfALabOfManyReachEachOtherOnEachLink(t *testing.T) {
	l := newLabOf(t, 5)
	reaches(t, l, "built", everybody)
	for _, n := range l.Nodes {
		if got := ping(t, l, Client, address(n.Name, LAN), uint8(n.ttl())); int(got) != n.ttl() || nodeByTTL(got) != n.Name {
			t.Errorf("the client asks %s: answered with TTL %d", n.Name, got)
		}
		if got := ping(t, l, n.Name, "192.0.2.54", 64); got != 64 {
			t.Errorf("%s asks a host: answered with TTL %d", n.Name, got)
		}
	}
	for _, from := range l.Nodes { // spare NICs have no address
		heard := map[string]*Capture{}
		for _, to := range l.Nodes {
			if to != from {
				c, err := l.Capture(to.Name, "eth2")
				must(t, err)
				heard[to.Name] = c
			}
		}
		arp(t, l, from.Name, "eth2")
		p, err := l.FindPort(from.Name, Spare)
		must(t, err)
		for to, c := range heard {
			awaitFrame(t, c, to+" hears the spare NIC of "+from.Name, func(f Frame) bool { return !f.Outgoing && sameMAC(f.Src, [6]byte(nicMAC(p))) })
			_, err := c.Stop()
			must(t, err)
		}
	}
}

func awaitFrame(t *testing.T, c *Capture, what string, want func(Frame) bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		frames, more := c.Frames()
		if slices.ContainsFunc(frames, want) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

func TestAnyNodeOfManyIsPartedFromAnyOther(t *testing.T) {
	l := newLabOf(t, 4)
	reaches(t, l, "built", everybody) // all know each other's MAC: they ask once a second for one that they do not
	must(t, l.Part(Serv2, Serv4))
	reaches(t, l, "two are parted", func(from, to string) bool {
		return !(from == Serv2 && to == Serv4 || from == Serv4 && to == Serv2)
	})
	third := Identity{Name: "files", Home: Serv3}
	_, err := l.Inject(t.Context(), FaultPartition, third)
	must(t, err)
	must(t, l.Join(Serv4, Serv2))
	reaches(t, l, "one is parted from all", func(from, to string) bool { return from != Serv3 && to != Serv3 })
	if got := ping(t, l, Client, address(Serv3, LAN), TTLServ1+2); int(got) != l.Node(Serv3).ttl() {
		t.Errorf("the client asks the one that is parted: answered with TTL %d", got)
	}
	must(t, l.Heal(t.Context(), FaultPartition, third))
	reaches(t, l, "healed", everybody)
	if err := l.Part(Serv1, Serv5); err == nil {
		t.Error("parted from a node that is not there")
	}
}

func TestAFurtherNodeBreaksAndHealsAndTheOthersDoNot(t *testing.T) {
	l := newLabOf(t, 3)
	third := Identity{Name: "files", Home: Serv3}
	for _, c := range []struct {
		kind Fault
		cut  []Role
	}{
		{FaultPower, []Role{Crossover, LAN, Spare}}, {FaultHang, []Role{Crossover, LAN, Spare}}, {FaultCrossover, []Role{Crossover}}, {FaultLAN, []Role{LAN}},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			_, err := l.Inject(t.Context(), c.kind, third)
			must(t, err)
			for _, p := range l.ports {
				if !p.Server() {
					continue
				}
				want := p.Node != Serv3 || !slices.Contains(c.cut, p.Role)
				if out, in := passes(t, l, p, want); out != want || in != want {
					t.Errorf("%s while broken: out %v, in %v, want %v", p.Name(), out, in, want)
				}
			}
			must(t, l.Heal(t.Context(), c.kind, third))
			if got := ping(t, l, Client, address(Serv3, LAN), TTLServ1+2); int(got) != TTLServ1+2 {
				t.Errorf("healed, serv3 answers with TTL %d", got)
			}
		})
	}
}

func TestTheConfigurationOfManyNodesIsAGoodOne(t *testing.T) {
	l := &Lab{Dir: t.TempDir(), opt: Options{Nodes: 4}}
	must(t, os.Mkdir(filepath.Join(l.Dir, "services"), 0o700))
	must(t, l.WriteConfig(Scene{Etcd: `"http://127.0.0.1:2379"`, Prefer: map[string]string{"files": "serv4, serv2"}}))
	for self := range 4 {
		c, err := config.Load(l.ConfigPath(), config.Options{Node: server(self)})
		must(t, err)
		if c.Self != self || len(c.Nodes) != 4 || c.Nodes[3].LanAddr.String() != "192.0.2.14/24" || c.Nodes[2].CrossAddr.String() != "192.168.111.3/24" || c.Nodes[3].Spare != "eth2" {
			t.Errorf("as %s: %+v", server(self), c.Nodes)
		}
		if files, mail := c.Identities[0].Prefer, c.Identities[1].Prefer; !slices.Equal(files, []int{0, 3, 1}) || !slices.Equal(mail, []int{1, 0, 2, 3}) {
			t.Errorf("as %s: files is taken by %v, mail by %v", server(self), files, mail)
		}
	}
}

func TestALabHasRoomForSoMany(t *testing.T) {
	if _, err := New(t.Context(), Options{Nodes: MaxNodes + 1}); err == nil {
		t.Error("more than fit")
	}
	numbers := map[int]bool{}
	for _, p := range portsOfMany(MaxNodes) {
		if numbers[p.Number] || p.Number >= loader.LabPorts {
			t.Errorf("%s has number %d", p.Name(), p.Number)
		}
		numbers[p.Number] = true
	}
	for i := range MaxNodes {
		lan, err := findPort(portsOfMany(MaxNodes), server(i), LAN)
		must(t, err)
		spare, err := findPort(portsOfMany(MaxNodes), server(i), Spare)
		must(t, err)
		if first := i%2 == 0; (lan.Switch == Sw1) != first || (spare.Switch == Sw1) == first {
			t.Errorf("%s is by its LAN on %s, by its spare NIC on %s", server(i), lan.Switch, spare.Switch)
		}
	}
}
