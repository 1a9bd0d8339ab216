// SPDX-License-Identifier: Apache-2.0

package core

import "testing"

// Whom a word names and its generation leave each other and the flags alone, for each of 16 nodes.
func TestAWordNamesWhoIsMeant(t *testing.T) {
	const highest = 1<<48 - 1
	for node := range 16 {
		for _, gen := range []uint64{0, 1, highest} {
			w := MakeWord(Owner|Yield|ToNode(node), gen)
			if to, ok := w.To(); !ok || to != node {
				t.Errorf("%v names node %d, %v, and not %d", w, to, ok, node)
			}
			if w.Gen() != gen || !w.Has(Owner|Yield) || w.Has(Ready) || w.Has(Want) || w.Has(Staged) || w.Has(Demand) {
				t.Errorf("node %d, generation %d: %v", node, gen, w)
			}
		}
	}
	if to, ok := MakeWord(Yield, highest).To(); ok {
		t.Errorf("a word that names nobody names node %d", to)
	}
	if w := MakeWord(Yield, highest+1); w != Yield {
		t.Errorf("a generation above the highest becomes %v", w)
	}
}

// A node's generations are its own: of any two nodes none has one that the other has.
func TestGenerationsAreOfOneNode(t *testing.T) {
	for nodes := 2; nodes <= 16; nodes++ {
		var names []string
		for range nodes {
			names = append(names, "node")
		}
		for self := range nodes {
			m := New(Config{Self: self, Nodes: names, Identities: []IdentityConfig{{Name: "files", Floor: 40}}}, Saved{})
			for gen := range uint64(100) {
				next, least := m.next(m.ids[0], gen), max(gen, 40)
				if next <= least || next > least+uint64(nodes) || next%uint64(nodes) != uint64(self) {
					t.Fatalf("node %d of %d: %d comes after %d", self, nodes, next, gen)
				}
			}
		}
	}
}
