// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryKindHasItsRoundsAtBothHomes(t *testing.T) {
	kinds := Faults
	all := choices(kinds, 20, 7)
	seen := map[string]int{}
	for i, c := range all {
		seen[fmt.Sprint(c.kind)]++
		seen[fmt.Sprint(c.kind, c.id.Home, c.family)]++
		if i > 0 && all[i-1].kind == c.kind && all[i-1].id == c.id {
			t.Errorf("rounds %d and %d break the same", i-1, i)
		}
	}
	families := 1
	if lab.HasIPv6() {
		families = 2
	}
	for _, k := range kinds {
		for _, want := range []struct {
			key string
			n   int
		}{{fmt.Sprint(k), 20}, {fmt.Sprint(k, lab.Serv1, 4), 10 / families}, {fmt.Sprint(k, lab.Serv2, 4), 10 / families}} {
			if seen[want.key] != want.n {
				t.Errorf("%s: %d rounds, want %d", want.key, seen[want.key], want.n)
			}
		}
	}
	if !slices.Equal(all, choices(kinds, 20, 7)) || slices.Equal(all, choices(kinds, 20, 8)) {
		t.Error("the order does not follow from the seed alone")
	}
}

func TestATallyCountsWhatMustNotBe(t *testing.T) {
	var got Tally
	got.Unasked = 3
	got.sum([]lab.Fall{
		{OutageNs: 1e6, Served: true, Overlaps: []int{0, 0}, Returns: []int{0, 0}},
		{OutageNs: 3e6, DualAnswers: 2, Overlaps: []int{1, 0}, Returns: []int{0, 4}},
	})
	want := Tally{Spread: stats.Spread{MedianNS: 2e6, P90NS: 3e6, P99NS: 3e6, MaxNS: 3e6}, Faults: 2, DualAnswers: 2, Overlaps: 5, NotServed: 1, Unasked: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, r := range map[string]Report{
		"two owners":       {Kinds: &KindsReport{Total: Tally{Overlaps: 1}}},
		"not served":       {Addresses: &AddressesReport{Counts: []CountSeries{{}, {Tally: Tally{NotServed: 1}}}}},
		"a late kernel":    {Starved: &StarvedReport{Variants: []StarvedSeries{{Pacer: "kernel", Tally: Tally{Faults: 2}, InTime: 1}}}},
		"a move for noise": {Ladder: &LadderReport{Moves: 1}},
		"a second answer":  {Ladder: &LadderReport{Rungs: []*Rung{{DualAnswers: 1}}}},
	} {
		if r.Good() {
			t.Errorf("%s is taken for good", name)
		}
	}
	good := Report{Kinds: &KindsReport{Total: Tally{Faults: 9, Unasked: 1}}, Starved: &StarvedReport{Variants: []StarvedSeries{{Pacer: "thread", Tally: Tally{Faults: 2}}}}}
	if !good.Good() || !(Report{}).Good() {
		t.Error("nothing went wrong, but it is not good")
	}
}

func TestTheLaddersTimeIsDivided(t *testing.T) {
	for _, c := range []struct {
		whole time.Duration
		n     int
		each  time.Duration
	}{
		{6 * time.Second, 1, time.Second},
		{6 * time.Minute, 1, time.Minute},
		{30 * time.Minute, 5, time.Minute},
		{7 * time.Minute, 2, 35 * time.Second},
	} {
		if n, each := turns(c.whole, 6); n != c.n || each != c.each {
			t.Errorf("%s: %d turns of %s, want %d of %s", c.whole, n, each, c.n, c.each)
		}
	}
}

// gaps is a histogram of one link, cumulative as Prometheus has them.
func gaps(link string, first, second, third float64) pair.Metrics {
	m := pair.Metrics{}
	for le, v := range map[string]float64{"0.001": first, "0.002": first + second, "+Inf": first + second + third} {
		m[fmt.Sprintf(`xdpha_heartbeat_gap_seconds_bucket{link="%s",le="%s"}`, link, le)] = v
	}
	return m
}

func TestARungCountsWhatHappenedInItsTurns(t *testing.T) {
	reading := func(base, generation, suspects float64) pair.Metrics {
		m := gaps("lan", base, base, 0)
		m[`xdpha_generation{identity="files"}`], m[`xdpha_generation{identity="mail"}`] = generation, 1
		m["xdpha_suspects_total"], m["xdpha_lease_remaining_min_seconds"] = suspects, base
		return m
	}
	before := readings{lab.Serv1: reading(10, 4, 1), lab.Serv2: reading(100, 4, 0)}
	after := readings{lab.Serv1: reading(15, 5, 3), lab.Serv2: reading(102, 6, 1)}
	var r Rung
	if moves := r.count(before, after); moves != 2 || r.Moves != 2 || r.Suspects != 3 || r.LeaseLeftS != 15 || r.GapBelowNS != 2e6 {
		t.Errorf("%+v", r)
	}
	want := []GapBin{{1e6, 7}, {2e6, 7}, {-1, 0}}
	if diff := cmp.Diff(want, bins(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.saw(lab.Summary{OutageNs: 5, Sent: 10, Lost: 1, StallMaxNs: 7})
	r.saw(lab.Summary{OutageNs: 3, Sent: 10, DualAnswers: 1})
	if r.OutageMaxNS != 5 || r.Sent != 20 || r.Lost != 1 || r.DualAnswers != 1 || r.StallMaxNS != 7 {
		t.Errorf("%+v", r)
	}
}

func TestAStarvedRoundIsTheSilenceThatTheDeathMade(t *testing.T) {
	const ms = 1e6
	rec := lab.Record{PeriodNs: ms, StallNs: 3 * ms, CutNs: 20.5 * ms}
	answer := func(seq uint32, ttl uint8) {
		rec.Answers = append(rec.Answers, lab.Answer{Seq: seq, TTL: ttl, AtNs: int64(seq)*ms + 1000})
	}
	for i := range uint32(60) {
		rec.SentNs = append(rec.SentNs, int64(i)*ms)
		switch {
		case i <= 2 || i >= 10 && i <= 20: // silent from 3 to 9, before the cut
			answer(i, lab.TTLServ1)
		case i >= 25:
			answer(i, lab.TTLServ2)
		}
	}
	r := StarvedRound{Fall: lab.Fall{Served: true}, HogsFromNs: 1}
	r.saw(rec)
	if r.OutageNs != 5*ms || r.Lost != 4 || r.LostBefore != 7 || !r.InTime || r.Before != lab.Serv1 || r.After != lab.Serv2 {
		t.Errorf("%+v", r)
	}
	r.HogsFromNs = 30*ms - int64(hogTime) // they ended at 30 ms
	if r.saw(rec); !r.InTime {
		t.Error("served at 25 ms, and hogs ended at 30 ms, but it was not in time")
	}
	r.HogsFromNs -= 6 * ms
	if r.saw(rec); r.InTime {
		t.Error("served at 25 ms, and hogs ended at 24 ms, but it was in time")
	}
}

func TestWhatWasToldIsCutOut(t *testing.T) {
	r := rig{section: Kinds}
	all := []control.Event{
		{TimeNS: 0, Node: "a", Kind: "suspect"},
		{TimeNS: 1e9 - 1e6, Node: "a", Kind: "suspect"},
		{TimeNS: 1e9, Node: "a", Kind: "pacer-token-lost", Text: "no tick"},
		{TimeNS: 1e9 + 50e6, Node: "b", Kind: "refuted"},
		{TimeNS: 1e9 + 100e6, Node: "b", Kind: "takeover", Identity: "files", Text: "why"},
		{TimeNS: 9e9, Node: "b", Kind: "pacer-token-lost"},
	}
	r.markUnwanted(all)
	r.judge(lab.Fall{T0Ns: 1e9, Served: true, OutageNs: 1}, time.Second)
	got := r.notes(all)
	want := []Note{
		{Kinds, "a told of pacer-token-lost, 1 of 2", 1, []string{"     -1.000 ms  a  suspect", "      0.000 ms  a  pacer-token-lost: no tick", "    100.000 ms  b  takeover files: why"}},
		{Kinds, "b told of pacer-token-lost, 2 of 2", 0, []string{"      0.000 ms  b  pacer-token-lost"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAQuestionIsABroadcastARPRequest(t *testing.T) {
	f := lab.ParseFrame(question(netip.MustParseAddr("192.0.2.21")))
	if f.ARP == nil || f.ARP.Op != 1 || f.ARP.TargetIP.String() != "192.0.2.21" || f.Dst.String() != "ff:ff:ff:ff:ff:ff" || !slices.Equal(f.Src, forger[:]) || len(f.Raw) != 60 {
		t.Errorf("%+v", f)
	}
	if n, err := availableMemory(); err != nil || n < 1<<20 {
		t.Errorf("%d bytes of memory are available, %v", n, err)
	}
}

func TestEverySectionIsPrinted(t *testing.T) {
	fall := lab.Fall{OutageNs: 1.5e6, Served: true}
	tally := Tally{Spread: stats.Spread{MedianNS: 1e6, P90NS: 2e6, P99NS: 3e6, MaxNS: 4e6}, Faults: 5, DualAnswers: 6, Overlaps: 7, NotServed: 8, Unasked: 9}
	r := Report{
		Kernel: "6.1", CPUs: 2, Profile: "fast", Seed: 3,
		Kinds:     &KindsReport{Kinds: []*KindSeries{{lab.FaultHang, tally, []lab.Fall{fall}}}, Total: tally},
		Pairs:     &PairsReport{Labs: 1, Total: PairClass{Name: "total", Rounds: 40, Void: 3, NotServed: 2}, Classes: []PairClass{{Name: "cable + node", Documented: 4}}},
		Starved:   &StarvedReport{HogsMS: 1500, Variants: []StarvedSeries{{Pacer: "kernel", Stopped: true, Tally: tally, InTime: 4, Rounds: []StarvedRound{{OrdinaryNs: 9e8, LostBefore: 3}}}}},
		Addresses: &AddressesReport{Counts: []CountSeries{{Addresses: 100, Ratio: 1.25, Tally: tally, StartMS: []int64{1234}}}},
		Ladder: &LadderReport{Profile: "balanced", Seconds: 60, Moves: 2, Gaps: []GapBin{{1_024_000, 5}, {-1, 1}},
			Rungs: []*Rung{{Name: "busy", Load: "spin", Work: "4 of them", Moves: 2, Sent: 100, Lost: 1, GapBelowNS: -1}}},
	}
	var b strings.Builder
	must(t, printHead(&b, r))
	for _, s := range Sections {
		must(t, r.print(&b, s, []Note{{s, "something", 3, []string{"  0.000 ms  a  event"}}}))
	}
	for _, want := range []string{
		"profile fast; seed 3", "instants with two answerers: 13", "hang", "1.00 ms", "4 of 5", "900.00 ms", "pacer kernel, daemon stopped",
		"1.25", "[1.2s]", "cable + node", "77 faults", "38 of 40", "2 MOVES", "no bound", "up to 1.024 ms", "spin: 4 of them", "! ladder: something. Events, by the time from there, without 3",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, b.String())
		}
	}
}
