// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// The pairs: two nodes with the real core on each, one identity, and every order of what may
// happen: frames, the detectors' timers, readings of the maps, compare-and-swaps and syncs that the
// cores have asked for, an administrator's order, losses of power and boots. Here the kernels do
// each of their runs at once: what may come between is the races' part. So are what addresses and
// services do: they take no time, and work.

// PairKind is a world of pairs.
type PairKind struct {
	Name    string
	Lossy   bool // frames may be lost or late; else each arrives within a quantum
	Reaches func(node int) bool
	Moves   int       // that the administrator may order, at either node
	Cuts    int       // of power
	Disks   [2]uint64 // what is promised on them to begin with
	Settled bool      // it begins when all is well; else both boot
}

// PairKinds are worlds in which no two gates are open at any time.
var PairKinds = []PairKind{
	{Name: "all frames arrive, an order to move, and a loss of power", Reaches: both, Moves: 1, Cuts: 1, Settled: true},
	{Name: "all frames arrive, both nodes boot with empty disks", Reaches: both},
	{Name: "all frames arrive, both nodes boot, and the second one's disk promises more", Reaches: both, Disks: [2]uint64{4, 7}},
	{Name: "frames get lost, the second node reaches the hosts, and the owner loses power", Lossy: true, Reaches: second, Cuts: 1, Settled: true},
	{Name: "frames get lost, the second node reaches the hosts, and an order to move", Lossy: true, Reaches: second, Moves: 1, Settled: true},
}

func both(int) bool        { return true }
func second(node int) bool { return node == 1 }

// pairNode is a node: its kernel, its core, and what that has asked for.
type pairNode struct {
	k             kernel
	m             *core.Machine // never stepped, but in a copy
	known         []byte        // its state, encoded
	disk          core.Saved
	swaps         []core.Swap
	write         *core.Persist
	powered       bool
	dirty         bool
	read          int64
	ticked, asked bool
	svc           bool
}

// pairs is a state of that world.
type pairs struct {
	witness
	kind   *PairKind
	p      *Params
	now    int64
	n      [2]pairNode
	sent   flights
	nonces uint64
	moved  int
	cuts   int
	sees   [2]pairAround
}

// pairAround is what a kernel of this world sees.
type pairAround struct {
	onlooker
	r *pairs
}

func (a pairAround) news()         { a.r.n[a.self].dirty = true }
func (a pairAround) fresh() uint64 { a.r.nonces++; return a.r.nonces }

// identityName is the one identity's, whose home is the first node.
const identityName = "files"

func newPairs(kind *PairKind, p *Params) *pairs {
	r := &pairs{kind: kind, p: p, now: forEver / 2, nonces: 100, moved: kind.Moves, cuts: kind.Cuts}
	r.surround()
	for i := range r.n {
		r.n[i].disk = core.Saved{Generations: map[string]uint64{identityName: kind.Disks[i]}}
		r.boot(i)
	}
	if kind.Settled {
		r.settle()
	}
	return r
}

func (r *pairs) surround() {
	for i := range r.n {
		r.sees[i] = pairAround{onlooker{&r.witness, &r.now, i}, r}
		r.n[i].k.around = &r.sees[i]
	}
}

func (r *pairs) clone() *pairs {
	c := *r
	c.sent = slices.Clone(r.sent)
	for i := range c.n {
		n := &c.n[i]
		n.swaps = slices.Clone(n.swaps)
		if n.powered {
			n.k.apart()
		}
	}
	c.surround()
	return &c
}

func (r *pairs) config(i int) core.Config {
	return core.Config{
		Self: i, Nodes: []string{"serv1", "serv2"},
		Identities: []core.IdentityConfig{{Name: identityName, Failback: "manual", Exclusive: []string{"samba"}, Floor: r.n[i].k.floor[0]}},
		Limits:     core.Limits{Stage: 3 * quantum, Release: 2 * quantum, MoveEvery: 4 * quantum, Persist: forEver, Swap: forEver, Address: forEver, Service: forEver},
	}
}

// boot powers a node, with nothing but its disk.
func (r *pairs) boot(i int) {
	n := &r.n[i]
	disk := n.disk
	*n = pairNode{disk: disk, powered: true, dirty: true, read: r.now}
	n.k = *newKernel(r.p, &r.sees[i], i, r.now, 1)
	n.k.floor[0], n.k.renewed, n.k.leaseUntil = disk.Generations[identityName], r.now, 2*forEver
	n.m = core.New(r.config(i), core.Saved{Generations: maps.Clone(disk.Generations)})
	r.step(i, core.Started{})
}

// step gives a core an event, and notes what it asks for.
func (r *pairs) step(i int, first core.Event) {
	n := &r.n[i]
	m, err := core.Restore(r.config(i), n.m.State())
	if err != nil {
		panic("sim: " + err.Error())
	}
	n.m = m
	events := []core.Event{first}
	for len(events) > 0 {
		actions := m.Step(r.now, events[0])
		events = events[1:]
		for _, a := range actions {
			switch a := a.(type) {
			case core.Swap:
				n.swaps = append(n.swaps, a)
			case core.Persist:
				n.write = &a
				if r.p.mutate("a write is done before it is synced") {
					events = append(events, core.Done{Op: a.Op})
				}
			case core.AddAddresses:
				events = append(events, core.Done{Op: a.Op})
			case core.RemoveAddresses:
				events = append(events, core.Done{Op: a.Op})
			case core.StartServices:
				n.svc = true
				events = append(events, core.Done{Op: a.Op})
			case core.StopServices:
				n.svc = false
				events = append(events, core.Done{Op: a.Op})
			}
		}
	}
	known, err := json.Marshal(m.State())
	if err != nil {
		panic("sim: " + err.Error())
	}
	n.known = known
}

func (r *pairs) observed(i int) core.Observed {
	k, p := &r.n[i].k, r.n[i].k.other()
	up := core.NIC{Present: true, Carrier: true}
	lan := core.LanView{Lan: up, Spare: up}
	o := core.Observed{At: r.now, Local: slices.Clone(k.words), MyLan: lan, Peers: make([]core.PeerView, 2), Isolated: k.isolatedSince != 0}
	o.Peers[1-i] = core.PeerView{State: p.state, Boot: p.boot, SupervisorOK: p.state == core.PeerUp, Lan: lan, Words: slices.Clone(p.words)}
	return o
}

const (
	pairTime = iota
	pairLost
	pairArrives
	pairTicks
	pairLooks
	pairAnswered
	pairReads
	pairSwaps
	pairSyncs
	pairOrder
	pairCut
	pairBoots
)

var pairNames = [...]string{
	"time passes", "a frame is lost", "a frame arrives", "handle_tick", "detector_callback", "the listed hosts answer",
	"the daemon reads the maps", "a swap", "the disk is synced", "an order to move it to the other node", "power is lost", "boots",
}

func (r *pairs) name(m move) string {
	who := fmt.Sprintf("serv%d: %s", m.node+1, pairNames[m.what])
	switch m.what {
	case pairTime:
		return pairNames[pairTime]
	case pairLost, pairArrives:
		return who + ": " + r.sent[m.arg].String()
	case pairSwaps:
		s := r.n[m.node].swaps[0]
		return fmt.Sprintf("%s: %v -> %v", who, s.Old, s.New)
	}
	return who
}

func (r *pairs) moves(list []move) []move {
	list = list[:0]
	if r.timeMayPass() {
		list = append(list, move{what: pairTime})
	}
	for i, f := range r.sent {
		list = append(list, move{pairArrives, uint8(f.to), uint8(i), 0})
		if r.kind.Lossy && len(r.sent) == mostSent {
			list = append(list, move{pairLost, uint8(f.to), uint8(i), 0})
		}
	}
	for i := range uint8(2) {
		n := &r.n[i]
		may := func(what uint8, yes bool) {
			if yes {
				list = append(list, move{what: what, node: i})
			}
		}
		if may(pairBoots, !n.powered); !n.powered {
			continue
		}
		may(pairTicks, !n.ticked && len(r.sent) < mostSent)
		may(pairLooks, worthALook(&n.k, r.now))
		may(pairAnswered, n.asked && r.kind.Reaches(int(i)))
		may(pairReads, n.dirty || r.now > n.read)
		may(pairSwaps, len(n.swaps) > 0)
		may(pairSyncs, n.write != nil)
		may(pairOrder, r.moved > 0 && n.k.words[0].Has(core.Owner))
		may(pairCut, r.cuts > 0)
	}
	return list
}

// timeMayPass: in a sound network every node that has power speaks in each quantum, and is heard.
func (r *pairs) timeMayPass() bool {
	if r.kind.Lossy {
		return true
	}
	return len(r.sent) == 0 && (r.n[0].ticked || !r.n[0].powered) && (r.n[1].ticked || !r.n[1].powered)
}

func (r *pairs) do(m move) {
	i := int(m.node)
	n := &r.n[i]
	switch m.what {
	case pairTime:
		r.now += quantum
		r.n[0].ticked, r.n[1].ticked = false, false
	case pairLost:
		r.sent.takeOut(m.arg)
	case pairArrives:
		f := r.sent.takeOut(m.arg)
		if !n.powered {
			break
		}
		if a := n.k.receive(f, r.now); a != nil && len(r.sent) < mostSent {
			r.sent = append(r.sent, flight{*a, 1 - i})
		}
	case pairTicks:
		probes, ask := n.k.tick(r.now)
		n.ticked, n.asked = true, n.asked || ask
		r.sent = append(r.sent, flight{probes[0], 1 - i})
	case pairLooks:
		for d := n.k.looksAround(r.now); d.step(&n.k); {
		}
	case pairAnswered:
		n.asked = false
		for h := range hosts {
			n.k.reachHeard(h, 0, r.now+1)
		}
	case pairReads:
		n.dirty, n.read = false, r.now
		r.step(i, r.observed(i))
		r.step(i, core.Tick{})
	case pairSwaps:
		r.swap(i)
	case pairSyncs:
		w := n.write
		n.write, n.disk = nil, core.Saved{Generations: maps.Clone(w.Saved.Generations)}
		r.step(i, core.Done{Op: w.Op})
	case pairOrder:
		r.moved--
		r.step(i, core.CmdMove{Op: 1 << 40, Identity: 0, To: -1})
	case pairCut:
		r.cuts--
		*n = pairNode{disk: n.disk}
		n.k.around = &r.sees[i]
	case pairBoots:
		r.boot(i)
	}
	if r.n[0].powered && r.n[1].powered {
		r.look(&r.n[0].k, &r.n[1].k, r.now)
	}
}

func (r *pairs) swap(i int) {
	n := &r.n[i]
	s := n.swaps[0]
	n.swaps = n.swaps[1:]
	ok := n.k.words[0] == s.Old
	if ok {
		if s.New.Has(core.Ready) && n.disk.Generations[identityName] < n.k.nextOwn(0, s.New.Gen()) {
			r.fail("serv%d: armed as %v, and its disk promises %d", i+1, s.New, n.disk.Generations[identityName])
		}
		if s.New.Flags() == core.Yield && n.svc {
			r.fail("serv%d: released while its services run", i+1)
		}
		n.k.set(0, s.New, "swap")
	}
	r.step(i, core.Swapped{Op: s.Op, Identity: 0, OK: ok, Current: n.k.words[0]})
}

// settle lets everything happen in one order, until the first node owns it and the second is armed.
func (r *pairs) settle() {
	for range 100 {
		r.do(move{what: pairTime})
		for i := range uint8(2) {
			r.do(move{what: pairTicks, node: i})
			for len(r.sent) > 0 {
				r.do(move{what: pairArrives, node: uint8(r.sent[0].to)})
			}
			r.do(move{what: pairLooks, node: i})
			r.do(move{what: pairReads, node: i})
			for n := &r.n[i]; len(n.swaps) > 0 || n.write != nil; {
				if n.write != nil {
					r.do(move{what: pairSyncs, node: i})
				} else {
					r.do(move{what: pairSwaps, node: i})
				}
			}
		}
		a, b := &r.n[0], &r.n[1]
		if a.k.words[0].Flags() == core.Owner && b.k.words[0].Flags() == core.Ready && a.k.other().words[0] == b.k.words[0] && a.svc && !a.dirty && !b.dirty {
			return
		}
	}
	panic("sim: the pair does not settle")
}

func (r *pairs) encode(b []byte) []byte {
	e := encoder{b[:0], r.now}
	for i := range r.n {
		n := &r.n[i]
		e.bools(n.powered)
		e.number(n.disk.Generations[identityName])
		if !n.powered {
			continue
		}
		k := &n.k
		e.kernel(k)
		e.boots(k)
		e.times(n.read)
		e.bools(n.dirty, n.ticked, n.asked, n.svc, n.write != nil)
		e.number(uint64(len(n.swaps)))
		for _, s := range n.swaps {
			e.number(s.Op)
		}
		e.b = append(e.b, n.known...)
	}
	e.witness(&r.witness)
	e.number(uint64(r.moved))
	e.number(uint64(r.cuts))
	e.number(uint64(r.now)) // the cores' times are absolute
	e.flights(r.sent)
	return e.b
}

// Pairs explores a world of pairs.
func Pairs(kind PairKind, mutation string, l Limits) Found {
	p := smallTimings(mutation)
	return explore(newPairs(&kind, &p), l)
}
