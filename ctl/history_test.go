// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
)

// sampleHistory is an hour at rest, with a few minutes that were not.
func sampleHistory() control.History {
	now := time.Date(2026, 11, 23, 9, 41, 7, 0, time.UTC)
	h := control.History{
		Node: "serv2", Time: now, ProbeUS: 1000, DeadAfterUS: 5000,
		SinceStart: control.SinceStart{Time: now.Add(-72 * time.Hour), SilenceMaxUS: 3900, Suspects: 3, Refuted: 3, SelfStalls: 4},
	}
	for ago := int64(63); ago >= 0; ago-- {
		m := control.Minute{Time: now.Add(-time.Duration(ago) * time.Minute), MinutesAgo: ago, SilenceUS: 1050 + ago%7, LinksUS: map[string]int64{"crossover": 1100, "lan": 1200, "spare": 1300}}
		h.SinceStart.Silence.Observe(uint64(m.SilenceUS) * 1000)
		switch ago {
		case 61: // more than an hour ago
			m.SilenceUS = 3900
		case 29:
			m.SilenceUS, m.StallUS = 2100, 1800
		case 30, 31, 32, 33, 34:
			m.SilenceUS = 1400 + ago
		}
		h.Minutes = append(h.Minutes, m)
	}
	return h
}

func TestHistoryOfAnHour(t *testing.T) {
	h := sampleHistory()
	golden(t, "history", historyText(h, judgeHistory(h)))
}

func TestTheWorstFiveMinutesAreShownHoweverQuiet(t *testing.T) {
	h := sampleHistory()
	h.DeadAfterUS = 100_000
	if shown, quiet := shownMinutes(h); len(shown) != worstShown || len(quiet) != judgedMinutes-worstShown || worstOf(shown) != 2100 || worstOf(quiet) != 1430 {
		t.Errorf("shown %d, the worst of the others %d µs", len(shown), worstOf(quiet))
	}
	h.DeadAfterUS = 4000 // nothing is quiet
	if shown, quiet := shownMinutes(h); len(shown) != judgedMinutes || len(quiet) != 0 {
		t.Errorf("shown %d, %d not", len(shown), len(quiet))
	}
}

func TestAnHourIsJudged(t *testing.T) {
	for _, tt := range []struct {
		name             string
		probe, dead      int64
		silences         []int64
		verdict          string
		percent, support int64
		bad              bool
		says             string
	}{
		{"nothing was heard", 1000, 5000, nil, nothingHeard, 0, 0, false, "nothing to judge by"},
		{"as it is", 1000, 5000, []int64{1050, 2100, 1000}, fits, 42, 5000, false, "worst silence 2.10 ms of 5ms: 42 %"},
		{"between two steps", 1000, 4500, []int64{2100}, fits, 46, 4500, false, "supported as it is"},
		{"a third of it would do", 1000, 5000, []int64{1500}, couldBeShorter, 30, 3000, false, "supports 3ms"},
		{"never below three probes", 1000, 5000, []int64{400}, couldBeShorter, 8, 3000, false, "at least 3 probes"},
		{"three odd probes", 1100, 5000, []int64{400}, fits, 8, 5000, false, "supported as it is"},
		{"half of it", 1000, 5000, []int64{2500}, tooShort, 50, 7000, false, "too short: such an hour asks for 7ms"},
		{"more than half", 1000, 5000, []int64{2600}, tooShort, 52, 7000, false, "asks for 7ms"},
		{"just not bad", 1000, 5000, []int64{3999}, tooShort, 79, 10_000, false, "asks for 10ms"},
		{"bad news", 1000, 5000, []int64{4000}, tooShort, 80, 10_000, true, "asks for 10ms"},
		{"longer than dead_after", 1000, 5000, []int64{60_000}, tooShort, 1200, 150_000, true, "1200 %"},
		{"fast", 250, 1000, []int64{280}, fits, 28, 1000, false, "dead_after 1ms: supported as it is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := control.History{ProbeUS: tt.probe, DeadAfterUS: tt.dead, Minutes: []control.Minute{{MinutesAgo: judgedMinutes, SilenceUS: 1e9}, {StallUS: 9}}}
			for i, s := range tt.silences {
				h.Minutes = append(h.Minutes, control.Minute{MinutesAgo: int64(i), SilenceUS: s})
			}
			j := judgeHistory(h)
			if j.Verdict != tt.verdict || j.Percent != tt.percent || j.SupportsUS != tt.support || j.Bad != tt.bad || j.Minutes != len(tt.silences) {
				t.Errorf("judged as %+v", j)
			}
			if text := judgementText(h, j); !strings.Contains(text, tt.says) {
				t.Errorf("says: %s", text)
			}
		})
	}
}
