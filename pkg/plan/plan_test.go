// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func pair() []Node {
	has := Use{CPU: 4, Memory: 8 << 30}
	return []Node{{"serv1", has}, {"serv2", has}}
}

// article is the company of the article: Samba and IMAP are the heaviest, all on the first node.
func article() ([]Identity, Use) {
	return []Identity{
			{"files", 0, Use{CPU: 1.6, Memory: 2 << 30}},
			{"imap", 0, Use{CPU: 1.4, Memory: 3 << 30}},
			{"upload", 0, Use{CPU: 0.3, Memory: 256 << 20}},
		},
		Use{CPU: 0.4, Memory: 512 << 20} // sendmail, bind, httpd, radius: on both
}

func TestTheHeaviestServicesArePutOnDifferentNodes(t *testing.T) {
	ids, common := article()
	p := Make(pair(), ids, common)
	if want := []int{1, 0, 0}; !slices.Equal(p.Best.Homes, want) {
		t.Errorf("homes %v, want %v", p.Best.Homes, want)
	}
	if p.Best.Worst() >= p.Now.Worst() {
		t.Errorf("the best split is as bad as today's: %v, %v", p.Best, p.Now)
	}
	if !p.Alone[0].Fits || math.Abs(p.Alone[0].Load-3.7/4) > 1e-9 {
		t.Errorf("one node alone: %+v", p.Alone[0])
	}
}

func TestWhatIsBalancedStays(t *testing.T) {
	ids := []Identity{{"a", 1, Use{CPU: 1}}, {"b", 0, Use{CPU: 1}}}
	p := Make(pair(), ids, Use{})
	if !slices.Equal(p.Best.Homes, []int{1, 0}) {
		t.Errorf("two equal ones change places: %v", p.Best.Homes)
	}
}

func TestAResourceThatIsNotKnownDoesNotCount(t *testing.T) {
	ids := []Identity{{"a", 0, Use{CPU: 1, IO: 1e9}}, {"b", 0, Use{CPU: 1}}, {"c", 1, Use{CPU: 2}}}
	if p := Make(pair(), ids, Use{}); !slices.Equal(p.Best.Homes, []int{0, 0, 1}) || !p.Alone[0].Fits {
		t.Errorf("%+v", p)
	}
}

func TestTheMemoryOfOneNodeMayNotBeEnough(t *testing.T) {
	ids := []Identity{{"a", 0, Use{Memory: 5 << 30}}, {"b", 1, Use{Memory: 5 << 30}}}
	if p := Make(pair(), ids, Use{}); p.Alone[0].Fits || p.Alone[1].Fits || p.Best.Worst() > 1 {
		t.Errorf("%+v", p)
	}
}

// TestNoSplitIsBetter compares with every split there is.
func TestNoSplitIsBetter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := pair()
		if rapid.Bool().Draw(t, "three") {
			nodes = append(nodes, Node{"serv3", Use{CPU: 2, Memory: 2 << 30}})
		}
		share := rapid.Float64Range(0, 1)
		var ids []Identity
		for range rapid.IntRange(1, 6).Draw(t, "identities") {
			ids = append(ids, Identity{"x", rapid.IntRange(0, len(nodes)-1).Draw(t, "home"), Use{CPU: share.Draw(t, "cpu"), Memory: share.Draw(t, "memory") * (1 << 30)}})
		}
		p := Make(nodes, ids, Use{CPU: share.Draw(t, "common")})
		s := search{nodes: nodes, identities: ids, common: p.Now.Uses[0]}
		s.common = Use{CPU: p.Alone[0].Use.CPU, Memory: p.Alone[0].Use.Memory}
		for _, id := range ids {
			s.common.CPU -= id.Use.CPU
			s.common.Memory -= id.Use.Memory
		}
		least := math.Inf(1)
		homes := make([]int, len(ids))
		for more := true; more; more = next(homes, len(nodes)) {
			least = min(least, s.split(homes).Worst())
		}
		if p.Best.Worst() > least+1.1e-3 {
			t.Errorf("the best of all splits loads %v, this one %v: %+v", least, p.Best.Worst(), p)
		}
		if p.Best.Worst() > p.Now.Worst()+1e-9 {
			t.Errorf("it is worse than today's: %+v", p)
		}
	})
}

// next counts homes up, and reports whether there was another one.
func next(homes []int, nodes int) bool {
	for i := range homes {
		if homes[i]++; homes[i] < nodes {
			return true
		}
		homes[i] = 0
	}
	return false
}

func TestManyIdentitiesArePlannedInTime(t *testing.T) {
	var ids []Identity
	nodes := pair()
	for len(nodes) < 16 {
		nodes = append(nodes, Node{"more", nodes[0].Has})
	}
	for i := range 16 {
		ids = append(ids, Identity{"x", 0, Use{CPU: 1 + float64(i)/16}})
	}
	if p := Make(nodes, ids, Use{}); p.Best.Worst() > 0.6 {
		t.Errorf("sixteen on sixteen nodes load %v", p.Best.Worst())
	}
}
