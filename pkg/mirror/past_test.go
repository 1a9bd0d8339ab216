// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// disk is a node's data, as the terms in which it was written, and what is remembered of it.
type disk struct {
	past past
	seen uint64
	data map[string]bool
}

func (d disk) copy() disk { return disk{append(past(nil), d.past...), d.seen, maps.Clone(d.data)} }

// own has a node own at the next generation that is its by what it and those know that it hears.
func (d *disk) own(self int, known uint64) {
	g := max(d.seen, known) + 1
	if ownerOf(g) != self {
		g++
	}
	d.seen, d.past = g, d.past.begin(g)
	d.data[d.past.last().Draw] = true // something is written
}

// send copies a node's data to the other one, if that may be.
func send(t *testing.T, from, to *disk, gentle bool) (heard bool) {
	if from.past.last().Generation < to.seen || len(from.past) == 0 || len(from.past) > mostTerms {
		return true
	}
	to.seen = from.past.last().Generation
	lost := false
	for w := range to.data {
		lost = lost || !from.data[w]
	}
	may := from.past.holds(to.past.last())
	if may && lost {
		t.Errorf("what %v has is overwritten by %v", to.past, from.past)
	}
	if !may && !lost && gentle {
		t.Errorf("%v is not taken for a part of %v", to.past, from.past)
	}
	if may {
		to.past, to.data = from.past.shared(from.past.last()), maps.Clone(from.data)
		return false // the answer may be lost
	}
	return true
}

// Any order of owners, apart or one after the other, with copies and without; disks are replaced, and put back from backups.
func TestOnlyDataThatTheOtherHasIsOverwritten(t *testing.T) {
	copies := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 7))
		nodes := [2]disk{{data: map[string]bool{}}, {data: map[string]bool{}}}
		backups := [2]disk{nodes[0].copy(), nodes[1].copy()}
		gentle := true // no disk was touched
		owner := 0
		for range 60 {
			i := r.IntN(2)
			switch n := r.IntN(20); {
			case n < 6: // after a failure, or by force: what the other one has may be newer
				owner = i
				nodes[i].own(i, 0)
			case n < 10: // in order
				owner = i
				nodes[i].own(i, nodes[1-i].seen)
			case n < 17:
				from, to := &nodes[owner], &nodes[1-owner]
				before := to.past.last()
				if !send(t, from, to, gentle) && !to.past.last().is(before) {
					copies++
					if r.IntN(3) > 0 { // else the word that it is there is lost
						from.past = from.past.shared(from.past.last())
					}
				}
			case n == 17 && seed%3 == 0: // the owner goes on alone, at its generation
				if o := &nodes[owner]; len(o.past) > 0 {
					o.past = o.past.begin(o.past.last().Generation)
					o.data[o.past.last().Draw] = true
				}
			case n == 17:
				backups[i] = nodes[i].copy()
			case n == 18 && seed%2 == 1:
				gentle = false
				nodes[i] = backups[i].copy()
			case n == 19 && seed%2 == 1:
				gentle = false
				nodes[i] = disk{data: map[string]bool{}}
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
	if copies < 5000 {
		t.Errorf("only %d copies were made: this shows little", copies)
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
