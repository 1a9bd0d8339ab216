// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// The races: two kernels on a link, one identity, and every order of what may happen. On each node
// one processor has a frame, one the detector's timer and one a listed host's answer. Each may be
// held up between any two of its steps, as often in one story as is stated: the others go on
// meanwhile, time passes, frames are lost, and user space changes a word or falls silent.

// mostSaid is how often in one story user space changes a word, or falls silent, or is back.
const mostSaid = 2

// races is a state of that world.
type races struct {
	witness
	kind       *RaceKind
	now        int64
	k          [2]kernel
	sent       flights
	in         [2]*arrival
	det        [2]*detection
	ask        [2]*question
	ticked     [2]bool // in this quantum
	asked      [2]bool // a round is not answered yet
	said       int     // by user space
	heldUp     int     // processors, between two steps
	mostHeldUp int
	sees       [2]raceAround
}

// raceAround is what a kernel of this world sees.
type raceAround struct {
	onlooker
}

func (raceAround) news()         {}
func (raceAround) fresh() uint64 { panic("sim: nobody boots in the world of races") }

// newRaces is a pair in which all is well: each has just heard the other.
func newRaces(kind *RaceKind, p *Params, heldUp int) *races {
	lossy := *kind // what came before did so in a network that might lose anything
	lossy.Arrives = [2]bool{}
	r := &races{kind: &lossy, now: forEver / 2, mostHeldUp: heldUp}
	for i := range r.k {
		k := &r.k[i]
		*k = kernel{
			p: p, self: i, boot: uint64(10 + i), peers: make([]peer, 2), started: r.now - 20*quantum, seq: 1,
			words: make([]core.Word, 1), floor: make([]uint64, 1), taken: make([]int64, 1), serveUntil: r.now + p.Serve,
			renewed: r.now, leaseUntil: 2 * forEver,
		}
		k.ticks[1] = r.now
		k.peers[1-i] = peer{
			boot: uint64(11 - i), myNonce: uint64(20 + i), nonce: uint64(21 - i), state: core.PeerUp, since: r.now - 8*quantum,
			words: make([]core.Word, 1), heardAny: r.now, granted: r.now, sent: r.now,
			heard: [links]int64{r.now}, probeSeq: [links]uint64{1}, replySeq: [links]uint64{1},
		}
		r.ticked[i] = true
	}
	r.k[0].words[0], r.k[1].words[0] = core.MakeWord(core.Owner, firstGen), core.MakeWord(core.Ready, firstGen)
	r.k[0].other().words[0], r.k[1].other().words[0] = r.k[1].words[0], r.k[0].words[0]
	r.owned[0] = 1 << firstGen
	r.surround()
	if kind.before != nil {
		kind.before(r)
	}
	r.kind = kind
	return r
}

func (r *races) surround() {
	for i := range r.k {
		r.sees[i] = raceAround{onlooker{&r.witness, &r.now, i}}
		r.k[i].around = &r.sees[i]
	}
}

func (r *races) clone() *races {
	c := *r
	c.sent = slices.Clone(r.sent)
	for i := range c.k {
		k := &c.k[i]
		k.apart()
		c.in[i] = copied(c.in[i])
		c.det[i] = copied(c.det[i])
		c.ask[i] = copied(c.ask[i])
	}
	c.surround()
	return &c
}

// move is what may happen next. A processor does so many steps and is held up then; 0: it does all.
type move struct{ what, node, arg, steps uint8 }

const (
	timePasses = iota
	nodeTicks
	isLost
	frameArrives
	arrivalGoesOn
	detectorRuns
	hostsAnswer
	questionGoesOn
	userArms
	userReleases
	userDemands
	userFallsSilent
)

// moves lists them all.
func (r *races) moves(list []move) []move {
	list = list[:0]
	// runs adds what a processor may do, of so many steps that are left to it.
	runs := func(what, node, arg uint8, left int) {
		list = append(list, move{what, node, arg, 0})
		for n := 1; n < left && r.heldUp < r.mostHeldUp; n++ {
			list = append(list, move{what, node, arg, uint8(n)})
		}
	}
	if r.timeMayPass() {
		list = append(list, move{what: timePasses})
	}
	for i, f := range r.sent {
		if r.in[f.to] == nil {
			runs(frameArrives, uint8(f.to), uint8(i), len(arrivalSteps))
		}
		if !r.kind.Arrives[f.to] && len(r.sent) == mostSent { // else it is late, for as long as one likes
			list = append(list, move{isLost, uint8(f.to), uint8(i), 0})
		}
	}
	for n := range uint8(2) {
		k := &r.k[n]
		if !r.ticked[n] && len(r.sent) < mostSent {
			list = append(list, move{nodeTicks, n, 0, 0})
		}
		if r.in[n] != nil {
			runs(arrivalGoesOn, n, 0, len(arrivalSteps)-r.in[n].at)
		}
		if r.det[n] != nil {
			runs(detectorRuns, n, 0, int(detected)-r.det[n].at)
		} else if worthALook(k, r.now) {
			runs(detectorRuns, n, 0, int(detected))
		}
		if r.ask[n] != nil {
			runs(questionGoesOn, n, 0, len(questionSteps)-r.ask[n].at)
		} else if r.asked[n] && r.kind.Reaches(r, int(n)) {
			runs(hostsAnswer, n, 0, len(questionSteps))
		}
		if r.kind.User && r.said < mostSaid {
			list = r.userMoves(n, list)
		}
	}
	return list
}

func (r *races) userMoves(n uint8, list []move) []move {
	k := &r.k[n]
	w, theirs := k.words[0], k.other().words[0]
	if !k.leaseValid(r.now) {
		return append(list, move{userFallsSilent, n, 1, 0}) // it is back
	}
	switch {
	case w.Flags() == 0:
		list = append(list, move{userArms, n, 0, 0})
	case w.Flags() == core.Owner && theirs.Has(core.Ready) && theirs.Gen() == w.Gen():
		list = append(list, move{userReleases, n, 0, 0})
	case w.Flags() == core.Ready && theirs.Has(core.Owner) && theirs.Gen() == w.Gen():
		list = append(list, move{userDemands, n, 0, 0})
	}
	return append(list, move{userFallsSilent, n, 0, 0})
}

// timeMayPass: what arrives within a quantum is dealt with in it, and is sent in each.
func (r *races) timeMayPass() bool {
	for n := range r.k {
		if r.kind.Arrives[n] && (!r.ticked[1-n] || r.in[n] != nil || r.ask[n] != nil) {
			return false
		}
	}
	return !slices.ContainsFunc(r.sent, func(f flight) bool { return r.kind.Arrives[f.to] })
}

// do makes a move.
func (r *races) do(m move) {
	n := int(m.node)
	k := &r.k[n]
	if m.steps > 0 {
		r.heldUp++
	}
	switch m.what {
	case timePasses:
		r.now += quantum
		r.ticked = [2]bool{}
	case nodeTicks:
		probes, ask := k.tick(r.now)
		r.ticked[n], r.asked[n] = true, r.asked[n] || ask
		r.sent = append(r.sent, flight{probes[0], 1 - n})
	case isLost:
		r.sent.takeOut(m.arg)
	case frameArrives:
		f := r.sent.takeOut(m.arg)
		if !k.hbFresh(&f, r.now) {
			break
		}
		r.in[n] = &arrival{f: f, now: r.now}
		r.arrival(n, m.steps)
	case arrivalGoesOn:
		r.arrival(n, m.steps)
	case detectorRuns:
		if r.det[n] == nil {
			d := k.looksAround(r.now)
			r.det[n] = &d
		}
		if r.run(m.steps, func() bool { return r.det[n].step(k) }) {
			r.det[n] = nil
		}
	case hostsAnswer:
		r.asked[n] = false
		for h := 1; h < hosts; h++ {
			k.reach[h][0] = r.now + 1 // after the question
		}
		r.ask[n] = &question{now: r.now + 1}
		r.question(n, m.steps)
	case questionGoesOn:
		r.question(n, m.steps)
	default:
		r.userDoes(m)
	}
	r.look(&r.k[0], &r.k[1], r.now)
}

// run lets a processor do so many steps, or all; it reports whether it has done all. The checker
// looks on after each.
func (r *races) run(steps uint8, step func() bool) bool {
	for done := uint8(1); ; done++ {
		if !step() {
			return true
		}
		r.look(&r.k[0], &r.k[1], r.now)
		if done == steps {
			return false
		}
	}
}

func (r *races) arrival(n int, steps uint8) {
	a := r.in[n]
	if !r.run(steps, func() bool { return a.step(&r.k[n]) }) {
		return
	}
	if r.in[n] = nil; a.answer != nil && len(r.sent) < mostSent {
		r.sent = append(r.sent, flight{*a.answer, 1 - n})
	}
}

func (r *races) question(n int, steps uint8) {
	if r.run(steps, func() bool { return r.ask[n].step(&r.k[n]) }) {
		r.ask[n] = nil
	}
}

func (r *races) userDoes(m move) {
	k := &r.k[m.node]
	w := k.words[0]
	if m.what != userArms { // which it always does, sooner or later
		r.said++
	}
	switch m.what {
	case userArms:
		k.set(0, core.MakeWord(core.Ready, w.Gen()), "armed")
	case userReleases:
		k.set(0, core.MakeWord(core.Yield, w.Gen()), "released")
	case userDemands:
		k.set(0, core.MakeWord(core.Ready|core.Demand, w.Gen()), "demanded")
	case userFallsSilent:
		if k.leaseUntil = 1; m.arg == 1 {
			k.leaseUntil = 2 * forEver
		}
	}
}

// name says what a move is, and a processor's steps after the functions of bpf/.
func (r *races) name(m move) string {
	n := int(m.node)
	who := fmt.Sprintf("serv%d: ", n+1)
	held := func(name func(at int) string, at int) string {
		if m.steps == 0 {
			return " to the end"
		}
		return ", and is held up before " + name(at+int(m.steps))
	}
	arrival := func(at int) string { return arrivalSteps[at].name }
	question := func(at int) string { return questionSteps[at].name }
	switch m.what {
	case timePasses:
		return "time passes"
	case nodeTicks:
		return who + "handle_tick"
	case isLost:
		return r.sent[m.arg].String() + " is lost"
	case frameArrives:
		return who + "handle_heartbeat: " + r.sent[m.arg].String() + held(arrival, 0)
	case arrivalGoesOn:
		return who + "handle_heartbeat goes on" + held(arrival, r.in[n].at)
	case detectorRuns:
		d := r.det[n]
		if d == nil {
			d = &detection{}
		}
		return who + "detector_callback from " + detectionNames[d.at] + fmt.Sprintf(" (%d steps; 0: all)", m.steps)
	case hostsAnswer:
		return who + "reach_stamp: the listed hosts answer" + held(question, 0)
	case questionGoesOn:
		return who + "reach_heard goes on" + held(question, r.ask[n].at)
	case userArms:
		return who + "user space arms"
	case userReleases:
		return who + "user space releases"
	case userDemands:
		return who + "user space demands"
	}
	return who + [...]string{"the supervisor is lost", "the supervisor is back"}[m.arg]
}

// encode is the state in bytes, by relative times: two states of one encoding have one future.
func (r *races) encode(b []byte) []byte {
	e := encoder{b[:0], r.now}
	for i := range r.k {
		e.kernel(&r.k[i])
		e.bools(r.ticked[i], r.asked[i], r.in[i] != nil, r.det[i] != nil, r.ask[i] != nil)
		if a := r.in[i]; a != nil {
			e.frame(&a.f)
			e.times(a.now, a.give.until, a.give.granted)
			e.number(uint64(a.at))
			e.bools(a.promised)
		}
		if d := r.det[i]; d != nil {
			e.times(d.now, d.last, d.since, d.give.until, d.give.granted)
			e.number(uint64(d.before))
			e.number(uint64(d.at))
		}
		if q := r.ask[i]; q != nil {
			e.times(q.now, q.sent, q.give.until, q.give.granted)
			e.number(uint64(q.at))
			e.bools(q.allowed)
		}
	}
	e.number(uint64(r.said))
	e.number(uint64(r.heldUp))
	e.witness(&r.witness)
	e.flights(r.sent)
	return e.b
}

// Races explores a world of races, in which processors are held up so often at the most. A
// mutation is a bug that is put into the model; "": none.
func Races(kind RaceKind, heldUp int, mutation string, l Limits) Found {
	p := smallTimings(mutation)
	return explore(newRaces(&kind, &p, heldUp), l)
}
