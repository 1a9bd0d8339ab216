// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"strings"
	"testing"
)

// balanced is the default profile.
func balanced(reach bool) Params { return Timings(ms, 5*ms, reach) }

func TestSeeds(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for name, p := range map[string]Params{"reach": balanced(true), "none": balanced(false), "fast, reach": Timings(250*us, ms, true)} {
		t.Run(name, func(t *testing.T) {
			var total Stats
			for seed := range seeds {
				r := Run(Options{Seed: seed, Params: p})
				if r.Violation != nil {
					explain(t, Options{Seed: seed, Params: p}, r)
				}
				total.Changes += r.Stats.Changes
				total.Overlaps += r.Stats.Overlaps
				total.OverlapMax = max(total.OverlapMax, r.Stats.OverlapMax)
			}
			t.Logf("%d seeds: %+v", seeds, total)
			if total.Changes == 0 {
				t.Error("nothing ever changed its owner")
			}
		})
	}
}

// explain shrinks a failing run and shows how it ends.
func explain(t *testing.T, o Options, r Result) {
	t.Helper()
	o.Given, o.Faults = true, Shrink(o, r.Faults)
	o.Trace = true
	r = Run(o)
	lines := r.Transcript
	if len(lines) > 120 {
		lines = lines[len(lines)-120:]
	}
	t.Fatalf("seed %d: %s\n%d faults: %v\n%s", o.Seed, r.Violation.Text, len(o.Faults), o.Faults, strings.Join(lines, "\n"))
}
