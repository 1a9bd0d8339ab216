// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// write is a change of the data.
type write struct {
	number int
	term   string // its draw
	kept   bool   // it was the term's first, or was written while the other node was away: it is never lost unasked
}

// disk is a node's data, as what was written, and what is remembered of it.
type disk struct {
	past past
	seen uint64
	data map[write]bool
	torn bool // a run of a term that it has had no complete copy of was cut off
}

func (d disk) copy() disk {
	return disk{append(past(nil), d.past...), d.seen, maps.Clone(d.data), d.torn}
}

// lacks reports that another one's data has what this has not; what a copy of its term was too early for is lost rightly.
func (d *disk) lacks(o *disk) bool {
	for w := range o.data {
		excused := !w.kept && slices.ContainsFunc(d.past, func(t term) bool { return t.Draw == w.term })
		if !d.data[w] && !excused {
			return true
		}
	}
	return false
}

// world is two nodes, and what happens to them.
type world struct {
	*testing.T
	*rand.Rand
	nodes  [2]disk
	owner  int
	writes int
	away   bool // the nodes do not hear each other
	alone  bool // the owner has noted that
	gentle bool // no disk was touched, and nobody went on from a part of a copy
	copies int
	asked  int // times that a node was told that the other one's data is newer
}

// own has a node own at the next generation that is its by what it and those know that it hears.
func (w *world) own(self int, known uint64) {
	d := &w.nodes[self]
	g := max(d.seen, known) + 1
	if ownerOf(g) != self {
		g++
	}
	w.gentle = w.gentle && !d.torn
	w.owner, w.alone, d.torn = self, false, false
	d.seen, d.past = g, d.past.begin(g)
	w.write(true)
}

// write is by the owner: alone in a term of that, after some time.
func (w *world) write(first bool) {
	d := &w.nodes[w.owner]
	if len(d.past) == 0 {
		return
	}
	if w.away && !w.alone {
		w.alone = true
		d.past = d.past.begin(d.past.last().Generation)
	}
	w.writes++
	d.data[write{w.writes, d.past.last().Draw, first || w.alone}] = true
}

// send copies the owner's data to the other node, if that may be: all of it, or what a run gets done, or what has changed.
func (w *world) send(part bool) {
	from, to := &w.nodes[w.owner], &w.nodes[1-w.owner]
	last := from.past.last()
	if w.away || last.Generation < to.seen || len(from.past) == 0 || len(from.past) > mostTerms {
		return
	}
	to.seen = last.Generation
	may, lost := from.past.holds(to.past.last()), from.lacks(to)
	switch {
	case may && lost && (w.gentle || !to.torn): // a part of what a disk had that was replaced since is not known of
		w.Errorf("what %v has is overwritten by %v", to.past, from.past)
	case !may && !lost && w.gentle:
		w.Errorf("%v is not taken for a part of %v", to.past, from.past)
	case !may:
	case part:
		some := w.Uint64()
		maps.DeleteFunc(to.data, func(x write, _ bool) bool { return !from.data[x] && some>>(x.number%64)&1 == 1 })
		for x := range from.data {
			if some>>(x.number%64)&1 == 1 {
				to.data[x] = true
			}
		}
		to.torn = to.torn || !to.past.holds(last)
	default:
		if !to.past.last().is(last) {
			w.copies++
		}
		to.past, to.data, to.torn = from.past.shared(last), maps.Clone(from.data), false
		if w.IntN(3) > 0 { // else the word that it is there is lost
			from.past = from.past.shared(last)
		}
	}
}

// ask has a node ask whether the other one's data is newer.
func (w *world) ask(i int) {
	mine, its := &w.nodes[i], &w.nodes[1-i]
	newer := mine.past.behind(its.past)
	switch {
	case newer && its.past.behind(mine.past):
		w.Errorf("each has the newer data: %v, %v", mine.past, its.past)
	case newer:
		w.asked++
	case !mine.torn && !its.torn && mine.lacks(its) && !its.lacks(mine):
		w.Errorf("%v is not told of what %v has", mine.past, its.past)
	}
}

// Any order of owners, apart or one after the other, who write again and again, with copies, parts of such, and without; disks
// are replaced, and put back from backups.
func TestOnlyDataThatTheOtherHasIsOverwritten(t *testing.T) {
	copies, asked := 0, 0
	for seed := range uint64(3000) {
		w := &world{T: t, Rand: rand.New(rand.NewPCG(seed, 7)), gentle: true}
		w.nodes = [2]disk{{data: map[write]bool{}}, {data: map[write]bool{}}}
		backups := [2]disk{w.nodes[0].copy(), w.nodes[1].copy()}
		for range 100 {
			i := w.IntN(2)
			switch n := w.IntN(30); {
			case n < 3: // after a failure, or by force: what the other one has may be newer
				w.own(i, 0)
			case n < 6: // in order
				w.own(i, w.nodes[1-i].seen)
			case n < 12:
				w.write(false)
			case n < 18:
				w.send(false)
			case n < 23:
				w.send(true)
			case n < 25:
				w.ask(i)
			case n < 27:
				w.away, w.alone = !w.away, false
			case n == 27 && !(i == w.owner && w.alone): // that a term went on after a backup is not told from it
				backups[i] = w.nodes[i].copy()
			case n == 28 && seed%2 == 1:
				w.gentle, w.alone = false, false
				w.nodes[i] = backups[i].copy()
			case n == 29 && seed%2 == 1:
				w.gentle, w.alone = false, false
				w.nodes[i] = disk{data: map[write]bool{}}
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		copies, asked = copies+w.copies, asked+w.asked
	}
	if copies < 5000 || asked < 1000 {
		t.Errorf("only %d copies were made, and %d times newer data was told of: this shows little", copies, asked)
	}
}

// A node that takes and loses it alone for weeks still knows what the other one has of it.
func TestAPastStaysShortAndKnowsWhatTheOtherNodeHas(t *testing.T) {
	all := past(nil).begin(4)
	theirs := all.last()
	all = all.shared(theirs)
	for g := uint64(6); g < 4000; g += 2 {
		all = all.begin(g)
	}
	if len(all) != mostTerms || !all.holds(theirs) || !all.holds(all.last()) {
		t.Errorf("%d terms: %v", len(all), all)
	}
	if other := past(nil).begin(4); all.holds(other.last()) {
		t.Error("a term of the same number, on another disk, counts as the same")
	}
	for g := uint64(4001); g < 4400; g++ {
		all = all.begin(g)
		all = all.shared(all.last())
	}
	if len(all) != mostTerms || all.last().Generation != 4399 {
		t.Errorf("of changes with a copy each: %d terms: %v", len(all), all)
	}
}

func TestWherePastsPartIsKnown(t *testing.T) {
	common := past(nil).begin(4).begin(6)
	a, b := common.begin(8).begin(10), common.begin(7)
	if got := a.parted(b); got != 6 {
		t.Errorf("parted after %d", got)
	}
	if got := a.parted(past(nil).begin(10)); got != 0 {
		t.Errorf("nothing in common: %d", got)
	}
}

// serv2 is away for hours while serv1 goes on at the same generation. Then both boot; or serv1 still owns it.
func TestWhoWasAwayKnowsThatItsCopyIsOld(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "1")
	r.flows(t, serv1Owns)
	r.a.sync()
	if r.b.peerIsNewer() {
		t.Error("serv2's copy is complete, and counts as old")
	}
	r.b.follow(serv1Owns, None) // away
	r.a.do("Alone", uint64(serv1Owns))
	r.a.write("file", "three hours later")
	r.a.restart()
	r.b.restart()
	if !r.b.peerIsNewer() || r.a.peerIsNewer() {
		t.Error("that serv1 has the newer data is not what both say when they are asked")
	}
	r.flows(t, serv1Owns)
	eventually(t, "serv2's copy is whole", func() bool { return r.b.view().Whole })
	if got := r.b.read("file"); got != "three hours later" || r.b.peerIsNewer() {
		t.Errorf("serv2 has %q, and asks again: %+v", got, r.b.view())
	}
}

// serv2 stood still for hours, as a virtual machine may, and has noticed nothing.
func TestARunTellsThatTheCopyIsOld(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "1")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.do("Unmount", r.path) // the runs to come end before the copy is complete
	r.a.do("Alone", uint64(serv1Owns))
	var s Stats
	if err := r.a.try("Sync", time.Minute, &s); err == nil || !strings.Contains(err.Error(), "serv2 refuses") {
		t.Fatalf("a run to what is not mounted: %v", err)
	}
	if r.b.view().Whole {
		t.Error("serv2 has no copy of what serv1 wrote meanwhile, was told so, and its own counts as whole")
	}
}

// serv2, standby, reboots; serv1 serves alone meanwhile. serv2 is back and gets, as it changes, what serv1 has written.
// Then serv1 dies, serv2 goes on, and serv1 comes back.
func TestAStandbyThatRebootedIsInNoDispute(t *testing.T) {
	r := newRig(t, config.Mirror{OnChange: true})
	r.a.write("file", "1")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.follow(serv1Owns, None) // reboots
	r.a.do("Alone", uint64(serv1Owns))
	r.a.write("file", "two, of them all")
	r.b.follow(serv1Owns, Standby) // is back
	r.a.follow(serv1Owns, Owner)   // the peer is heard: tried again
	eventually(t, "serv2 is asked, and ready", func() bool { return !r.b.peerIsNewer() })
	if got := r.b.read("file"); got != "two, of them all" {
		t.Errorf("serv2 counts as ready with %q", got)
	}
	r.a.follow(serv2Next, Standby)
	r.b.follow(serv2Next, Owner)
	r.b.sync()
}
