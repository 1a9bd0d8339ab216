// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"math"
	"slices"
)

// Use is what something takes of a node, or what a node has to give.
type Use struct {
	CPU    float64 `json:"cpu"`    // processors
	Memory float64 `json:"memory"` // bytes
	IO     float64 `json:"io"`     // bytes read and written in a second
}

// Plus is the sum of both.
func (u Use) Plus(v Use) Use { return Use{u.CPU + v.CPU, u.Memory + v.Memory, u.IO + v.IO} }

// Share is the largest part of any resource of has that u takes. What a node has none of
// given is not counted.
func (u Use) Share(has Use) float64 {
	part := func(used, there float64) float64 {
		if there <= 0 {
			return 0
		}
		return used / there
	}
	return max(part(u.CPU, has.CPU), part(u.Memory, has.Memory), part(u.IO, has.IO))
}

// Node is a server and what it has. An IO of 0 is not known, and does not limit.
type Node struct {
	Name string `json:"name"`
	Has  Use    `json:"has"`
}

// Identity is what is placed: the sum of its exclusive services.
type Identity struct {
	Name string
	Home int // index of a Node
	Use  Use
}

// Split is a home for each identity, in their order, and what follows of it.
type Split struct {
	Homes []int     `json:"homes"`
	Uses  []Use     `json:"uses"`  // by node, concurrent services included
	Loads []float64 `json:"loads"` // by node: the largest share of a resource; 1 is all of it
}

// Worst is the load of the most loaded node.
func (s Split) Worst() float64 { return slices.Max(s.Loads) }

// Alone tells whether a node could carry everything.
type Alone struct {
	Use  Use     `json:"use"`
	Load float64 `json:"load"`
	Fits bool    `json:"fits"`
}

// Plan is today's split, the best one, and what each node would bear if it were alone.
type Plan struct {
	Now   Split   `json:"now"`
	Best  Split   `json:"best"`
	Alone []Alone `json:"alone"` // by node
}

// tries bounds the search. It is whole for two nodes and 16 identities.
const tries = 1 << 20

// Make plans. common is what the concurrent services take of every node. There are at least one
// node and homes that are nodes.
func Make(nodes []Node, identities []Identity, common Use) Plan {
	homes := make([]int, len(identities))
	all := common
	for i, id := range identities {
		homes[i] = id.Home
		all = all.Plus(id.Use)
	}
	s := search{nodes: nodes, identities: identities, common: common, left: tries}
	p := Plan{Now: s.split(homes)}
	p.Best = s.best(p.Now)
	for _, n := range nodes {
		load := all.Share(n.Has)
		p.Alone = append(p.Alone, Alone{Use: all, Load: load, Fits: load <= 1})
	}
	return p
}

type search struct {
	nodes      []Node
	identities []Identity
	common     Use
	left       int // steps that may still be taken

	order []int // identities, the heaviest first
	found Split
	moves int // of found
}

// split is what a choice of homes comes to.
func (s *search) split(homes []int) Split {
	out := Split{Homes: slices.Clone(homes), Uses: make([]Use, len(s.nodes)), Loads: make([]float64, len(s.nodes))}
	for n := range s.nodes {
		out.Uses[n] = s.common
	}
	for i, home := range homes {
		out.Uses[home] = out.Uses[home].Plus(s.identities[i].Use)
	}
	for n, node := range s.nodes {
		out.Loads[n] = out.Uses[n].Share(node.Has)
	}
	return out
}

// best tries every split, the heaviest identities first, and gives up what can no longer be
// better than the best so far; today's is the first.
func (s *search) best(now Split) Split {
	s.found = now
	whole := Use{}
	for _, n := range s.nodes {
		whole = whole.Plus(n.Has)
	}
	for i := range s.identities {
		s.order = append(s.order, i)
	}
	slices.SortStableFunc(s.order, func(a, b int) int {
		return cmp.Compare(s.identities[b].Use.Share(whole), s.identities[a].Use.Share(whole))
	})
	uses := make([]Use, len(s.nodes))
	for n := range uses {
		uses[n] = s.common
	}
	s.place(0, slices.Clone(now.Homes), uses, 0)
	return s.found
}

// place puts the identities from the k-th on where they weigh least.
func (s *search) place(k int, homes []int, uses []Use, moves int) {
	if s.left--; s.left < 0 {
		return
	}
	worst := 0.0
	for n, node := range s.nodes {
		worst = max(worst, uses[n].Share(node.Has))
	}
	if s.compare(worst, moves) >= 0 {
		return
	}
	if k == len(s.order) {
		s.found, s.moves = s.split(homes), moves
		return
	}
	i := s.order[k]
	id := s.identities[i]
	choices := make([]int, len(s.nodes))
	for n := range choices {
		choices[n] = n
	}
	slices.SortStableFunc(choices, func(a, b int) int {
		return cmp.Compare(uses[a].Plus(id.Use).Share(s.nodes[a].Has), uses[b].Plus(id.Use).Share(s.nodes[b].Has))
	})
	for _, n := range choices {
		before := uses[n]
		moved := 0
		if n != id.Home {
			moved = 1
		}
		homes[i], uses[n] = n, before.Plus(id.Use)
		s.place(k+1, homes, uses, moves+moved)
		uses[n] = before
	}
	homes[i] = id.Home
}

// compare orders a split that is not complete with the best so far: below 0 it may be better. Loads
// are compared in thousandths of a node.
func (s *search) compare(worst float64, moves int) int {
	const steps = 1000
	return cmp.Or(cmp.Compare(math.Floor(worst*steps), math.Floor(s.found.Worst()*steps)), cmp.Compare(moves, s.moves))
}
