// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

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
		silence, limit := r.now-k.other().lastEvidence(), k.p.Dead
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

var aQuantum = move{what: timePasses}

func speaks(n uint8) move   { return move{what: nodeTicks, node: n} }
func looks(n uint8) move    { return move{what: detectorRuns, node: n} }
func answered(n uint8) move { return move{what: hostsAnswer, node: n} }

// suspected: the second node has heard nothing for two quanta, and has the hosts' leave.
func suspected(r *races) {
	r.story(aQuantum, looks(1), speaks(1), aQuantum)
	r.sent = nil
	r.story(speaks(1), answered(1))
	r.sent = nil
}

// taken: it has declared death, and hears the old owner, which has not heard it.
func taken(r *races) {
	suspected(r)
	r.story(aQuantum, looks(1), aQuantum, speaks(0), move{what: frameArrives, node: 1}, looks(1))
	r.sent = nil
	if r.k[1].other().state != core.PeerUp || !r.k[1].words[0].Has(core.Owner) {
		panic("sim: it has not taken over")
	}
}

// alone: the owner has declared the second node dead.
func alone(r *races) {
	r.story(aQuantum, looks(0), speaks(0), aQuantum)
	r.sent = nil
	r.story(speaks(0), answered(0), aQuantum, looks(0))
	r.sent = nil
	if r.k[0].other().state != core.PeerDead {
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
	r.story(speaks(0), answered(0), move{what: frameArrives, node: 1})
	r.sent = nil
	if r.k[1].other().solo == 0 {
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
		if r.now-r.k[1].other().lastEvidence() >= silence {
			return
		}
		r.story(aQuantum)
	}
}

// heardAgain: neither has heard anything for a quantum; and then the owner may.
func heardAgain(r *races) {
	r.story(aQuantum, looks(0), looks(1), speaks(1), aQuantum)
	r.sent = nil
}

// deaf: the owner has heard nothing for two quanta, and has the hosts' leave.
func deaf(r *races) {
	r.story(aQuantum, looks(0), speaks(0), aQuantum)
	r.sent = nil
	r.story(speaks(0), answered(0))
	r.sent = nil
}
