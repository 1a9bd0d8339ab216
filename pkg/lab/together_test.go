// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// eventually fails if something does not come true in a time that no machine needs.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func inject(t *testing.T, l *Lab, kind Fault, id Identity) {
	t.Helper()
	_, err := l.Inject(t.Context(), kind, id)
	must(t, err)
}

func heal(t *testing.T, l *Lab, kind Fault, id Identity) {
	t.Helper()
	must(t, l.Heal(t.Context(), kind, id))
}

// broken are the names of the cables that are cut, and of those without a carrier.
func broken(t *testing.T, l *Lab) (cut, dark []string) {
	t.Helper()
	for _, p := range Ports {
		word, err := l.Cables().Cuts(cutIndex[p.Node])
		must(t, err)
		if word&(1<<p.Role) != 0 {
			cut = append(cut, p.Name())
		}
		link, err := l.space(p.Switch).nl.LinkByIndex(p.Number)
		must(t, err)
		if link.Attrs().RawFlags&unix.IFF_UP == 0 {
			dark = append(dark, p.Name())
		}
	}
	return cut, dark
}

func TestWhatOneFaultHoldsIsNotMendedByTheEndOfAnother(t *testing.T) {
	l := newLab(t)
	all := []string{"serv1-lan", "serv1-crossover", "serv1-spare"}
	for _, c := range []struct {
		first, second Fault
		at            Identity // the second's home; the first is at serv1
		cut, dark     []string // after the first was healed
	}{
		{FaultHang, FaultLAN, Identities[0], all[:1], all[:1]},
		{FaultLAN, FaultHang, Identities[0], all, nil},
		{FaultIsolate, FaultCrossover, Identities[1], []string{"serv1-crossover", "serv2-crossover"}, []string{"serv1-crossover", "serv2-crossover"}},
		{FaultPower, FaultLAN, Identities[0], all[:1], all[:1]},
		{FaultPower, FaultPanic, Identities[0], all, nil},
		{FaultSwitch, FaultTrunk, Identities[1], []string{"trunk"}, []string{"trunk"}},
		{FaultTrunk, FaultSwitch, Identities[0], []string{"serv1-lan", "serv2-spare", "client", "hosts1", "trunk"}, []string{"serv1-lan", "serv2-spare", "client", "hosts1", "trunk"}},
	} {
		name := string(c.first) + " and " + string(c.second)
		inject(t, l, c.first, Identities[0])
		inject(t, l, c.second, c.at)
		heal(t, l, c.first, Identities[0])
		cut, dark := broken(t, l)
		if diff := cmp.Diff([][]string{c.cut, c.dark}, [][]string{cut, dark}); diff != "" {
			t.Errorf("%s, the first one healed (-want +got):\n%s", name, diff)
		}
		heal(t, l, c.second, c.at)
		if cut, dark := broken(t, l); cut != nil || dark != nil {
			t.Errorf("%s, both healed: cut %v, dark %v", name, cut, dark)
		}
	}
}

func TestADaemonRunsWhenNoFaultIsAgainstIt(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv1)
	startTicking(t, n)
	id := Identities[0]
	inject(t, l, FaultDaemonKill, id)
	inject(t, l, FaultPower, id)
	if _, err := l.Inject(t.Context(), FaultDaemonStop, id); !errors.Is(err, ErrNothingToBreak) {
		t.Errorf("a daemon that does not run was stopped: %v", err)
	}
	heal(t, l, FaultDaemonKill, id)
	if n.Alive() {
		t.Error("it runs on a node without power")
	}
	heal(t, l, FaultPower, id)
	awaitBeats(t, n)

	inject(t, l, FaultPause, id)
	inject(t, l, FaultPanic, id)
	heal(t, l, FaultPause, id)
	standsStill(t, n)
	heal(t, l, FaultPanic, id)
	awaitBeats(t, n)

	inject(t, l, FaultReboot, id) // a shell ends at once, and its child with the namespace
	eventually(t, "the daemon leaves", func() bool { return !n.Alive() })
	heal(t, l, FaultReboot, id)
	awaitBeats(t, n)
}

func TestBothNodesBootTogether(t *testing.T) {
	l := newLab(t)
	for _, n := range l.Nodes {
		startTicking(t, n)
	}
	inject(t, l, FaultBootBoth, Identities[1])
	for _, n := range l.Nodes {
		eventually(t, n.Name+" ends", func() bool { return !n.Alive() })
	}
	heal(t, l, FaultBootBoth, Identities[1])
	for _, n := range l.Nodes {
		awaitBeats(t, n)
	}
}

// state is the letter that the kernel has for what a node's daemon does: T is stopped.
func state(t *testing.T, n *Node) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(n.PID()) + "/stat")
	must(t, err)
	_, after, _ := strings.Cut(string(b), ") ")
	return after[:1]
}

func TestAStarvedDaemonRunsNowAndThen(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv1)
	startTicking(t, n)
	inject(t, l, FaultDaemonSlow, Identities[0])
	for range 2 {
		eventually(t, "it stands", func() bool { return state(t, n) == "T" })
		eventually(t, "it runs", func() bool { return state(t, n) != "T" })
	}
	inject(t, l, FaultDaemonStop, Identities[0])
	heal(t, l, FaultDaemonSlow, Identities[0])
	eventually(t, "it stays stopped by the other fault", func() bool { return state(t, n) == "T" })
	heal(t, l, FaultDaemonStop, Identities[0])
	awaitBeats(t, n)
}

func TestAServiceInACrashLoopFailsAgain(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv1)
	inject(t, l, FaultCrashLoop, Identities[0])
	for range 2 {
		must(t, os.WriteFile(n.serviceFile("filesd"), nil, 0o600))
		eventually(t, "it fails", func() bool { return !n.ServiceRuns("filesd") })
	}
	heal(t, l, FaultCrashLoop, Identities[0])
	must(t, os.WriteFile(n.serviceFile("filesd"), nil, 0o600))
	inject(t, l, FaultCrashLoop, Identities[1]) // of another node: it has looked twice when its own failed
	must(t, os.WriteFile(l.Node(Serv2).serviceFile("maild"), nil, 0o600))
	eventually(t, "the other one fails", func() bool { return !l.Node(Serv2).ServiceRuns("maild") })
	if !n.ServiceRuns("filesd") {
		t.Error("it fails although the fault is over")
	}
	heal(t, l, FaultCrashLoop, Identities[1])
}

func TestAFlappingCableIsWholeAndBrokenByTurns(t *testing.T) {
	l := newLab(t)
	inject(t, l, FaultFlap, Identities[0])
	for range 2 {
		eventually(t, "it is broken", func() bool { _, dark := broken(t, l); return slices.Equal(dark, []string{"serv1-lan"}) })
		eventually(t, "it is whole", func() bool { cut, dark := broken(t, l); return cut == nil && dark == nil })
	}
	heal(t, l, FaultFlap, Identities[0])
	if cut, dark := broken(t, l); cut != nil || dark != nil {
		t.Errorf("healed: cut %v, dark %v", cut, dark)
	}
}

func TestANICIsTakenDownAndComesBackWithAllThatItHad(t *testing.T) {
	l := newLab(t)
	ping(t, l, Client, "192.0.2.11", TTLServ1) // the client knows the MAC: it asks once a second for one that it does not
	inject(t, l, FaultNIC, Identities[0])
	link, err := l.space(Serv1).nl.LinkByName("eth0")
	must(t, err)
	if link.Attrs().RawFlags&unix.IFF_UP != 0 {
		t.Error("it is up")
	}
	heal(t, l, FaultNIC, Identities[0])
	must(t, l.awaitCarrier(Ports))
	if got := ping(t, l, Client, "192.0.2.11", TTLServ1); got != TTLServ1 {
		t.Errorf("answered with TTL %d", got)
	}
	routes, err := l.space(Serv1).nl.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw != nil && r.Gw.String() == "192.0.2.1" }) {
		t.Errorf("no default route among %v", routes)
	}
}

// between is a frame from serv2's NIC to serv1's, on the LAN.
func between(from, to Port) []byte {
	a := netip.MustParseAddr("192.0.2.12")
	return request([6]byte(nicMAC(to)), [6]byte(nicMAC(from)), a)
}

func lans(t *testing.T) (p1, p2 Port) {
	t.Helper()
	p1, err := FindPort(Serv1, LAN)
	must(t, err)
	p2, err = FindPort(Serv2, LAN)
	must(t, err)
	return p1, p2
}

func TestAnAttackerSendsWhatThePeerHasSent(t *testing.T) {
	l := newLab(t)
	if _, err := l.Inject(t.Context(), FaultReplay, Identities[0]); !errors.Is(err, ErrNothingToBreak) {
		t.Fatalf("with nothing recorded: %v", err)
	}
	p1, p2 := lans(t)
	original := between(p2, p1)
	recorded := make(chan struct{})
	go func() { // until it was recorded
		defer close(recorded)
		for range 40 {
			send(t, l, Serv2, "eth0", original)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	inject(t, l, FaultReplay, Identities[0])
	<-recorded
	heard, err := l.LastingSilence(Serv1, Serv2)
	must(t, err)
	for _, kind := range []Fault{FaultReplay, FaultForge, FaultFlood} {
		if kind != FaultReplay {
			inject(t, l, kind, Identities[0])
		}
		c, err := l.Capture(Serv1, "eth0")
		must(t, err)
		eventually(t, string(kind)+" reaches the node", func() bool {
			frames, _ := c.Frames()
			return slices.ContainsFunc(frames, func(f Frame) bool {
				return spoiled(f.Raw, original) == map[Fault]int{FaultReplay: 0, FaultForge: 1, FaultFlood: 1}[kind]
			})
		})
		_, err = c.Stop()
		must(t, err)
		heal(t, l, kind, Identities[0])
	}
	if now, err := l.LastingSilence(Serv1, Serv2); err != nil || now != heard {
		t.Errorf("the peer counts as heard: %+v, was %+v, %v", now, heard, err)
	}
}

// spoiled counts the bits in which frames differ; -1: their sizes do.
func spoiled(a, b []byte) (n int) {
	if len(a) != len(b) {
		return -1
	}
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

func TestAForeignHostClaimsAnAddress(t *testing.T) {
	l := newLab(t)
	c, err := l.Capture(Client, "eth0")
	must(t, err)
	inject(t, l, FaultClaim, Identities[1])
	host, err := FindPort(Hosts1, LAN)
	must(t, err)
	for op := range uint16(2) {
		eventually(t, "it is claimed", func() bool {
			frames, _ := c.Frames()
			return slices.ContainsFunc(frames, func(f Frame) bool {
				return f.ARP != nil && f.ARP.Op == op+1 && f.ARP.SenderIP == Identities[1].Addr && bytes.Equal(f.ARP.SenderMAC, nicMAC(host))
			})
		})
	}
	heal(t, l, FaultClaim, Identities[1])
	_, err = c.Stop()
	must(t, err)
}

func TestTheSwitchesKnowForHowLongANodeCouldNotBeHeard(t *testing.T) {
	l := newLab(t)
	must(t, l.Judge(true))
	p1, p2 := lans(t)
	send(t, l, Serv2, "eth0", between(p2, p1))
	eventually(t, "it is heard", func() bool { s, err := l.LastingSilence(Serv1, Serv2); return err == nil && s.FromNs != 0 })
	_, _, err := l.Trail() // what came before
	must(t, err)
	first, err := l.LastingSilence(Serv1, Serv2)
	must(t, err)
	inject(t, l, FaultPartition, Identities[0])
	send(t, l, Serv2, "eth0", between(p2, p1))
	inside := NowNs()
	<-time.After(3 * time.Millisecond) // more than the trail's least
	heal(t, l, FaultPartition, Identities[0])
	send(t, l, Serv2, "eth0", between(p2, p1))
	var all []Silence
	eventually(t, "a silence ends", func() bool {
		_, silences, err := l.Trail()
		must(t, err)
		all = append(all, silences...)
		return len(all) > 0
	})
	if s := all[0]; len(all) != 1 || s.To != Serv1 || s.From != Serv2 || s.FromNs != first.FromNs || s.ToNs <= inside || s.EndedBy != LAN {
		t.Errorf("%+v, began with %+v", all, first)
	}
}

func TestWhoCouldHearWhom(t *testing.T) {
	all := []Silence{{To: Serv1, From: Serv2, FromNs: 10, ToNs: 20}, {To: Serv2, From: Serv1, FromNs: 30}}
	for _, c := range []struct {
		to, from   string
		begin, end int64
		silent     bool
	}{
		{Serv1, Serv2, 11, 19, true}, {Serv1, Serv2, 10, 19, false}, {Serv1, Serv2, 11, 20, false}, {Serv1, Serv2, 5, 30, false},
		{Serv2, Serv1, 31, 1000, true}, {Serv2, Serv1, 29, 31, false}, {Serv1, Hosts2, 11, 19, false},
	} {
		if got := Silent(all, c.to, c.from, c.begin, c.end); got != c.silent {
			t.Errorf("%+v: %v", c, got)
		}
	}
	for at, want := range map[int64]int64{5: 5, 15: 20, 25: 25} {
		if got := HeardAfter(all, Serv1, Serv2, at); got != want {
			t.Errorf("after %d heard at %d, want %d", at, got, want)
		}
	}
	if got := HeardAfter(all, Serv2, Serv1, 40); got != 0 {
		t.Errorf("a silence that lasts ended at %d", got)
	}
}

func TestWhoGainedAnIdentityAgainIsNoSecondOwner(t *testing.T) {
	frames := func(script string) (out []JudgeRecord) { // a and b: serv1 and serv2, a millisecond each
		for i, c := range script {
			p := Port{Node: Serv1}
			if c == 'b' {
				p.Node = Serv2
			}
			if c != '.' {
				out = append(out, JudgeRecord{TNs: int64(i) * 1e6, Port: p})
			}
		}
		return out
	}
	for _, c := range []struct {
		script string
		gains  []Gain
		want   []TwoOwners
	}{
		{"aabb", nil, nil},
		{"aabbabab", nil, []TwoOwners{{Old: Serv1, New: Serv2, FromNs: 2e6, LastNs: 6e6, Frames: 2}}},
		{"aabbaa", []Gain{{Serv1, 3.5e6, 0}}, nil},
		{"aabbabaa", []Gain{{Serv2, 3.5e6, 0}, {Serv1, 1.5e6, 0}, {Serv1, 6e6, 0}}, []TwoOwners{{Old: Serv1, New: Serv2, FromNs: 2e6, LastNs: 4e6, Frames: 1}}},
		{"aabbaa", []Gain{{Serv1, 5.5e6, 2e6}}, nil},
		{"aabbaaba", []Gain{{Serv1, 3.5e6, 0}}, []TwoOwners{{Old: Serv2, New: Serv1, FromNs: 4e6, LastNs: 6e6, Frames: 1}}},
		{"aabaaa", nil, nil},
		{"aabbaaa", []Gain{{Serv1, 5.5e6, 0}}, nil},
		{"aabbaabb", []Gain{{Serv1, 3.5e6, 0}, {Serv2, 5.5e6, 0}}, nil},
	} {
		got := Overlaps(frames(c.script), 0, c.gains)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s with %v (-want +got):\n%s", c.script, c.gains, diff)
		}
	}
}
