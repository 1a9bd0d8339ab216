// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// balanced is the default profile.
func balanced(reach bool) Params { return Timings(ms, 5*ms, reach) }

// many are more than two nodes.
func many(nodes int) Params { return EtcdTimings(2*ms, 10*ms).Among(nodes) }

func TestSeeds(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for name, p := range map[string]Params{
		"reach": balanced(true), "none": balanced(false), "fast, reach": Timings(250*us, ms, true),
		"fence": balanced(false).WithFence(), "reach and fence": balanced(true).WithFence(),
		"etcd": EtcdTimings(ms, 5*ms), "three": many(3), "five": many(5),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var total Stats
			seeds := seeds / uint64((p.Nodes-1)*p.Nodes/2) // a run is so much longer
			for seed := range seeds {
				r := Run(Options{Seed: seed, Params: p})
				if r.Violation != nil {
					explain(t, Options{Seed: seed, Params: p}, r)
				}
				total.Changes += r.Stats.Changes
				total.Overlaps += r.Stats.Overlaps
				total.Fenced += r.Stats.Fenced
				total.OverlapMax = max(total.OverlapMax, r.Stats.OverlapMax)
			}
			t.Logf("%d seeds: %+v", seeds, total)
			if total.Changes == 0 {
				t.Error("nothing ever changed its owner")
			}
			if p.Fence && total.Fenced == 0 {
				t.Error("nobody was ever switched off")
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

// The checkers find bugs that are put into the model: all orders of a small world, or seeds of the
// large one.
func TestMutationsAreFound(t *testing.T) {
	for _, m := range Mutations {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			if !inRacesOrPairs(t, m) {
				inSeeds(t, balanced(true), m, nil)
			}
		})
	}
	for _, m := range ServiceMutations {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			inSeeds(t, balanced(true), m, plans[m])
		})
	}
	for _, m := range FenceMutations {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			inSeeds(t, balanced(false).WithFence(), m, nil)
		})
	}
	for _, m := range EtcdMutations {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			inSeeds(t, EtcdTimings(ms, 5*ms), m, plans[m])
		})
	}
	for _, m := range ManyMutations {
		t.Run("many: "+m, func(t *testing.T) {
			t.Parallel()
			if !inCrowds(t, m) {
				inSeeds(t, many(3), m, nil)
			}
		})
	}
}

func found(t *testing.T, name string, f Found) bool {
	if f.Wrong != "" {
		t.Logf("%s: %s, by %d steps, after %d states:\n%s", name, f.Wrong, len(f.Story), f.States, strings.Join(f.Story, "\n"))
	}
	return f.Wrong != ""
}

func inRacesOrPairs(t *testing.T, mutation string) bool {
	for _, kind := range RaceKinds {
		if found(t, kind.Name, Races(kind, 1, mutation, Limits{Depth: 8, States: 100_000})) {
			return true
		}
	}
	for _, kind := range PairKinds {
		if found(t, kind.Name, Pairs(kind, mutation, Limits{Depth: 11, States: 20_000})) {
			return true
		}
	}
	return false
}

func inCrowds(t *testing.T, mutation string) bool {
	return slices.ContainsFunc(CrowdKinds, func(kind CrowdKind) bool {
		return found(t, kind.Name, Crowds(kind, mutation, Limits{Depth: 8, States: 20_000}))
	})
}

func inSeeds(t *testing.T, p Params, mutation string, faults func(seed uint64) []Fault) {
	t.Helper()
	for seed := range uint64(200) {
		o := Options{Seed: seed, Params: p, Mutation: mutation}
		if faults != nil {
			o.Given, o.Faults = true, faults(seed)
		}
		if r := Run(o); r.Violation != nil {
			t.Logf("seed %d: %s", seed, r.Violation.Text)
			return
		}
	}
	t.Error("not found")
}

// plans are faults that show soon what drawn ones show seldom.
var plans = map[string]func(seed uint64) []Fault{
	"a lease counts from the answer":            inTurns("daemon killed", 450*ms),
	"a renewal counts unseen":                   inTurns("apart, and one reaches a former leader of etcd only, after a while", s),
	"a key of an earlier boot is one's own":     quarrels,
	"a key counts whose removal is under way":   quarrels,
	"what a boot has forgotten is served again": forgets,
	"nobody ends what the daemon does not":      hangs,
}

// hangs: one node is cut off, and its daemon stands still.
func hangs(seed uint64) []Fault {
	return []Fault{{AtNs: s, Kind: "isolated, its daemon stopped", Node: int(seed % 2), ForNs: s + int64(seed%20)*100*ms}}
}

// forgets: one node of a pair is cut off and its daemon stands still, the other takes over, and loses its
// power at about the time at which they hear each other again.
func forgets(seed uint64) []Fault {
	a := int(seed % 2)
	return []Fault{
		{AtNs: s, Kind: "etcd unreachable", Node: a, ForNs: 900 * ms},
		{AtNs: s + 10*ms, Kind: "apart", ForNs: 300 * ms},
		{AtNs: s + 15*ms, Kind: "daemon stopped", Node: a, ForNs: 880 * ms},
		{AtNs: s + 200*ms, Kind: "power", Node: 1 - a, ForNs: 1 + int64(seed/2%40)*10*ms},
	}
}

// inTurns: the nodes of a pair are apart, and the one and the other is struck, when etcd has been slow
// for a while.
func inTurns(kind string, lasts int64) func(uint64) []Fault {
	return func(seed uint64) []Fault {
		all := []Fault{{AtNs: s, Kind: "apart", ForNs: 6 * s}}
		for at, node := s, 0; at < 7*s; at, node = at+lasts+50*ms, 1-node {
			all = append(all,
				Fault{AtNs: at - 100*ms, Kind: "etcd slow", Which: 15, ForNs: 105 * ms},
				Fault{AtNs: at, Kind: kind, Node: node, Which: int(seed), ForNs: lasts})
		}
		return all
	}
}

// quarrels are faults by which the nodes of a pair win and lose keys all the time.
func quarrels(seed uint64) (all []Fault) {
	kinds := []string{"apart", "apart", "apart, and a daemon killed", "etcd unreachable", "etcd slow", "requests to etcd late", "requests to etcd late"}
	r := rand.New(rand.NewPCG(seed, 0))
	for at := 700 * ms; at < 3*s; at += r.Int64N(50 * ms) {
		all = append(all, Fault{AtNs: at, Kind: kinds[r.IntN(len(kinds))], Node: r.IntN(2), Which: r.IntN(60), ForNs: 1 + r.Int64N(200*ms)})
	}
	return all
}

// A run follows from its seed.
func TestARunIsTheSameTwice(t *testing.T) {
	o := Options{Seed: 7, Params: balanced(true), Trace: true}
	a, b := Run(o), Run(o)
	if strings.Join(a.Transcript, "\n") != strings.Join(b.Transcript, "\n") || len(a.Transcript) < 100 {
		t.Errorf("%d and %d lines, and they differ", len(a.Transcript), len(b.Transcript))
	}
}

// What shows the mutations shows nothing without them.
func TestThePlansAreStoodWithout(t *testing.T) {
	for name, plan := range plans {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(40) {
				o := Options{Seed: seed, Params: EtcdTimings(ms, 5*ms), Given: true, Faults: plan(seed)}
				if r := Run(o); r.Violation != nil {
					explain(t, o, r)
				}
			}
		})
	}
}
