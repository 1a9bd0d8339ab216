// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"crypto/rand"
	"slices"
)

// term is one time of an owner in which it may have written.
type term struct {
	Generation uint64 `json:"generation"`
	// Draw tells it from another one of the same generation: what an owner writes alone is of one of its own,
	// and a node whose disk was replaced, or put back from a backup, counts anew.
	Draw string `json:"draw"`
	Both bool   `json:"both,omitempty"` // the other node has had all of it
}

func (t term) is(o term) bool { return t.Generation == o.Generation && t.Draw == o.Draw }

// past is the terms that data has gone through, the last one last. One node's data holds all of the
// other's if the other's last term is among its own; else each has what the other has not. Numbers alone
// do not tell: both nodes may have served apart, each for many generations.
type past []term

// mostTerms are remembered. What no node can still be at goes first.
const mostTerms = 32

// last is the term that the data is of; none is that of generation 0.
func (p past) last() term {
	if len(p) == 0 {
		return term{}
	}
	return p[len(p)-1]
}

// holds reports that data with this past holds all of data that is of a term.
func (p past) holds(t term) bool {
	return t.Generation == 0 || slices.ContainsFunc(p, t.is)
}

// behind reports that other data is to be gone on from: it holds all of this and more, or each has what the other has
// not, and it is of a later owner's.
func (p past) behind(o past) bool {
	return !p.holds(o.last()) && (o.holds(p.last()) || o.last().Generation > p.last().Generation)
}

// parted is the generation of the last term that two have in common, or 0.
func (p past) parted(o past) uint64 {
	for _, t := range slices.Backward(p) {
		if slices.ContainsFunc(o, t.is) {
			return t.Generation
		}
	}
	return 0
}

// begin is the past of who goes on from it as the owner at a generation.
func (p past) begin(generation uint64) past {
	return append(slices.Clone(p), term{Generation: generation, Draw: rand.Text()}).short()
}

// shared is it with a term of it on both nodes.
func (p past) shared(t term) past {
	p = slices.Clone(p)
	if i := slices.IndexFunc(p, t.is); i >= 0 {
		p[i].Both = true
	}
	return p.short()
}

// short leaves out terms, first those that the other node never had all of: however often a node takes
// and loses it alone, what the other one has of it stays known.
func (p past) short() past {
	for len(p) > mostTerms {
		i := max(0, slices.IndexFunc(p[:len(p)-1], func(t term) bool { return !t.Both }))
		p = slices.Delete(p, i, i+1)
	}
	return p
}
