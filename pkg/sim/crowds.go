// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// The crowds: three kernels, one identity that each may own, its key in etcd, and every order of what may
// happen: frames, the detectors' timers, user space that arms and releases, keys that are won and lost,
// boots. There is no core: a kernel must keep its rules whatever user space does that holds a key, but
// for what it must not: to arm without a promise on the disk. The kernels do each of their runs at once.

const crowdSize = 3

// CrowdKind is a world of crowds.
type CrowdKind struct {
	Name   string
	Boots  int // so many at the most
	before func(r *crowd)
}

// CrowdKinds are worlds in which no two gates are open at any time.
var CrowdKinds = []CrowdKind{
	{Name: "all is well, and then frames get lost", before: func(*crowd) {}},
	{Name: "the owner has released it, and all know", before: releasedToAll},
	{Name: "the owner is cut off, and the others are about to declare its death", before: ownerCutOff},
	{Name: "one has won the key, and the others know of a generation that it is not for", before: wonBelow},
	{Name: "all is well, and one boots", Boots: 1, before: func(*crowd) {}},
}

// crowd is a state of that world.
type crowd struct {
	witness
	p      *Params
	now    int64
	k      [crowdSize]kernel
	sent   flights
	ticked [crowdSize][crowdSize]bool // in this quantum: to that node
	holder int                        // of the key; crowdSize: nobody
	stored uint64
	disk   [crowdSize]uint64 // promises
	nonces uint64
	boots  int
	last   struct{ gen, by uint64 } // of the gates that were open
	sees   [crowdSize]crowdAround
}

// crowdAround is what a kernel of this world sees.
type crowdAround struct {
	onlooker
	r *crowd
}

// changes: what the timer takes was won in etcd.
func (a crowdAround) changes(i int, old, word core.Word, why string) {
	if why == tookAmong && word.Gen() > a.r.stored {
		a.fail("serv%d takes generation %d, and etcd knows of none above %d", a.self+1, word.Gen(), a.r.stored)
	}
	a.onlooker.changes(i, old, word, why)
}

func (crowdAround) news()           {}
func (a crowdAround) fresh() uint64 { a.r.nonces++; return a.r.nonces }

// newCrowd is one in which all is well: each has just heard the others, and the first one owns it.
func newCrowd(kind *CrowdKind, p *Params) *crowd {
	r := &crowd{p: p, now: forEver / 2, holder: crowdSize, stored: crowdSize, nonces: 100}
	r.surround()
	for i := range r.k {
		r.boot(i)
	}
	for i := range r.k {
		k := &r.k[i]
		k.started, k.seq, k.ticks[1] = r.now-20*quantum, 1, r.now
		if k.words[0] = core.MakeWord(core.Ready, crowdSize); i == 0 {
			k.words[0] = core.MakeWord(core.Owner, crowdSize)
		}
		r.disk[i] = k.nextOwn(0, crowdSize)
	}
	for i := range r.k {
		for j := range r.k {
			if i == j {
				continue
			}
			p := &r.k[i].peers[j]
			p.boot, p.nonce, p.state, p.since = r.k[j].boot, r.k[j].peers[i].myNonce, core.PeerUp, r.now-8*quantum
			p.words[0], p.heardAny, p.granted, p.sent = r.k[j].words[0], r.now, r.now, r.now
			p.heard[0], p.probeSeq[0], p.replySeq[0] = r.now, 1, 1
		}
	}
	r.k[0].taken[0] = r.now - quantum
	r.owned[0] = 1 << crowdSize
	kind.before(r)
	r.boots = kind.Boots
	return r
}

func (r *crowd) surround() {
	for i := range r.k {
		r.sees[i] = crowdAround{onlooker{&r.witness, &r.now, i}, r}
		r.k[i].around = &r.sees[i]
	}
}

func (r *crowd) clone() *crowd {
	c := *r
	c.sent = slices.Clone(r.sent)
	for i := range c.k {
		c.k[i].apart()
	}
	c.surround()
	return &c
}

// boot starts a node with nothing but its disk.
func (r *crowd) boot(i int) {
	k := newKernel(r.p, &r.sees[i], i, r.now, 1)
	k.candidates[0], k.floor[0], k.renewed, k.leaseUntil = 1<<crowdSize-1, r.disk[i], r.now, 2*forEver
	r.k[i] = *k
}

const (
	crowdTime = iota
	crowdLost
	crowdArrives
	crowdTicks
	crowdLooks
	crowdArms
	crowdReleases
	crowdRaises
	crowdWins
	crowdLoses
	crowdBoots
)

var crowdNames = [...]string{
	"time passes", "a frame is lost", "a frame arrives", "handle_tick", "detector_callback", "user space arms", "user space releases",
	"user space raises the word to what its disk promises", "the key is won", "the key is lost", "boots",
}

func (r *crowd) name(m move) string {
	who := fmt.Sprintf("serv%d: %s", m.node+1, crowdNames[m.what])
	switch m.what {
	case crowdTime:
		return crowdNames[crowdTime]
	case crowdLost, crowdArrives:
		return who + ": " + r.sent[m.arg].String()
	case crowdTicks:
		return fmt.Sprintf("%s, heard by serv%d", who, m.arg+1)
	case crowdWins:
		return fmt.Sprintf("%s at generation %d", who, r.wants(int(m.node)))
	}
	return who
}

// wants is the generation at which user space may want the key; 0: not at all.
func (r *crowd) wants(i int) uint64 {
	switch k := &r.k[i]; {
	case k.words[0].Has(core.Owner):
		return k.words[0].Gen()
	case k.words[0].Has(core.Ready):
		return k.nextOwn(0, k.words[0].Gen())
	}
	return 0
}

func (r *crowd) moves(list []move) []move {
	list = append(list[:0], move{what: crowdTime})
	for i, f := range r.sent {
		list = append(list, move{crowdArrives, uint8(f.to), uint8(i), 0})
		if len(r.sent) == mostSent {
			list = append(list, move{crowdLost, uint8(f.to), uint8(i), 0})
		}
	}
	for i := range uint8(crowdSize) {
		k := &r.k[i]
		may := func(what uint8, yes bool) {
			if yes {
				list = append(list, move{what: what, node: i})
			}
		}
		for other := range uint8(crowdSize) {
			if other != i && !r.ticked[i][other] && len(r.sent) < mostSent {
				list = append(list, move{crowdTicks, i, other, 0})
			}
		}
		w, want := k.words[0], r.wants(int(i))
		may(crowdLooks, true)
		may(crowdArms, w.Flags()&(core.Owner|core.Ready) == 0)
		may(crowdReleases, w.Has(core.Owner))
		may(crowdRaises, !w.Has(core.Owner) && w.Gen() < k.floor[0])
		may(crowdWins, want != 0 && want >= r.stored && (r.holder == crowdSize || r.holder == int(i) && k.leaveGen[0] != want))
		may(crowdLoses, r.holder == int(i))
		may(crowdBoots, r.boots > 0)
	}
	return list
}

func (r *crowd) do(m move) {
	i := int(m.node)
	k := &r.k[i]
	switch m.what {
	case crowdTime:
		r.now += quantum
		r.ticked = [crowdSize][crowdSize]bool{}
	case crowdLost:
		r.sent.takeOut(m.arg)
	case crowdArrives:
		if a := k.receive(r.sent.takeOut(m.arg), r.now); a != nil && len(r.sent) < mostSent {
			r.sent = append(r.sent, flight{*a, a.to})
		}
	case crowdTicks:
		r.ticked[i][m.arg] = true
		probes, _ := k.tick(r.now)
		for _, f := range probes {
			if f.to == int(m.arg) && f.link == 0 {
				r.sent = append(r.sent, flight{f, f.to})
			}
		}
	case crowdLooks:
		for d := k.looksAround(r.now); d.step(k); {
		}
	case crowdArms:
		r.disk[i] = max(r.disk[i], k.nextOwn(0, k.words[0].Gen()))
		k.set(0, core.MakeWord(core.Ready, k.words[0].Gen()), "armed")
	case crowdReleases:
		k.set(0, core.MakeWord(core.Yield, k.words[0].Gen()), "released")
	case crowdRaises:
		k.set(0, core.MakeWord(0, k.floor[0]), "raised")
	case crowdWins:
		r.holder, r.stored = i, r.wants(i)
		k.setLeave(0, r.stored, 2*forEver)
	case crowdLoses:
		r.holder = crowdSize
		k.setLeave(0, 0, 0)
	case crowdBoots:
		r.boots--
		if r.boot(i); r.holder == i {
			r.holder = crowdSize
		}
	}
	r.lookAtGates()
}

// lookAtGates: no two are open, and none at a lower generation than one that was open before.
func (r *crowd) lookAtGates() {
	open := crowdSize
	for i := range r.k {
		k := &r.k[i]
		if !k.gateOpen(0, r.now) {
			continue
		}
		if open != crowdSize {
			r.fail("serv%d's and serv%d's gates are open: %v and %v", open+1, i+1, r.k[open].words[0], k.words[0])
			return
		}
		open = i
		gen := k.words[0].Gen()
		if l := &r.last; gen < l.gen {
			r.fail("serv%d's gate is open at generation %d, and serv%d's has been at %d", i+1, gen, l.by+1, l.gen)
		}
		r.last = struct{ gen, by uint64 }{gen, uint64(i)}
	}
}

func (r *crowd) encode(b []byte) []byte {
	e := encoder{b[:0], r.now}
	for i := range r.k {
		k := &r.k[i]
		e.kernel(k)
		e.boots(k)
		e.times(k.taken[0])
		e.bools(k.leave[0] != 0)
		e.bools(r.ticked[i][:]...)
		for _, v := range []uint64{k.leaveGen[0], r.disk[i]} {
			e.number(v)
		}
	}
	for _, v := range []uint64{uint64(r.holder), r.stored, uint64(r.boots), r.last.gen, r.last.by} {
		e.number(v)
	}
	e.witness(&r.witness)
	e.flights(r.sent)
	return e.b
}

// said is a frame that arrives, and its answer.
func (r *crowd) said(from, to uint8) {
	r.do(move{crowdTicks, from, to, 0})
	for len(r.sent) > 0 {
		r.do(move{what: crowdArrives, node: uint8(r.sent[0].to)})
	}
}

// releasedToAll: nobody owns it, and all have heard so.
func releasedToAll(r *crowd) {
	r.do(move{what: crowdReleases})
	for _, way := range [][2]uint8{{0, 1}, {0, 2}, {1, 2}} {
		r.said(way[0], way[1])
	}
}

// wonBelow: the third node has raised its word, as after a boot, and the first one has heard of it.
func wonBelow(r *crowd) {
	releasedToAll(r)
	r.do(move{what: crowdWins, node: 1})
	r.k[2].floor[0] = crowdSize + 2
	r.do(move{what: crowdRaises, node: 2})
	r.said(2, 0)
}

// ownerCutOff: the others have heard each other only, and have been silent to the owner, for two quanta.
func ownerCutOff(r *crowd) {
	for range 2 {
		r.do(move{what: crowdTime})
		r.said(1, 2)
		r.said(2, 1)
		for i := range uint8(crowdSize) {
			r.do(move{crowdTicks, i, (i + 1) % crowdSize, 0})
			r.sent = nil
			r.do(move{what: crowdLooks, node: i})
		}
	}
}

// Crowds explores a world of crowds.
func Crowds(kind CrowdKind, mutation string, l Limits) Found {
	p := smallTimings(mutation)
	p.Reach, p.Etcd, p.Nodes = false, true, crowdSize
	return explore(newCrowd(&kind, &p), l)
}
