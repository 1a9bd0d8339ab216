// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"
)

// The simulated kernels, the network between them and the shells around two
// machines. Time goes in milliseconds; everything that happens is drawn from one
// seed.
const (
	ms        = int64(1_000_000)
	deadAfter = 12 // ms of silence
	suspect   = 6
	lease     = 300
	bootHold  = 100
)

type simFrame struct {
	boot    uint64
	words   []Word
	supOK   bool
	standby bool
	frozen  bool
	lan     LanView
}

type later struct {
	at  int64
	seq int
	f   func()
}

type simNode struct {
	s    *sim
	self int
	m    *Machine
	disk Saved

	powered bool
	life    int // of the power
	booted  int64
	boot    uint64
	words   []Word
	peer    []Word
	pboot   uint64
	pframe  simFrame
	state   PeerState
	heard   int64
	leaseTo int64
	flags   SetFlags

	running     bool // the daemon
	gen         int  // of the daemon: results of an older one are lost
	pausedUntil int64
	svc         []int // 0 off, 1 on (from the start's begin to the stop's end)
	addrs       []bool
	lan         LanView
	dirty       bool
	lastSeen    int64
	replies     map[uint64]string
}

type sim struct {
	t     *testing.T
	r     *rand.Rand
	now   int64 // ms
	queue []later
	seq   int
	cfg   [2]Config
	nodes [2]*simNode
	lossy bool // the network may fail too
	cut   [2]bool
	loss  float64
	calm  bool
	// what happened
	owned   []map[uint64]int
	top     []uint64
	changes int
	cmdOp   uint64
	lapses  bool
	trace   []string
}

func (s *sim) logf(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%6d ", s.now)+fmt.Sprintf(format, args...))
	if len(s.trace) > 400 {
		s.trace = s.trace[100:]
	}
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(s.trace, "\n"))
}

func (s *sim) after(d int64, f func()) {
	s.seq++
	s.queue = append(s.queue, later{s.now + d, s.seq, f})
}

func (s *sim) rnd(lo, hi int64) int64 { return lo + s.r.Int64N(hi-lo+1) }

func newSim(t *testing.T, seed uint64, lossy, lapses bool) *sim {
	s := &sim{t: t, r: rand.New(rand.NewPCG(seed, 99)), lossy: lossy, lapses: lapses, now: 1}
	ids := []IdentityConfig{
		{Name: "files", Home: 0, Failback: "manual", Exclusive: []string{"samba"}},
		{Name: "mail", Home: 1, Failback: "auto", FailbackAfter: 700 * ms, Exclusive: []string{"imap"}},
		{Name: "web", Home: 0, Failback: "never", StagingAhead: true},
	}
	for i := range 2 {
		s.cfg[i] = Config{
			Self: i, Nodes: [2]string{"serv1", "serv2"}, Identities: ids, Concurrent: []string{"dns"}, DemandIfLost: seed%2 == 0,
			Limits: Limits{Stage: 500 * ms, Release: 200 * ms, MoveEvery: 1000 * ms},
		}
		s.nodes[i] = &simNode{s: s, self: i, disk: Saved{}.clone(), replies: map[uint64]string{}, svc: make([]int, len(ids))}
	}
	for range ids {
		s.owned = append(s.owned, map[uint64]int{})
		s.top = append(s.top, 0)
	}
	for _, n := range s.nodes {
		s.after(s.rnd(0, 300), n.power)
	}
	return s
}

func (n *simNode) other() *simNode { return n.s.nodes[1-n.self] }

// power boots a node with empty maps.
func (n *simNode) power() {
	k := len(n.s.cfg[0].Identities)
	n.life++
	n.powered, n.booted, n.boot = true, n.s.now, uint64(n.self+1)<<32|uint64(n.life)
	n.words, n.peer = make([]Word, k), make([]Word, k)
	n.pboot, n.state, n.heard = 0, PeerUnknown, 0
	n.svc, n.addrs = make([]int, k), make([]bool, k)
	ok := NIC{Present: true, Carrier: true}
	n.lan = LanView{Lan: ok, Spare: ok}
	n.s.logf("serv%d boots, disk %v", n.self+1, n.disk)
	n.daemon()
}

func (n *simNode) daemon() {
	n.gen++
	n.running, n.pausedUntil, n.flags = true, 0, SetFlags{}
	n.m = New(n.s.cfg[n.self], n.disk.clone())
	n.step(Started{})
}

func (n *simNode) kill() {
	n.s.logf("serv%d dies", n.self+1)
	n.powered, n.running = false, false
	n.gen++
	n.words = make([]Word, len(n.words))
	for i := range n.svc {
		n.svc[i] = 0
	}
}

// alive runs f later unless this daemon is gone by then; a paused one waits.
func (n *simNode) alive(d int64, f func()) {
	gen := n.gen
	var try func()
	try = func() {
		if n.gen != gen || !n.running {
			return
		}
		if n.pausedUntil > n.s.now {
			n.s.after(n.pausedUntil-n.s.now+n.s.rnd(0, 2), try)
			return
		}
		f()
	}
	n.s.after(d, try)
}

func (n *simNode) step(ev Event) {
	for _, a := range n.m.Step(n.s.now*ms, ev) {
		n.act(a)
	}
}

func (n *simNode) chance(p float64) bool { return !n.s.calm && n.s.r.Float64() < p }

func (n *simNode) result(op uint64, p float64, d int64, f func()) {
	bad := n.chance(p)
	n.alive(d, func() {
		if bad {
			n.step(Failed{Op: op, Err: "drawn"})
			return
		}
		if f != nil {
			f()
		}
		n.step(Done{Op: op})
	})
}

func (n *simNode) act(a Action) {
	s := n.s
	switch a := a.(type) {
	case Persist:
		s.logf("serv%d persist %v", n.self+1, a.Saved)
		n.result(a.Op, 0.02, s.rnd(1, 15), func() { n.disk = a.Saved.clone() })
	case Swap:
		n.alive(s.rnd(0, 2), func() {
			ok := n.words[a.Identity] == a.Old
			s.logf("serv%d %d swap %v -> %v: %v", n.self+1, a.Identity, a.Old, a.New, ok)
			if ok {
				if a.New.Has(Ready) && n.disk.Generations[s.cfg[0].Identities[a.Identity].Name] < a.New.Gen()+1 {
					s.fail("armed without a promise: %+v", a)
				}
				n.set(a.Identity, a.New, "swap")
			}
			r := Swapped{Op: a.Op, Identity: a.Identity, OK: ok, Current: n.words[a.Identity]}
			n.alive(s.rnd(0, 1), func() { n.step(r) })
		})
	case AddAddresses:
		n.result(a.Op, 0.05, s.rnd(1, 10), func() { n.addrs[a.Identity] = true })
	case RemoveAddresses:
		n.result(a.Op, 0.05, s.rnd(1, 10), func() { n.addrs[a.Identity] = false })
	case StartServices:
		s.logf("serv%d start services %d", n.self+1, a.Identity)
		n.svc[a.Identity] = 1
		if !s.lossy && !s.lapses && n.other().svc[a.Identity] != 0 {
			s.fail("services of %d run on both nodes", a.Identity)
		}
		n.result(a.Op, 0.05, s.rnd(5, 60), nil)
	case StopServices:
		s.logf("serv%d stop services %d", n.self+1, a.Identity)
		n.result(a.Op, 0.05, s.rnd(5, 60), func() { n.svc[a.Identity] = 0 })
	case StartConcurrent:
		n.result(a.Op, 0, 5, nil)
	case StopConcurrent:
		n.result(a.Op, 0, 5, nil)
	case Announce:
		if !n.addrs[a.Identity] {
			s.fail("serv%d announces %d without addresses", n.self+1, a.Identity)
		}
	case SetFlags:
		n.flags = a
	case Notify:
		s.logf("serv%d notify %s: %s", n.self+1, a.Kind, a.Text)
	case Reply:
		s.logf("serv%d reply %d: %s", n.self+1, a.Op, a.Err)
		if _, twice := n.replies[a.Op]; twice {
			s.fail("two replies to %d", a.Op)
		}
		n.replies[a.Op] = a.Err
	case Left:
		n.running = false
		n.gen++
		n.alone(s.rnd(50, 2000), n.daemon)
	case Pulse:
		n.send()
	}
}

// alone runs f later if the node has power in the same life.
func (n *simNode) alone(d int64, f func()) {
	life := n.life
	n.s.after(d, func() {
		if n.powered && n.life == life && !n.running {
			f()
		}
	})
}

func (n *simNode) set(i int, w Word, why string) {
	if n.words[i] == w {
		return
	}
	if w.Has(Owner) && !(n.words[i].Has(Owner) && n.words[i].Gen() == w.Gen()) {
		n.own(i, w.Gen(), why)
	}
	n.s.logf("serv%d %d %v -> %v (%s)", n.self+1, i, n.words[i], w, why)
	n.words[i] = w
	n.dirty = true
}

// own checks that generations are used once and in order.
func (n *simNode) own(i int, g uint64, why string) {
	s := n.s
	s.changes++
	if s.lossy {
		return
	}
	if by, used := s.owned[i][g]; used {
		s.fail("identity %d: generation %d is owned by serv%d (%s) after serv%d", i, g, n.self+1, why, by+1)
	}
	if g <= s.top[i] {
		s.fail("identity %d: generation %d comes after %d", i, g, s.top[i])
	}
	s.owned[i][g], s.top[i] = n.self, g
}

func (n *simNode) leaseOK() bool { return n.s.now < n.leaseTo }

func (n *simNode) send() {
	s := n.s
	if !n.powered || s.lossy && (s.cut[n.self] || s.r.Float64() < s.loss) {
		return
	}
	f := simFrame{n.boot, append([]Word(nil), n.words...), n.s.now < n.leaseTo-lease/4, n.flags.Standby, n.flags.Frozen, n.lan}
	d := s.rnd(0, 1)
	if s.lossy && !s.calm {
		d = s.rnd(0, 8)
	}
	to, life := n.other(), n.other().life
	s.after(d, func() {
		if to.powered && to.life == life {
			to.receive(f)
		}
	})
}

// receive is the rule for every accepted frame.
func (n *simNode) receive(f simFrame) {
	if f.boot < n.pboot {
		return
	}
	if n.pboot != f.boot || n.state != PeerUp || n.pframe.supOK != f.supOK {
		n.dirty = true
	}
	n.pboot, n.pframe, n.heard, n.state = f.boot, f, n.s.now, PeerUp
	for i, p := range f.words {
		if n.peer[i] != p {
			n.dirty = true
		}
		w := n.words[i]
		n.peer[i] = p
		switch {
		case p.Gen() > w.Gen():
			n.set(i, MakeWord(0, p.Gen()), "adopt")
		case p.Gen() < w.Gen():
		case p.Has(Owner) && w.Has(Owner) && n.self == 1:
			n.set(i, MakeWord(0, w.Gen()), "two owners")
		case p.Has(Ready|Demand) && w.Has(Owner):
			n.set(i, MakeWord(Yield, w.Gen()), "demanded")
		case p.Has(Yield) && !p.Has(Owner) && w.Has(Ready) && n.leaseOK():
			n.set(i, MakeWord(Owner, w.Gen()+1), "released by peer")
		}
	}
}

// kernel is one millisecond of a node's timers.
func (n *simNode) kernel() {
	if !n.powered {
		return
	}
	s := n.s
	if n.running && n.pausedUntil <= s.now {
		n.leaseTo = s.now + lease
	}
	before, silence := n.state, s.now-n.heard
	switch {
	case n.state == PeerUnknown && s.now-n.booted > bootHold, n.state != PeerUnknown && silence > deadAfter:
		n.state = PeerDead
	case n.state == PeerUp && silence > suspect:
		n.state = PeerSuspect
	}
	n.dirty = n.dirty || before != n.state
	for i, w := range n.words {
		switch {
		case n.state == PeerDead && w.Has(Ready):
			n.set(i, MakeWord(Owner, w.Gen()+1), "peer dead")
		case n.state != PeerDead && w.Has(Owner) && !n.leaseOK():
			n.set(i, MakeWord(Yield, w.Gen()), "lapsed")
		}
	}
	n.send()
	if n.running && n.pausedUntil <= s.now && (n.dirty || s.now-n.lastSeen >= 100) {
		n.dirty, n.lastSeen = false, s.now
		o := Observed{
			At: s.now * ms, Peer: n.state, PeerBoot: n.pboot, PeerSupervisorOK: n.pframe.supOK,
			PeerStandby: n.pframe.standby, PeerFrozen: n.pframe.frozen,
			Local: append([]Word(nil), n.words...), PeerWords: append([]Word(nil), n.peer...),
			MyLan: n.lan, PeerLan: n.pframe.lan,
		}
		n.alive(s.rnd(0, 2), func() { n.step(o) })
	}
	if n.running && n.pausedUntil <= s.now && s.now%50 == 0 {
		n.step(Tick{})
	}
}

func (s *sim) tick() {
	s.now++
	for {
		sort.Slice(s.queue, func(i, j int) bool {
			a, b := s.queue[i], s.queue[j]
			return a.at < b.at || a.at == b.at && a.seq < b.seq
		})
		if len(s.queue) == 0 || s.queue[0].at > s.now {
			break
		}
		q := s.queue[0]
		s.queue = s.queue[1:]
		q.f()
		s.check()
	}
	order := s.r.IntN(2)
	for i := range 2 {
		s.nodes[(i+order)%2].kernel()
		s.check()
	}
}

// check: where the network is sound, no identity has two owners at any instant.
func (s *sim) check() {
	if s.lossy || !s.nodes[0].powered || !s.nodes[1].powered {
		return
	}
	for i := range s.nodes[0].words {
		if s.nodes[0].words[i].Has(Owner) && s.nodes[1].words[i].Has(Owner) {
			s.fail("two owners of %d: %v and %v", i, s.nodes[0].words[i], s.nodes[1].words[i])
		}
	}
}

// trouble draws a fault or a command.
func (s *sim) trouble() {
	n := s.nodes[s.r.IntN(2)]
	id := s.r.IntN(len(s.cfg[0].Identities))
	s.cmdOp++
	cmd := func(ev Event) {
		if n.running && n.pausedUntil <= s.now {
			s.logf("serv%d gets %#v", n.self+1, ev)
			n.step(ev)
		}
	}
	switch k := s.r.IntN(20); {
	case k < 5:
		cmd(CmdMove{s.cmdOp, id, s.r.IntN(3) - 1, s.lapses && s.r.IntN(4) == 0})
	case k == 5:
		cmd(CmdGiveback{s.cmdOp})
	case k < 8:
		cmd(CmdStandby{s.cmdOp, s.r.IntN(2) == 0})
	case k < 10:
		cmd(CmdFreeze{s.cmdOp, s.r.IntN(2) == 0})
	case k == 10 && (s.lapses || !n.disk.Frozen): // a frozen node leaves its services running
		cmd(CmdLeave{s.cmdOp})
	case k == 11 && n.powered:
		n.lan.Lan.Carrier = !n.lan.Lan.Carrier
		n.dirty = true
	case k == 12 && n.running:
		cmd(ServiceState{Identity: id, Service: "x", Healthy: s.r.IntN(2) == 0})
	case k < 15 && n.running && s.lapses:
		n.pausedUntil = s.now + s.rnd(1, 900)
		s.logf("serv%d paused until %d", n.self+1, n.pausedUntil)
	case k == 15 && n.running && s.lapses:
		s.logf("serv%d daemon killed", n.self+1)
		n.running = false
		n.gen++
		n.alone(s.rnd(20, 900), n.daemon)
	case k < 18 && n.powered && s.mayDie(n):
		n.kill()
		s.after(s.rnd(50, 1500), n.power)
	case k == 18 && s.lossy:
		s.loss = s.r.Float64() * 0.9
	case k == 19 && s.lossy:
		s.cut = [2]bool{s.r.IntN(3) == 0, s.r.IntN(3) == 0}
	}
}

// mayDie keeps, where generations are checked, one node that knows them all: two
// disks that never met cannot agree.
func (s *sim) mayDie(n *simNode) bool {
	o := n.other()
	if s.lossy {
		return true
	}
	if !o.powered || o.state != PeerUp || o.pboot != n.boot {
		return false
	}
	for i := range n.words {
		if n.words[i].Gen() > o.words[i].Gen() {
			return false
		}
	}
	return true
}

func (s *sim) run(faultsFor int64) {
	for s.now < faultsFor {
		if s.r.IntN(150) == 0 {
			s.trouble()
		}
		s.tick()
	}
	// After the last fault everything works and nothing is held back.
	s.calm, s.loss, s.cut = true, 0, [2]bool{}
	s.logf("calm")
	for range 2000 {
		s.tick()
	}
	for _, n := range s.nodes {
		n.lan.Lan.Carrier, n.lan.Spare.Carrier = true, true
		s.cmdOp += 2
		n.step(CmdFreeze{s.cmdOp - 1, false})
		for range 300 {
			s.tick()
		}
		n.step(CmdStandby{s.cmdOp, false})
	}
	for range 30000 {
		s.tick()
	}
	s.converged()
	s.oneInStandby(s.nodes[s.r.IntN(2)])
}

// oneInStandby: the other node owns everything, also after both have lost power.
func (s *sim) oneInStandby(n *simNode) {
	s.cmdOp++
	n.step(CmdStandby{s.cmdOp, true})
	for again := range 2 {
		for range 5000 {
			s.tick()
		}
		for i, w := range n.other().words {
			if !w.Has(Owner) || n.words[i].Has(Owner|Ready) {
				s.fail("standby of serv%d (%d): identity %d: %v, other %v", n.self+1, again, i, n.words[i], w)
			}
		}
		if again == 0 {
			for _, x := range s.nodes {
				x.kill()
				s.after(s.rnd(50, 500), x.power)
			}
		}
	}
}

func (s *sim) converged() {
	for i, c := range s.cfg[0].Identities {
		a, b := s.nodes[0], s.nodes[1]
		if a.words[i].Has(Owner) == b.words[i].Has(Owner) {
			s.fail("%s: want one owner: %v, %v", c.Name, a.words[i], b.words[i])
		}
		o, x := a, b
		if b.words[i].Has(Owner) {
			o, x = b, a
		}
		if !x.words[i].Has(Ready) || x.words[i].Gen() != o.words[i].Gen() {
			s.fail("%s: want the other armed: %v, %v", c.Name, o.words[i], x.words[i])
		}
		if !o.addrs[i] || x.addrs[i] != c.StagingAhead {
			s.fail("%s: addresses on owner %v, other %v", c.Name, o.addrs[i], x.addrs[i])
		}
		if len(c.Exclusive) > 0 && (o.svc[i] != 1 || x.svc[i] != 0) {
			s.fail("%s: services on owner %d, other %d", c.Name, o.svc[i], x.svc[i])
		}
		if c.Failback == "auto" && o.self != c.Home {
			s.fail("%s: not at home", c.Name)
		}
	}
}
