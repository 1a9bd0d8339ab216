// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// What the worlds have in common of which all orders are looked at: few nodes, one link, one identity.
//
// Time goes by whole quanta of four units. The timings are as small as their relations allow, and
// both clocks go alike: what their rates and a frame's last way cost is left to the derived
// timings, which the seeds of the larger world try.
const (
	quantum  = 4
	firstGen = 2 // the first node owns it, to begin with, in a pair
	forEver  = 1 << 40
	mostSent = 2 // frames on their way
)

func smallTimings(mutation string) Params {
	return Params{
		Probe: quantum, Suspect: quantum, Dead: 3 * quantum, Serve: 3 * quantum, Solo: 8 * quantum, SoloOver: 8 * quantum,
		Late: 3 * quantum, Hold: 20 * quantum, Lease: forEver, ReachEvery: quantum, Confirm: 1, Nodes: 2, Reach: true, mutation: mutation,
	}
}

// flight is a frame on its way.
type flight struct {
	f  frame
	to int
}

func (f flight) String() string {
	kind := "probe"
	if f.f.reply {
		kind = "reply"
	}
	return fmt.Sprintf("%s %d of serv%d (%v, grants %v)", kind, f.f.seq, f.f.from+1, f.f.words[0], f.f.grant != 0)
}

type flights []flight

func (s *flights) takeOut(i uint8) frame {
	f := (*s)[i].f
	*s = append((*s)[:i:i], (*s)[i+1:]...)
	return f
}

// witness is the checker: what was owned by whom, and the first thing that must not be.
type witness struct {
	owned [maxNodes]uint64 // by node, a bit for each generation
	wrong string
}

func (w *witness) failure() string { return w.wrong }

func (w *witness) fail(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

// look is at two nodes that have power.
func (w *witness) look(a, b *kernel, now int64) {
	if a.gateOpen(0, now) && b.gateOpen(0, now) {
		w.fail("both gates are open: %v and %v", a.words[0], b.words[0])
	}
}

// onlooker tells the witness what a kernel does.
type onlooker struct {
	*witness
	now  *int64
	self int
}

func (o onlooker) changes(_ int, old, word core.Word, why string) {
	if word.Gen() < old.Gen() {
		o.fail("serv%d: the generation falls from %d to %d (%s)", o.self+1, old.Gen(), word.Gen(), why)
	}
	if !word.Has(core.Owner) || old.Has(core.Owner) && old.Gen() == word.Gen() {
		return
	}
	if word.Gen() > 63 {
		panic("sim: a small world has used up its generations")
	}
	bit := uint64(1) << word.Gen()
	for node, owned := range o.owned {
		if owned&bit != 0 {
			o.fail("serv%d owns generation %d, which serv%d has owned (%s)", o.self+1, word.Gen(), node+1, why)
		}
	}
	o.owned[o.self] |= bit
}

func (onlooker) passed(*frame)       {}
func (o onlooker) trueTime() int64   { return *o.now }
func (onlooker) logf(string, ...any) {}

// apart gives a kernel that was copied what it would share with the other: what changes of it.
func (k *kernel) apart() {
	var words [1 + maxNodes]core.Word
	words[maxNodes] = k.words[0]
	k.words = words[maxNodes:]
	k.peers = slices.Clone(k.peers)
	for node := range k.peers {
		if p := &k.peers[node]; node != k.self {
			words[node] = p.words[0]
			p.words = words[node : node+1 : node+1]
		}
	}
	k.taken, k.leave, k.leaveGen = slices.Clone(k.taken), slices.Clone(k.leave), slices.Clone(k.leaveGen)
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// worthALook leaves out runs of the detector that would change nothing.
func worthALook(k *kernel, now int64) bool {
	p := k.other()
	silence := now - p.lastEvidence()
	switch p.state {
	case core.PeerUnknown:
		return p.lastEvidence() != 0 || now-k.started >= k.p.Hold
	case core.PeerUp:
		return silence >= k.p.Suspect || !k.leaseValid(now) && k.words[0].Has(core.Owner)
	case core.PeerSuspect:
		return silence < k.p.Suspect || silence >= k.p.Dead
	}
	return true
}

// encoder writes a state in bytes, by relative times: two states of one encoding have one future.
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
	e.number(uint64(k.words[0]))
	e.times(k.serveUntil, k.reachSent, k.reachOK, k.reach[0][0], k.reach[1][0], k.majoritySince, k.isolatedSince, k.notBefore, k.leaseUntil)
	e.times(k.ticks[:]...)
	e.number(k.seq % ticks)
	e.number(uint64(k.reachWait))
	for node := range k.peers {
		if node != k.self {
			e.peer(k, &k.peers[node])
		}
	}
}

func (e *encoder) peer(k *kernel, p *peer) {
	e.number(uint64(p.state))
	e.number(uint64(p.words[0]))
	e.times(p.since, p.suspectAt, p.heard[0], p.heardAny, p.granted, p.sent, p.solo, p.soloSent)
	e.number(k.seq - p.probeSeq[0])
	e.number(k.seq - p.replySeq[0])
}

// boots is what a step reads where nodes boot.
func (e *encoder) boots(k *kernel) {
	e.number(k.boot)
	e.number(k.floor[0])
	e.times(k.started)
	for node := range k.peers {
		if p := &k.peers[node]; node != k.self {
			for _, v := range []uint64{p.myNonce, p.myNonceBefore, p.boot, p.nonce, p.unproven[0]} {
				e.number(v)
			}
			e.times(p.knocked)
		}
	}
}

func (e *encoder) frame(f *frame) {
	e.bools(f.reply, f.solo)
	for _, v := range []uint64{f.seq, f.boot, f.nonce, f.echo} {
		e.number(v)
	}
	e.times(f.sent, f.grant)
	e.number(uint64(f.words[0]))
}

func (e *encoder) witness(w *witness) {
	for _, owned := range w.owned {
		e.number(owned)
	}
}

func (e *encoder) flights(sent flights) {
	for i := range sent {
		e.frame(&sent[i].f)
		e.number(uint64(sent[i].f.from))
		e.number(uint64(sent[i].to))
	}
}
