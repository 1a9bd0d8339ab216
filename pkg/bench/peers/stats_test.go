// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestASeriesIsSummedUp(t *testing.T) {
	var ten []Round
	for _, ms := range []int64{10, 3, 9, 1, 5, 2, 8, 4, 7, 6} {
		ten = append(ten, Round{OutageNS: ms * 1e6, Restored: true})
	}
	for _, c := range []struct {
		name   string
		rounds []Round
		want   Summary
	}{
		{"nothing", nil, Summary{}},
		{"one", []Round{{OutageNS: 7, Restored: true}}, Summary{MedianNS: 7, P90NS: 7, MaxNS: 7}},
		{"ten, in any order", ten, Summary{MedianNS: 5.5e6, P90NS: 9e6, MaxNS: 10e6}},
		{"three", []Round{{OutageNS: 3, Restored: true}, {OutageNS: 1, Restored: true}, {OutageNS: 2, Restored: true}}, Summary{MedianNS: 2, P90NS: 3, MaxNS: 3}},
		{"troubles are counted", []Round{
			{OutageNS: 1, DualAnswers: 4, Restored: true, Asked: true, BothAnswer: 10, BothHold: true},
			{OutageNS: 1, DualAnswers: 3, Asked: true, BothHold: true},
			{OutageNS: 1, Restored: true, Unasked: true},
		}, Summary{MedianNS: 1, P90NS: 1, MaxNS: 1, DualAnswers: 7, Unanswered: 1, Unasked: 1, Asked: 2, BothAnswer: 1, BothHold: 2}},
	} {
		if diff := cmp.Diff(c.want, summarize(c.rounds)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// series is a contender's under a fault, with one round of each outage in ms.
func series(who string, f Fault, outages ...int64) Series {
	var rounds []Round
	for _, ms := range outages {
		rounds = append(rounds, Round{OutageNS: ms * 1e6, Restored: true})
	}
	return Series{Contender: who, Fault: f, Rounds: rounds, Summary: summarize(rounds)}
}

func TestContendersAreComparedUnderTheSameFault(t *testing.T) {
	two := series(nameVMAC, Stop, 1)
	two.BothAnswer = 1
	all := []Series{
		series(nameVMAC, Hang, 25, 35), series(nameXdpha, Hang, 2), series(nameXdpha, Stop, 4), two,
		series(nameVMAC, KillWorker, 9),                                                    // of which xdpha has none
		series(namePlain, Hang, 1), series(nameXdpha, Kill, 0), series(namePlain, Kill, 1), // no ratio to nothing
	}
	want := []Ratio{{nameVMAC, Hang, 15, false}, {nameVMAC, Stop, 0.25, true}, {namePlain, Hang, 0.5, false}}
	if diff := cmp.Diff(want, ratios(all)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := ratios([]Series{series(nameXdpha, Hang, 2)}); got != nil {
		t.Errorf("xdpha alone is compared with nobody, but: %v", got)
	}
}

func TestTheTableTellsAll(t *testing.T) {
	kill := series(nameVMAC, Kill, 0)
	kill.Summary = Summary{MedianNS: 300_000, P90NS: 400_000, MaxNS: 500_000, DualAnswers: 99, Asked: 3, BothAnswer: 2, BothHold: 1, Unanswered: 4, Unasked: 5}
	r := Report{Kernel: "6.1", CPUs: 2, Profile: "fast", Keepalived: "Keepalived v2", Series: []Series{
		kill, series(nameXdpha, Hang, 2, 4),
	}, Ratios: []Ratio{{nameVMAC, Kill, 0.25, true}, {nameVMAC, Hang, 12.5, false}}}
	var b strings.Builder
	must(t, printHead(&b, r))
	must(t, printTable(&b, r))
	got, legend, _ := strings.Cut(b.String(), "\nOutage: ")
	want := `Linux 6.1, 2 CPUs; xdpha, profile fast; Keepalived v2.

fault    contender                rounds  median   p90      max      dual answers  both answer ARP  both hold address  unanswered ends  moved unasked
hang     xdpha                    2       3.00 ms  4.00 ms  4.00 ms  0             -                -                  0                0
kill -9  keepalived, virtual MAC  1       0.30 ms  0.40 ms  0.50 ms  99            2 of 3           1 of 3             4                5

median outage, as a multiple of xdpha's
hang     keepalived, virtual MAC  12.50
kill -9  keepalived, virtual MAC  0.25  with two owners: the node that should not serve any more went on answering
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if legend == "" {
		t.Error("the table is not explained")
	}
}

func TestWithoutKeepalivedTheHeadNamesItsPackage(t *testing.T) {
	var b strings.Builder
	must(t, printHead(&b, Report{}))
	if !strings.Contains(b.String(), "Debian's package keepalived") || !strings.Contains(b.String(), "alone") {
		t.Errorf("the head says: %s", b.String())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
