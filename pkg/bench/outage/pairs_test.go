// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

func TestPairsFollowFromTheirSeedAndDifferInWhatTheyBreak(t *testing.T) {
	seen, apart, healedFirst := map[string]bool{}, 0, 0
	for i := range 2000 {
		r := drawPair(5, i, lab.Faults)
		if diff := cmp.Diff(r, drawPair(5, i, lab.Faults), cmpopts.IgnoreUnexported(Strike{})); diff != "" {
			t.Fatalf("round %d drawn twice:\n%s", i, diff)
		}
		a, b := r.Strikes[0], r.Strikes[1]
		if a.Kind == b.Kind && (a.Node == b.Node || slices.Contains(nodeless, a.Kind)) {
			t.Errorf("round %d breaks the same twice: %s", i, r.name())
		}
		if a.BeginNs != 0 || b.BeginNs < 0 || b.BeginNs >= int64(laterWithin) || a.HealNs <= 0 || b.HealNs <= b.BeginNs {
			t.Errorf("round %d: %s", i, r.name())
		}
		if b.BeginNs > a.HealNs {
			apart++
		}
		if b.HealNs < a.HealNs {
			healedFirst++
		}
		for _, s := range r.Strikes {
			seen[fmt.Sprint(s.Kind, s.Node)] = true
		}
	}
	if len(seen) != 2*len(lab.Faults) || apart == 0 || healedFirst < 500 || healedFirst > 1500 {
		t.Errorf("%d kinds at nodes, %d rounds one after the other, %d healed in reverse", len(seen), apart, healedFirst)
	}
	if drawPair(5, 7, lab.Faults).name() == drawPair(6, 7, lab.Faults).name() {
		t.Error("another seed drew the same")
	}
}

func TestEveryFaultHasAClass(t *testing.T) {
	for _, f := range lab.Faults {
		if classes[f] == "" {
			t.Errorf("%s has none", f)
		}
	}
}

// partitioned is what the switches know when serv2 took files at 100 ms in a partition from 90 to 200 ms.
func partitioned() (trail []lab.JudgeRecord, silent []lab.Silence) {
	const ms = 1e6
	for i := int64(50); i < 200; i++ {
		trail = append(trail, lab.JudgeRecord{TNs: i * ms, Port: lab.Port{Node: lab.Serv1}})
		if i >= 100 {
			trail = append(trail, lab.JudgeRecord{TNs: i*ms + 1, Port: lab.Port{Node: lab.Serv2}})
		}
	}
	for to, from := range map[string]string{lab.Serv1: lab.Serv2, lab.Serv2: lab.Serv1} {
		silent = append(silent, lab.Silence{To: to, From: from, FromNs: 90 * ms, ToNs: 200 * ms})
	}
	return trail, silent
}

func TestOnlyWhatTheSwitchesConfirmIsTheDocumentedCase(t *testing.T) {
	const ms = 1e6
	timing := config.Timing{DeadAfter: 5 * time.Millisecond, SuspectAfter: 3 * time.Millisecond}
	for name, c := range map[string]struct {
		why  string
		harm func(trail *[]lab.JudgeRecord, silent *[]lab.Silence)
	}{
		"a full partition":             {"", func(*[]lab.JudgeRecord, *[]lab.Silence) {}},
		"the new owner hears the old":  {"serv2 could hear serv1", func(_ *[]lab.JudgeRecord, s *[]lab.Silence) { of(*s, lab.Serv2).FromNs = 96 * ms }},
		"the old owner hears the new":  {"serv1 could hear serv2", func(_ *[]lab.JudgeRecord, s *[]lab.Silence) { of(*s, lab.Serv1).ToNs = 99 * ms }},
		"the old one's last is within": {"", func(_ *[]lab.JudgeRecord, s *[]lab.Silence) { of(*s, lab.Serv1).FromNs = 97 * ms }},
		"the old owner is cut off": {"serv1 did not reach", func(_ *[]lab.JudgeRecord, s *[]lab.Silence) {
			*s = append(*s, lab.Silence{To: lab.Serv1, From: lab.Hosts2, FromNs: -450 * ms})
		}},
		"it goes on after the first frame": {"serv1 went on", func(tr *[]lab.JudgeRecord, _ *[]lab.Silence) {
			*tr = append(*tr, lab.JudgeRecord{TNs: 206 * ms, Port: lab.Port{Node: lab.Serv1}}, lab.JudgeRecord{TNs: 207 * ms, Port: lab.Port{Node: lab.Serv2}})
		}},
	} {
		trail, silent := partitioned()
		c.harm(&trail, &silent)
		got := verdicts(trail, silent, nil, timing)
		if len(got) != 1 || got[0].Documented != (c.why == "") || !strings.Contains(got[0].Why, c.why) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	trail, silent := partitioned()
	told := []control.Event{{Node: lab.Serv1, Identity: "files", Kind: "flip", TimeNS: 100*ms + 2}}
	if got := verdicts(trail, silent, told, timing); len(got) != 1 || got[0].Old != lab.Serv2 {
		t.Errorf("serv1 has taken it back: %+v", got)
	}
}

// of is the silence that a server has to bear.
func of(all []lab.Silence, to string) *lab.Silence {
	return &all[slices.IndexFunc(all, func(s lab.Silence) bool { return s.To == to })]
}

func TestPairsAreSummedUpByTheirClasses(t *testing.T) {
	round := func(a, b lab.Fault, ms int64) PairRound {
		return PairRound{Strikes: [2]Strike{{Kind: a}, {Kind: b, Void: "nothing"}}, AtRest: true, OutageNs: map[string]int64{"files": ms * 1e6, "mail": 1}, RestNs: 2e6}
	}
	lost := round(lab.FaultHang, lab.FaultFlap, 9)
	lost.AtRest = false
	two := round(lab.FaultPartition, lab.FaultPower, 3)
	two.Owners = []Overlapping{{Documented: true}, {}}
	rep := PairsReport{Rounds: []PairRound{round(lab.FaultLAN, lab.FaultPower, 1), lost, two}}
	rep.sum()
	if len(rep.Classes) != 2 || rep.Classes[0].Name != "cable + node" || rep.Classes[0].Rounds != 2 || rep.Classes[0].Outage.MaxNS != 9e6 || rep.Classes[0].NotServed != 1 {
		t.Errorf("%+v", rep.Classes)
	}
	if tt := rep.Total; tt.Rounds != 3 || tt.Documented != 1 || tt.Undocumented != 1 || tt.NotServed != 1 || tt.Void != 3 || tt.Rest.MaxNS != 2e6 {
		t.Errorf("%+v", rep.Total)
	}
	for name, c := range map[string]PairClass{"two owners": {Undocumented: 1}, "nobody": {NotServed: 1}} {
		if (Report{Pairs: &PairsReport{Total: c}}).Good() {
			t.Errorf("%s is taken for good", name)
		}
	}
	if !(Report{Pairs: &PairsReport{Total: PairClass{Documented: 1, Void: 2}}}).Good() {
		t.Error("what is documented is not good")
	}
}

func TestARoundThatWentWrongIsToldAndKept(t *testing.T) {
	dir, told := t.TempDir(), ""
	o := Options{Keep: filepath.Join(dir, "kept"), Progress: func(s string) { told += s }}
	p := &pairRound{out: drawPair(3, 4, lab.Faults)}
	p.out.T0Ns, p.out.Why = 1e9, "nobody serves"
	p.trail, p.silent = partitioned()
	for i := range p.trail {
		p.trail[i].TNs += 1e9
	}
	p.out.Owners = []Overlapping{{Identity: "files", TwoOwners: lab.TwoOwners{Old: lab.Serv1, New: lab.Serv2, FromNs: 1.1e9, LastNs: 1.2e9, Frames: 7}, Why: "serv1 went on"}}
	must(t, o.keep(p, []control.Event{{TimeNS: 1.105e9, Node: lab.Serv2, Kind: "flip", Identity: "files", Text: "generation 2"}}))
	kept, err := os.ReadFile(filepath.Join(o.Keep, "seed-3-round-4.txt"))
	must(t, err)
	for _, want := range []string{"-seed 3 -from 4 -rounds 1", "nobody serves", "105.000 ms  serv2   flip files: generation 2", "TWO OWNERS of files: 7 frames of serv1 until 200.000 ms; serv1 went on", string(p.out.Strikes[0].Kind) + " at "} {
		if !strings.Contains(string(kept), want) || !strings.Contains(told, want) {
			t.Errorf("%q is not said in\n%s", want, kept)
		}
	}
}
