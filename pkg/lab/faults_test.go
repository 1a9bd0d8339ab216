// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ticking is a daemon with a child that both write now and then.
var ticking = []string{"/bin/sh", "-c", "(while :; do echo child; sleep 0.005; done) & while :; do echo daemon; sleep 0.005; done"}

// beats returns how often each of the two has written.
func beats(t *testing.T, n *Node) (daemon, child int) {
	t.Helper()
	b, err := os.ReadFile(n.Logs)
	must(t, err)
	return strings.Count(string(b), "daemon"), strings.Count(string(b), "child")
}

func awaitBeats(t *testing.T, n *Node) {
	t.Helper()
	d0, c0 := beats(t, n)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if d, c := beats(t, n); d > d0 && c > c0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not go on", n.Name)
		}
	}
}

// standsStill fails if anything is written within a few of the program's periods.
func standsStill(t *testing.T, n *Node) {
	t.Helper()
	d0, c0 := beats(t, n)
	time.Sleep(50 * time.Millisecond)
	if d, c := beats(t, n); d != d0 || c != c0 {
		t.Errorf("%s goes on: daemon %d and %d, child %d and %d", n.Name, d0, d, c0, c)
	}
}

func startTicking(t *testing.T, n *Node) {
	t.Helper()
	must(t, os.WriteFile(n.Logs, nil, 0o600))
	must(t, n.StartProgram(ticking[0], ticking[1:]...))
	awaitBeats(t, n)
}

func TestAPauseStopsEverythingAndAllOfItGoesOn(t *testing.T) {
	for _, freezer := range []bool{true, false} {
		t.Run(fmt.Sprintf("freezer %v", freezer), func(t *testing.T) {
			l := newLab(t)
			if !freezer {
				must(t, os.Symlink("/proc/none", filepath.Join(l.Dir, cgroupLink)))
			} else if _, err := l.cgroup(Serv1); err != nil {
				t.Skipf("this machine has none: %v", err) // the other half tests what is done then
			}
			n := l.Node(Serv1)
			startTicking(t, n)
			pid := n.cmd.Process.Pid
			ping(t, l, Client, "192.0.2.11", TTLServ1) // the client knows the MAC: it asks once a second for one that it does not
			for range 2 {
				_, err := l.Inject(t.Context(), FaultPause, Identities[0])
				must(t, err)
				standsStill(t, n)
				if got := ping(t, l, Client, "192.0.2.11", 0); got != 0 {
					t.Errorf("a paused node answers with TTL %d", got)
				}
				must(t, l.Heal(t.Context(), FaultPause, Identities[0]))
				awaitBeats(t, n)
				if got := ping(t, l, Client, "192.0.2.11", TTLServ1); got != TTLServ1 || n.cmd.Process.Pid != pid {
					t.Errorf("it went on as process %d, was %d, and answers with TTL %d", n.cmd.Process.Pid, pid, got)
				}
			}
		})
	}
}

func TestAPanicIsForGoodUntilTheNodeBoots(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv2)
	startTicking(t, n)
	pid := n.cmd.Process.Pid
	_, err := l.Inject(t.Context(), FaultPanic, Identities[1])
	must(t, err)
	standsStill(t, n)
	for _, p := range Ports {
		if p.Node != Serv2 {
			continue
		}
		link, err := l.space(Serv2).nl.LinkByName(p.NIC)
		must(t, err)
		if link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
			t.Errorf("%s lost its carrier", p.NIC)
		}
		if out, in := passes(t, l, p, false); out || in {
			t.Errorf("%s passes frames: out %v, in %v", p.Name(), out, in)
		}
	}
	must(t, l.Heal(t.Context(), FaultPanic, Identities[1]))
	awaitBeats(t, n)
	if got := ping(t, l, Client, "192.0.2.12", TTLServ2); got != TTLServ2 || n.cmd.Process.Pid == pid {
		t.Errorf("it booted as process %d, was %d, and answers with TTL %d", n.cmd.Process.Pid, pid, got)
	}
}

func TestAPartitionPartsTheNodesAndNobodyElse(t *testing.T) {
	l := newLab(t)
	for _, to := range []string{"192.0.2.12", "192.168.111.2"} {
		ping(t, l, Serv1, to, TTLServ2) // both know the other's MAC: they ask once a second for one that they do not
	}
	for round := range 2 { // what was learned in the first must not harm
		_, err := l.Inject(t.Context(), FaultPartition, Identities[0])
		must(t, err)
		for _, c := range []struct {
			from, to string
			ttl      uint8
		}{
			{Client, "192.0.2.11", TTLServ1}, {Client, "192.0.2.12", TTLServ2}, {Serv1, "192.0.2.53", 64}, {Serv2, "192.0.2.1", 64},
			{Serv1, "192.0.2.12", 0}, {Serv2, "192.0.2.11", 0}, {Serv1, "192.168.111.2", 0}, {Serv2, "192.168.111.1", 0},
		} {
			if got := ping(t, l, c.from, c.to, c.ttl); got != c.ttl {
				t.Errorf("round %d: %s asks %s: answered with TTL %d, want %d", round, c.from, c.to, got, c.ttl)
			}
		}
		for _, from := range []string{Serv1, Serv2} { // both use the identity's MAC by the second
			if heard := heardByPeer(t, l, from, Identities[0].MAC); heard != 0 {
				t.Errorf("round %d: %d broadcasts of %s with an identity's MAC reached its peer", round, heard, from)
			}
		}
		must(t, l.Heal(t.Context(), FaultPartition, Identities[0]))
		for _, to := range []string{"192.0.2.12", "192.168.111.2"} {
			if got := ping(t, l, Serv1, to, TTLServ2); got != TTLServ2 {
				t.Errorf("round %d: healed, serv1 asks %s: answered with TTL %d", round, to, got)
			}
		}
		if heard := heardByPeer(t, l, Serv1, Identities[0].MAC); heard != 2 {
			t.Errorf("round %d: healed, %d broadcasts reached serv2, want one at each NIC on the LAN", round, heard)
		}
	}
}

// heardByPeer broadcasts from a node with a MAC, then from the client, and counts
// what the other node's LAN and spare NIC heard of the first by the time of the second.
func heardByPeer(t *testing.T, l *Lab, from string, mac [6]byte) (heard int) {
	t.Helper()
	var captures []*Capture
	for _, nic := range []string{"eth0", "eth2"} {
		c, err := l.Capture(l.Peer(from).Name, nic)
		must(t, err)
		captures = append(captures, c)
	}
	all := [6]byte{255, 255, 255, 255, 255, 255}
	marker := [6]byte{0x02, 0x1a, 0xb0, 0xee, 0, 1}
	send(t, l, from, "eth0", request(all, mac, Identities[0].Addr))
	send(t, l, Client, "eth0", request(all, marker, Identities[0].Addr))
	for _, c := range captures {
		deadline := time.After(5 * time.Second)
		for done := false; !done; {
			frames, more := c.Frames()
			n := 0
			for _, f := range frames {
				if !f.Outgoing && sameMAC(f.Src, mac) {
					n++
				}
				done = done || sameMAC(f.Src, marker)
			}
			if done {
				heard += n
				break
			}
			select {
			case <-more:
			case <-deadline:
				t.Fatal("the client's broadcast did not arrive")
			}
		}
		_, err := c.Stop()
		must(t, err)
	}
	return heard
}

func TestAServiceIsFoundFailed(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv2)
	if _, err := l.Inject(t.Context(), FaultService, Identities[1]); err == nil {
		t.Error("a service that does not run was made to fail")
	}
	must(t, os.WriteFile(n.serviceFile("maild"), nil, 0o600))
	_, err := l.Inject(t.Context(), FaultService, Identities[1])
	must(t, err)
	if n.ServiceRuns("maild") {
		t.Error("it still runs")
	}
	must(t, l.Heal(t.Context(), FaultService, Identities[1]))
}

func TestEveryFaultHasAnEnd(t *testing.T) {
	needRoot(t)
	l := newLab(t)
	l.opt.HandOver = nil
	for _, k := range Faults {
		if got, err := ParseFault(string(k)); err != nil || got != k {
			t.Errorf("%s: %v", k, err)
		}
		if err := l.Heal(t.Context(), k, Identities[0]); err != nil { // although nothing has begun
			t.Error(err)
		}
	}
}
