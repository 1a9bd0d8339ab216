// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Tally is what a number of faults come to.
type Tally struct {
	stats.Spread
	ChangeNS    int64 `json:"median_change_ns"` // median of the silences in which the owner changed
	Faults      int   `json:"faults"`
	DualAnswers int   `json:"dual_answers"`  // answers by a node after the other had taken over from it, or by both
	Overlaps    int   `json:"overlaps"`      // frames with an identity's MAC by such a node, as the switches saw them
	NotServed   int   `json:"not_served"`    // faults after which the node that should serve did not
	Unasked     int   `json:"moved_unasked"` // times that the identity moved before anything was broken
}

// two is how often somebody saw two owners.
func (t Tally) two() int { return t.DualAnswers + t.Overlaps }

func (t Tally) good() bool { return t.two() == 0 && t.NotServed == 0 }

// sum adds up all that the faults themselves tell.
func (t *Tally) sum(falls []lab.Fall) {
	*t = Tally{Faults: len(falls), Unasked: t.Unasked}
	var outages, changes []int64
	for _, f := range falls {
		if f.ChangeNs > 0 {
			changes = append(changes, f.ChangeNs)
		}
		outages = append(outages, f.OutageNs)
		t.DualAnswers += f.DualAnswers
		t.Overlaps += overlaps(f)
		if !f.Served {
			t.NotServed++
		}
	}
	t.Spread, t.ChangeNS = stats.Of(outages), stats.Of(changes).MedianNS
}

// overlaps of both identities, during the fault and after it.
func overlaps(f lab.Fall) (n int) {
	for _, v := range [][]int{f.Overlaps, f.Returns} {
		for _, x := range v {
			n += x
		}
	}
	return n
}
