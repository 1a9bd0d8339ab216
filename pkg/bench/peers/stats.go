// SPDX-License-Identifier: Apache-2.0

package peers

import "github.com/xdpha/xdpha/pkg/bench/stats"

// Series is one contender under one fault.
type Series struct {
	Contender string  `json:"contender"`
	Fault     Fault   `json:"fault"`
	Rounds    []Round `json:"rounds"`
	Summary
}

// Summary is what a series comes to.
type Summary struct {
	MedianNS    int64 `json:"median_ns"`
	P90NS       int64 `json:"p90_ns"`
	MaxNS       int64 `json:"max_ns"`
	DualAnswers int   `json:"dual_answers"`         // in all rounds
	Unanswered  int   `json:"unanswered_ends"`      // rounds at whose end nobody answered
	Unasked     int   `json:"rounds_moved_unasked"` // rounds in which the address left home with nothing broken
	Asked       int   `json:"rounds_asked"`         // rounds in which the nodes were asked
	BothAnswer  int   `json:"rounds_both_answer"`   // rounds in which both nodes answered the same ARP request
	BothHold    int   `json:"rounds_both_hold"`     // rounds in which the address was on both nodes
}

// Ratio is how many times longer a contender's median outage is than xdpha's, of the same fault.
type Ratio struct {
	Contender string  `json:"contender"`
	Fault     Fault   `json:"fault"`
	Value     float64 `json:"value"`
	TwoOwners bool    `json:"two_owners"` // in some round both nodes claimed the address, so there was less to be silent about
}

func summarize(rounds []Round) (s Summary) {
	var outages []int64
	for _, r := range rounds {
		outages = append(outages, r.OutageNS)
		s.DualAnswers += r.DualAnswers
		if !r.Restored {
			s.Unanswered++
		}
		if r.Unasked {
			s.Unasked++
		}
		if r.Asked {
			s.Asked++
		}
		if r.BothAnswer > 0 {
			s.BothAnswer++
		}
		if r.BothHold {
			s.BothHold++
		}
	}
	all := stats.Of(outages)
	s.MedianNS, s.P90NS, s.MaxNS = all.MedianNS, all.P90NS, all.MaxNS
	return s
}

// ratios compares every contender with xdpha.
func ratios(all []Series) []Ratio {
	ours := map[Fault]int64{}
	for _, s := range all {
		if s.Contender == nameXdpha {
			ours[s.Fault] = s.MedianNS
		}
	}
	var out []Ratio
	for _, s := range all {
		if base := ours[s.Fault]; s.Contender != nameXdpha && base > 0 {
			out = append(out, Ratio{s.Contender, s.Fault, float64(s.MedianNS) / float64(base), s.BothAnswer > 0})
		}
	}
	return out
}
