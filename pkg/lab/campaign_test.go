// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fake is a cluster of one identity, files: a macvlan with its MAC and addresses, which
// moves to serv2 when serv1's LAN is cut or its daemon ends, and back to serv1 when asked.
type fake struct {
	t      *testing.T
	l      *Lab
	greedy bool // the old owner is not told

	mu    sync.Mutex
	owner string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	needRoot(t)
	f := &fake{t: t}
	l, err := New(t.Context(), Options{root: labRoot(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), HandOver: func(_ context.Context, n *Node, _ string) error {
		f.move(f.l.Peer(n.Name).Name)
		return nil
	}})
	must(t, err)
	f.l = l
	for _, n := range l.Nodes {
		must(t, n.StartProgram("/bin/sleep", "3600"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() { defer close(watched); f.watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-watched
		must(t, l.Close())
	})
	return f
}

// watch is the takeover: it looks every 2 ms.
func (f *fake) watch(ctx context.Context) {
	for tick := time.Tick(2 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		cuts, err := f.l.Cables().Cuts(cutIndex[Serv1])
		if err == nil && (cuts&(1<<LAN) != 0 || !f.l.Node(Serv1).Alive()) && f.at() == Serv1 {
			f.move(Serv2)
		}
	}
}

func (f *fake) at() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owner
}

// move takes the identity to a node, and announces it.
func (f *fake) move(to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.l.Nodes {
		if link, err := f.l.space(n.Name).nl.LinkByName("vip"); err == nil && (n.Name == to || !f.greedy) {
			_ = f.l.space(n.Name).nl.LinkDel(link)
		}
	}
	nl := f.l.space(to).nl
	lan, err := nl.LinkByName("eth0")
	if err != nil {
		f.t.Error(err)
		return
	}
	for _, own := range []string{"192.0.2.11/24", "192.0.2.12/24", "2001:db8::11/64", "2001:db8::12/64"} {
		a, _ := netlink.ParseAddr(own)
		_ = nl.AddrDel(lan, a) // so that all goes by the identity's own NIC, with its MAC
	}
	id := Identities[0]
	at := upAttrs("vip")
	at.ParentIndex, at.HardwareAddr = lan.Attrs().Index, id.MAC[:]
	err = nl.LinkAdd(&netlink.Macvlan{LinkAttrs: at, Mode: netlink.MACVLAN_MODE_BRIDGE})
	link, err2 := nl.LinkByName("vip")
	err = errors.Join(err, err2)
	for _, s := range []string{id.Addr.String() + "/24", id.Addr6.String() + "/64", "fe80::21/64"} {
		if err == nil {
			a, _ := netlink.ParseAddr(s)
			if a.IP.To4() == nil {
				a.Flags = unix.IFA_F_NODAD
			}
			err = nl.AddrAdd(link, a)
		}
	}
	if err != nil {
		f.t.Errorf("move to %s: %v", to, err)
		return
	}
	speakers := []string{to}
	if f.greedy && f.owner != "" {
		speakers = []string{to, f.owner, to} // the old owner announces itself once more
	}
	for _, who := range speakers {
		send(f.t, f.l, who, "eth0", request([6]byte{255, 255, 255, 255, 255, 255}, id.MAC, id.Addr))
	}
	f.owner = to
}

func (f *fake) plan(kinds ...Fault) CampaignPlan {
	return CampaignPlan{
		Faults: kinds, Identities: Identities[:1], Settle: 50 * time.Millisecond, WarmUp: 50 * time.Millisecond,
		Expect: func(kind Fault, id Identity) string {
			if kind == FaultCrossover || kind == FaultDaemonStop || kind == FaultPartition {
				return id.Home
			}
			return f.l.Peer(id.Home).Name
		},
		Ready: func(context.Context) error {
			if f.at() != Serv1 {
				f.move(Serv1)
			}
			return nil
		},
	}
}

func TestACampaignBreaksOneAfterTheOtherInOneLab(t *testing.T) {
	f := newFake(t)
	kinds := []Fault{FaultHang, FaultPower, FaultPanic, FaultPause, FaultDaemonKill, FaultDaemonStop, FaultHandOver, FaultCrossover, FaultLAN, FaultPartition}
	p := f.plan(kinds...)
	p.Rounds = 16
	for p.Seed = 1; !breaksAll(&p); p.Seed++ {
	}
	var told []Fall
	backs := 0
	p.Each = func(f Fall) { told = append(told, f) }
	p.Back = func(context.Context) error { backs++; return nil }
	falls, err := f.l.Campaign(t.Context(), p)
	must(t, err)
	for i, r := range falls {
		t.Logf("%2d %-12s v%d outage %8v lost %4d stalls %v", r.Round, r.Kind, r.Family, time.Duration(r.OutageNs), r.Lost, time.Duration(r.StalledNs))
		moves := r.Expected != Serv1
		if r.Round != i || r.Node != Serv1 || r.Identity != "files" || r.Family != 4+2*(i%2) {
			t.Errorf("round %d: %+v", i, r)
		}
		if !r.Served || !r.Restored || r.Before != Serv1 || r.After != r.Expected || r.DualAnswers != 0 || moves != (r.Expected == Serv2) {
			t.Errorf("round %d: %+v", i, r)
		}
		if fmt.Sprint(r.Overlaps, r.Returns) != "[0 0] [0 0]" {
			t.Errorf("round %d: overlaps %v, returns %v", i, r.Overlaps, r.Returns)
		}
	}
	if len(falls) != p.Rounds || len(told) != p.Rounds || backs != p.Rounds {
		t.Errorf("%d rounds, %d told, %d times back; want %d", len(falls), len(told), backs, p.Rounds)
	}
}

// breaksAll reports whether every fault of the plan will have its turn.
func breaksAll(p *CampaignPlan) bool {
	seen := map[Fault]bool{}
	for _, c := range p.choices() {
		seen[c.kind] = true
	}
	return len(seen) == len(p.Faults)
}

func TestACampaignSeesTwoOwners(t *testing.T) {
	f := newFake(t)
	f.greedy = true
	p := f.plan(FaultDaemonKill)
	p.Rounds = 1
	falls, err := f.l.Campaign(t.Context(), p)
	must(t, err)
	if r := falls[0]; r.Overlaps[0] == 0 || r.Overlaps[1] != 0 {
		t.Errorf("two owners went unnoticed: %+v", r)
	}
}

func TestWhatMovesBeforeAFaultIsNotServedTwice(t *testing.T) {
	rec := Record{PeriodNs: 1e6, StallNs: 3e6}
	for i := range 40 {
		rec.SentNs = append(rec.SentNs, int64(i)*1e6)
		ttl := uint8(TTLServ1)
		switch {
		case i >= 10 && i < 20, i >= 35: // away and back before the fault at 30 ms, and away again after it
			ttl = TTLServ2
		case i >= 30:
			continue
		}
		rec.Answers = append(rec.Answers, Answer{Seq: uint32(i), TTL: ttl, AtNs: rec.SentNs[i] + 1000})
	}
	f := Fall{Node: Serv1, T0Ns: 29.5e6}
	f.saw(rec)
	if !f.Unasked || f.DualAnswers != 0 || f.OutageNs != 6e6 || f.Lost != 5 || f.Before != Serv1 || f.After != Serv2 {
		t.Errorf("%+v", f)
	}
	rec.Answers = append(rec.Answers, Answer{Seq: 39, TTL: TTLServ1, AtNs: 39e6 + 2000})
	f.saw(rec)
	if f.DualAnswers != 1 {
		t.Errorf("%+v", f)
	}
	f = Fall{Node: Serv1, T0Ns: 5.5e6}
	if f.saw(rec); f.Unasked || f.DualAnswers == 0 {
		t.Errorf("going back to a node after the fault: %+v", f)
	}
}

func TestACampaignGoesOnAfterARoundThatWentWrong(t *testing.T) {
	f := newFake(t)
	p := f.plan(FaultCrossover)
	p.Rounds, p.Patience = 2, 200*time.Millisecond
	p.Expect = func(Fault, Identity) string { return Serv2 }
	falls, err := f.l.Campaign(t.Context(), p)
	must(t, err)
	if len(falls) != 2 || falls[0].Served || falls[0].Why == "" || falls[1].After != Serv1 {
		t.Errorf("%+v", falls)
	}
	broken := errors.New("not ready")
	p.Ready = func(context.Context) error { return broken }
	if falls, err := f.l.Campaign(t.Context(), p); !errors.Is(err, broken) || len(falls) != 0 {
		t.Errorf("%+v, %v", falls, err)
	}
}

func TestACampaignsChoicesFollowFromItsSeed(t *testing.T) {
	p := CampaignPlan{Rounds: 200, Seed: 1, Faults: Faults, Expect: func(Fault, Identity) string { return "" }}
	must(t, p.complete())
	seen := map[string]bool{}
	for _, c := range p.choices() {
		seen[fmt.Sprint(c.kind, c.id.Home, c.family())] = true
	}
	if len(seen) < 40 { // of 11 faults, 2 nodes, 2 families
		t.Errorf("200 rounds had only %d different ones", len(seen))
	}
	q := p
	if !slices.Equal(p.choices(), q.choices()) {
		t.Error("the same seed chose otherwise")
	}
	q.Seed, q.NoIPv6 = 2, true
	if slices.Equal(p.choices(), q.choices()) || slices.ContainsFunc(q.choices(), func(c choice) bool { return c.family() != 4 }) {
		t.Error("another seed chose the same, or IPv6 though it should not")
	}
	for _, bad := range []CampaignPlan{{}, {Rounds: 1, Faults: []Fault{"nonsense"}, Expect: p.Expect}, {Rounds: 1, Faults: Faults}} {
		if err := bad.complete(); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
