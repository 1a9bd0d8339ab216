// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// The races: two kernels on a link, one identity, and every order of what may happen. On each node
// one processor has a frame, one the detector's timer and one a listed host's answer. Each may be
// held up between any two of its steps, so often in one story as is stated, so
// that the others go on meanwhile, time passes, frames are lost, and user space changes a word or
// falls silent.
//
// Time goes by whole quanta of four units. The timings are as small as their relations allow, and
// both clocks go alike: what their rates and a frame's last way cost is left to the derived
// timings, which the seeds of the larger world try.
const (
	quantum  = 4
	firstGen = 2 // the first node owns it, to begin with
	forEver  = 1 << 40
	mostSent = 2 // frames on their way
	mostSaid = 2 // words changed by user space, supervisors lost or back, in one story
)

// raceTimings are of the smallest world.
func raceTimings() Params {
	return Params{
		Probe: quantum, Suspect: quantum, Dead: 3 * quantum, Serve: 3 * quantum, Solo: 8 * quantum, SoloOver: 8 * quantum,
		Late: 3 * quantum, Hold: 20 * quantum, Lease: forEver, ReachEvery: quantum, Confirm: 1, Reach: true,
	}
}

// RaceKind is a world of races: what its network does, and how it begins.
type RaceKind struct {
	Name    string
	Arrives [2]bool                       // what is sent to that node arrives within a quantum; else it may be late, or lost
	Reaches func(r *races, node int) bool // the listed hosts may answer that node now
	User    bool                          // user space changes words, and falls silent
	before  func(r *races)                // what happened before
}

func reaches(nodes ...int) func(*races, int) bool {
	return func(_ *races, node int) bool { return slices.Contains(nodes, node) }
}

// moved: the first node reaches the listed hosts, then neither, and then the second, but not before
// a verdict is so late. Until then the first node's last leave has been heard of, or is over.
func moved(late bool) func(*races, int) bool {
	return func(r *races, node int) bool {
		k := &r.k[1]
		silence, limit := r.now-k.lastEvidence(), k.p.Dead
		if node == 0 {
			return silence <= limit
		}
		if late {
			limit += k.p.Late
		}
		return silence >= limit
	}
}

// RaceKinds are the worlds in which no two gates are open at any time. Where frames get lost both
// ways only one node reaches the listed hosts: what arbiter reach documents is the other case.
var RaceKinds = []RaceKind{
	{Name: "all is well, and then frames get lost; the owner reaches the hosts", Reaches: reaches(0)},
	{Name: "all is well, and then frames get lost; the other node reaches the hosts", Reaches: reaches(1)},
	{Name: "frames get lost, and the other node is about to declare death", Reaches: reaches(1), before: suspected},
	{Name: "frames get lost, the other node has taken over, and hears the old owner again", Reaches: reaches(1), before: taken},
	{Name: "frames get lost, the owner serves by the hosts' leave", Reaches: reaches(0), before: alone},
	{Name: "the same, and then, too late, the other node reaches the hosts", Reaches: moved(true), before: longAlone},
	{Name: "the same, not too late, but it has heard of the leave", Reaches: moved(false), before: toldAlone},
	{Name: "the owner hears the other node again, which hears nothing", Arrives: [2]bool{true, false}, Reaches: reaches(0, 1), before: heardAgain},
	{Name: "after a silence the owner hears the other node, which may hear nothing", Arrives: [2]bool{true, false}, Reaches: reaches(0, 1), before: deaf},
	{Name: "all frames arrive, both reach the hosts, user space acts", Arrives: [2]bool{true, true}, Reaches: reaches(0, 1), User: true},
}

// story makes moves, each of which must be possible.
func (r *races) story(list ...move) {
	for _, m := range list {
		if !slices.Contains(r.moves(nil), m) {
			panic(fmt.Sprintf("sim: %s: what came before cannot be: %+v", r.kind.Name, m))
		}
		r.do(m)
	}
}

var (
	aQuantum = move{what: timePasses}
)

func ticks1(n uint8) move   { return move{what: nodeTicks, node: n} }
func looks(n uint8) move    { return move{what: detectorRuns, node: n} }
func answered(n uint8) move { return move{what: hostsAnswer, node: n} }

// suspected: the second node has heard nothing for two quanta, and has the hosts' leave.
func suspected(r *races) {
	r.story(aQuantum, looks(1), ticks1(1), aQuantum)
	r.sent = nil
	r.story(ticks1(1), answered(1))
	r.sent = nil
}

// taken: it has declared death, and hears the old owner, which has not heard it.
func taken(r *races) {
	suspected(r)
	r.story(aQuantum, looks(1), aQuantum, ticks1(0), move{what: frameArrives, node: 1}, looks(1))
	r.sent = nil
	if r.k[1].state != core.PeerUp || !r.k[1].words[0].Has(core.Owner) {
		panic("sim: it has not taken over")
	}
}

// alone: the owner has declared the second node dead.
func alone(r *races) {
	r.story(aQuantum, looks(0), ticks1(0), aQuantum)
	r.sent = nil
	r.story(ticks1(0), answered(0), aQuantum, looks(0))
	r.sent = nil
	if r.k[0].state != core.PeerDead {
		panic("sim: it has not declared death")
	}
}

// longAlone: the second node has heard nothing for so long that its verdict is about to be late.
func longAlone(r *races) {
	alone(r)
	r.waitFor(r.k[1].p.Dead + r.k[1].p.Late - quantum)
}

// toldAlone: and a frame has told it before that the first one serves by the hosts' leave.
func toldAlone(r *races) {
	alone(r)
	r.story(ticks1(0), answered(0), move{what: frameArrives, node: 1})
	r.sent = nil
	if r.k[1].peerSolo == 0 {
		panic("sim: it has not heard of the leave")
	}
	r.waitFor(r.k[1].p.Dead - quantum)
}

// waitFor lets the second node hear nothing for so long.
func (r *races) waitFor(silence int64) {
	for {
		if worthALook(&r.k[1], r.now) {
			r.story(looks(1))
		}
		if r.now-r.k[1].lastEvidence() >= silence {
			return
		}
		r.story(aQuantum)
	}
}

// heardAgain: neither has heard anything for a quantum; and then the owner may.
func heardAgain(r *races) {
	r.story(aQuantum, looks(0), looks(1), ticks1(1))
	r.sent = nil
	r.now += quantum
	r.ticked = [2]bool{}
}

// deaf: the owner has heard nothing for two quanta, and has the hosts' leave.
func deaf(r *races) {
	arrives := r.kind.Arrives
	kind := *r.kind
	kind.Arrives = [2]bool{}
	r.kind = &kind
	r.story(aQuantum, looks(0), ticks1(0), aQuantum)
	r.sent = nil
	r.story(ticks1(0), answered(0))
	r.sent = nil
	kind.Arrives = arrives
}

// flight is a frame on its way.
type flight struct {
	f    frame
	to   int
	born int64
}

// races is a state of the small world.
type races struct {
	kind       *RaceKind
	now        int64
	k          [2]kernel
	sent       []flight
	in         [2]*arrival
	det        [2]*detection
	ask        [2]*question
	ticked     [2]bool   // in this quantum
	asked      [2]bool   // a round is not answered yet
	owned      [2]uint64 // a bit for each generation that the node has owned
	said       int       // by user space
	heldUp     int       // processors, between two steps
	mostHeldUp int
	wrong      *string       // what must not be, as it is found
	mine       [2]raceAround // what the kernels see
}

type raceAround struct {
	r    *races
	self int
}

func (a raceAround) changes(_ int, old, word core.Word, why string) {
	if word.Gen() < old.Gen() {
		a.r.fail("serv%d: the generation falls from %d to %d (%s)", a.self+1, old.Gen(), word.Gen(), why)
	}
	if !word.Has(core.Owner) || old.Has(core.Owner) && old.Gen() == word.Gen() {
		return
	}
	bit := uint64(1) << (word.Gen() & 63)
	if (a.r.owned[0]|a.r.owned[1])&bit != 0 {
		a.r.fail("serv%d owns generation %d, which was owned before (%s)", a.self+1, word.Gen(), why)
	}
	a.r.owned[a.self] |= bit
}
func (a raceAround) passed(*frame)       {}
func (a raceAround) news()               {}
func (a raceAround) fresh() uint64       { panic("sim: nobody boots in the world of races") }
func (a raceAround) trueTime() int64     { return a.r.now }
func (a raceAround) logf(string, ...any) {}

func (r *races) fail(format string, args ...any) {
	if r.wrong == nil {
		text := fmt.Sprintf(format, args...)
		r.wrong = &text
	}
}

// newRaces is a pair in which all is well: each has just heard the other.
func newRaces(kind *RaceKind, p *Params, heldUp int) *races {
	r := &races{kind: kind, now: forEver / 2, mostHeldUp: heldUp}
	for i := range r.k {
		k := &r.k[i]
		*k = kernel{
			p: p, self: i, boot: uint64(10 + i), nonce: uint64(20 + i), peerBoot: uint64(11 - i), peerNonce: uint64(21 - i),
			state: core.PeerUp, since: r.now - 8*quantum, started: r.now - 20*quantum, seq: 1,
			words: make([]core.Word, 1), peerWords: make([]core.Word, 1), floor: make([]uint64, 1),
			heardAny: r.now, granted: r.now, peerSent: r.now, serveUntil: r.now + p.Serve,
			renewed: r.now, leaseUntil: 2 * forEver,
		}
		k.heard[0], k.ticks[1], k.probeSeq[0], k.replySeq[0] = r.now, r.now, 1, 1
		r.ticked[i] = true
	}
	r.k[0].words[0], r.k[1].words[0] = core.MakeWord(core.Owner, firstGen), core.MakeWord(core.Ready, firstGen)
	r.k[0].peerWords[0], r.k[1].peerWords[0] = r.k[1].words[0], r.k[0].words[0]
	r.owned[0] = 1 << firstGen
	r.surround()
	if kind.before != nil {
		kind.before(r)
	}
	return r
}

func (r *races) surround() {
	for i := range r.k {
		r.mine[i] = raceAround{r, i}
		r.k[i].around = &r.mine[i]
	}
}

func (r *races) clone() *races {
	c := *r
	c.sent = append([]flight(nil), r.sent...)
	for i := range c.k {
		k := &c.k[i]
		words := [2]core.Word{k.words[0], k.peerWords[0]}
		k.words, k.peerWords = words[0:1:1], words[1:2:2]
		if c.in[i] != nil {
			in := *c.in[i]
			c.in[i] = &in
		}
		if c.det[i] != nil {
			det := *c.det[i]
			c.det[i] = &det
		}
		if c.ask[i] != nil {
			ask := *c.ask[i]
			c.ask[i] = &ask
		}
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

// worthALook leaves out runs of the detector that would change nothing.
func worthALook(k *kernel, now int64) bool {
	silence := now - k.lastEvidence()
	switch k.state {
	case core.PeerUnknown:
		return k.lastEvidence() != 0 || now-k.started >= k.p.Hold
	case core.PeerUp:
		return silence >= k.p.Suspect || !k.leaseValid(now) && k.words[0].Has(core.Owner)
	case core.PeerSuspect:
		return silence < k.p.Suspect || silence >= k.p.Dead
	}
	return true
}

func (r *races) userMoves(n uint8, list []move) []move {
	k := &r.k[n]
	w, theirs := k.words[0], k.peerWords[0]
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
		r.sent = append(r.sent, flight{probes[0], 1 - n, r.now})
	case isLost:
		r.takeOut(m.arg)
	case frameArrives:
		f := r.takeOut(m.arg)
		if !k.hbFresh(&f, r.now) {
			break
		}
		r.in[n] = &arrival{f: f, now: r.now}
		r.arrival(n, m.steps)
	case arrivalGoesOn:
		r.arrival(n, m.steps)
	case detectorRuns:
		if r.det[n] == nil {
			r.det[n] = &detection{now: r.now}
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
	r.look()
}

// run lets a processor do so many steps, or all; it reports whether it has done all. The checker
// looks on after each.
func (r *races) run(steps uint8, step func() bool) bool {
	for done := uint8(1); ; done++ {
		if !step() {
			return true
		}
		r.look()
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
		r.sent = append(r.sent, flight{*a.answer, 1 - n, r.now})
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
	r.said++
	switch m.what {
	case userArms:
		r.said-- // it always does, sooner or later
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

func (r *races) takeOut(i uint8) frame {
	f := r.sent[i].f
	r.sent = append(r.sent[:i:i], r.sent[i+1:]...)
	return f
}

// look is the checker.
func (r *races) look() {
	if r.k[0].gateOpen(0, r.now) && r.k[1].gateOpen(0, r.now) {
		r.fail("both gates are open: %v and %v", r.k[0].words[0], r.k[1].words[0])
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

func (f flight) String() string {
	kind := "probe"
	if f.f.reply {
		kind = "reply"
	}
	return fmt.Sprintf("%s %d of serv%d (%v, grants %v)", kind, f.f.seq, 2-f.to, f.f.words[0], f.f.grant != 0)
}

// encode is the state in bytes, by relative times: two states of one encoding have one future.
func (r *races) encode(b []byte) []byte {
	e := encoder{b[:0], r.now}
	for i := range r.k {
		e.kernel(&r.k[i])
		e.bools(r.ticked[i], r.asked[i], r.in[i] != nil, r.det[i] != nil, r.ask[i] != nil)
		e.number(r.owned[i])
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
	for i := range r.sent {
		e.frame(&r.sent[i].f)
		e.number(uint64(r.sent[i].to))
	}
	return e.b
}

type encoder struct {
	b   []byte
	now int64
}

func (e *encoder) number(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

func (e *encoder) bools(list ...bool) {
	for _, v := range list {
		if v {
			e.b = append(e.b, 1)
		} else {
			e.b = append(e.b, 0)
		}
	}
}

// times are encoded as how long ago they are; never is apart, and what lasts for ever too.
func (e *encoder) times(list ...int64) {
	for _, t := range list {
		switch {
		case t <= 1:
			e.b = append(e.b, byte(t))
		case t >= 2*forEver:
			e.b = append(e.b, 2)
		default:
			e.b = binary.AppendVarint(append(e.b, 3), e.now-t)
		}
	}
}

// kernel leaves out what no step of this world reads: who the peer is, and what it says to the
// daemon only; and what is the same all the time.
func (e *encoder) kernel(k *kernel) {
	e.number(uint64(k.state))
	e.number(uint64(k.words[0]))
	e.number(uint64(k.peerWords[0]))
	e.times(k.since, k.suspectAt, k.heard[0], k.heardAny, k.serveUntil, k.granted, k.peerSent, k.peerSolo, k.peerSoloSent,
		k.reachSent, k.reachOK, k.reach[0][0], k.reach[1][0], k.majoritySince, k.isolatedSince, k.notBefore, k.leaseUntil)
	e.times(k.ticks[:]...)
	e.number(k.seq % ticks)
	e.number(k.seq - k.probeSeq[0])
	e.number(k.seq - k.replySeq[0])
	e.number(uint64(k.reachWait))
}

func (e *encoder) frame(f *frame) {
	e.bools(f.reply, f.solo)
	e.number(f.seq)
	e.times(f.sent, f.grant)
	e.number(uint64(f.words[0]))
}

func (r *races) failure() string {
	if r.wrong == nil {
		return ""
	}
	return *r.wrong
}
