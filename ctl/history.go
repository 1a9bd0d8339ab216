// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
)

// The verdicts on dead_after.
const (
	fits           = "fits"
	couldBeShorter = "could-be-shorter"
	tooShort       = "too-short"
	nothingHeard   = "unknown"
)

const (
	judgedMinutes = 60
	worstShown    = 5  // minutes, however quiet
	tooShortShare = 50 // percent of dead_after that the worst silence may come to
	badShare      = 80 // from here on it is bad news
	quietShare    = 25 // a minute below that is quiet
	leastProbes   = 3  // as the configuration demands of dead_after
)

// deadAfterSteps are the values that are proposed, in each power of ten.
var deadAfterSteps = []float64{1, 1.5, 2, 3, 5, 7}

// judgement is what the last hour's silences say about dead_after.
type judgement struct {
	Verdict    string `json:"verdict"` // fits | could-be-shorter | too-short | unknown
	WorstUS    int64  `json:"worst_us"`
	Percent    int64  `json:"percent"`     // of dead_after
	SupportsUS int64  `json:"supports_us"` // the dead_after that an hour like this supports
	Minutes    int    `json:"minutes"`     // that were judged
	Bad        bool   `json:"bad"`
}

// judgeHistory judges the last hour: dead_after should be at least twice its worst silence.
func judgeHistory(h control.History) judgement {
	j := judgement{Verdict: nothingHeard}
	for _, m := range lastHour(h.Minutes) {
		j.Minutes++
		j.WorstUS = max(j.WorstUS, m.SilenceUS)
	}
	if j.WorstUS == 0 || h.DeadAfterUS <= 0 {
		return j
	}
	j.Percent = 100 * j.WorstUS / h.DeadAfterUS
	j.SupportsUS = nextStep(max(2*j.WorstUS, leastProbes*h.ProbeUS))
	j.Bad = j.Percent >= badShare
	switch {
	case 100*j.WorstUS >= tooShortShare*h.DeadAfterUS:
		j.Verdict, j.SupportsUS = tooShort, nextStep(max(j.SupportsUS, h.DeadAfterUS+1))
	case j.SupportsUS < h.DeadAfterUS:
		j.Verdict = couldBeShorter
	default:
		j.Verdict, j.SupportsUS = fits, h.DeadAfterUS
	}
	return j
}

// lastHour leaves out what is older, and minutes in which the peer was not heard.
func lastHour(minutes []control.Minute) (list []control.Minute) {
	for _, m := range minutes {
		if m.MinutesAgo < judgedMinutes && m.SilenceUS > 0 {
			list = append(list, m)
		}
	}
	return list
}

// nextStep is the least proposed value that is not below us.
func nextStep(us int64) int64 {
	for decade := int64(1); ; decade *= 10 {
		for _, s := range deadAfterSteps {
			if v := int64(s * float64(decade)); v >= us {
				return v
			}
		}
	}
}

func checkHistory(ctx context.Context, env Env, cl *control.Client, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	h, err := cl.History(ctx)
	if err != nil {
		return err
	}
	j := judgeHistory(h)
	if asJSON {
		err = json.NewEncoder(env.Stdout).Encode(struct {
			control.History
			Judgement judgement `json:"judgement"`
		}{h, j})
	} else {
		_, err = io.WriteString(env.Stdout, historyText(h, j))
	}
	if err == nil && j.Bad {
		err = errBadNews
	}
	return err
}

// historyText is the history for people.
func historyText(h control.History, j judgement) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, the last hour: how near the peer's silences came to a takeover (probe %s, dead_after %s)\n", h.Node, us(h.ProbeUS), us(h.DeadAfterUS))
	minutesText(&b, h)
	b.WriteString("\n" + judgementText(h, j))
	s := h.SinceStart
	fmt.Fprintf(&b, "\nsince %s: longest silence %s; suspected %d times, refuted %d times; %d deaths taken back; %d own stalls\n",
		s.Time.Format(time.DateTime), shortUS(s.SilenceMaxUS), s.Suspects, s.Refuted, s.Reverted, s.SelfStalls)
	if s.Silence.Count() > 0 {
		histogramText(&b, s.Silence)
	}
	return b.String()
}

func us(v int64) time.Duration { return time.Duration(v) * time.Microsecond }

func shortUS(v int64) string { return shortNS(float64(v) * 1e3) }

// minutesText is the table of the minutes that say something: the worst few, and those that are not quiet.
func minutesText(b *strings.Builder, h control.History) {
	shown, quiet := shownMinutes(h)
	if len(shown) == 0 {
		b.WriteString("\n  nothing was heard\n")
		return
	}
	links := linksOf(shown)
	b.WriteString("\n")
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "minute\tago\tsilence on all links\t%s\town stall\n", strings.Join(links, "\t"))
		for _, m := range shown {
			fmt.Fprintf(w, "%s\t%d min\t%s", m.Time.Format("15:04"), m.MinutesAgo, shortUS(m.SilenceUS))
			for _, l := range links {
				fmt.Fprintf(w, "\t%s", shortUS(m.LinksUS[l]))
			}
			fmt.Fprintf(w, "\t%s\n", orNone(m.StallUS))
		}
	})
	if len(quiet) > 0 {
		fmt.Fprintf(b, "  and %d quiet minutes, the longest silence in them %s\n", len(quiet), shortUS(worstOf(quiet)))
	}
}

// shownMinutes parts the last hour's minutes, each part in the order of time.
func shownMinutes(h control.History) (shown, quiet []control.Minute) {
	all := lastHour(h.Minutes)
	byWorst := slices.Clone(all)
	slices.SortStableFunc(byWorst, func(a, b control.Minute) int { return cmp.Compare(b.SilenceUS, a.SilenceUS) })
	worst := map[int64]bool{}
	for _, m := range byWorst[:min(worstShown, len(byWorst))] {
		worst[m.MinutesAgo] = true
	}
	for _, m := range all {
		if worst[m.MinutesAgo] || 100*m.SilenceUS >= quietShare*h.DeadAfterUS {
			shown = append(shown, m)
		} else {
			quiet = append(quiet, m)
		}
	}
	return shown, quiet
}

func linksOf(minutes []control.Minute) (names []string) {
	for _, m := range minutes {
		for name := range m.LinksUS {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func worstOf(minutes []control.Minute) (us int64) {
	for _, m := range minutes {
		us = max(us, m.SilenceUS)
	}
	return us
}

func judgementText(h control.History, j judgement) string {
	if j.Verdict == nothingHeard {
		return "no silence of a living peer in the last hour: nothing to judge by\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "worst silence %s of %s: %d %%\n", shortUS(j.WorstUS), us(h.DeadAfterUS), j.Percent)
	for _, m := range lastHour(h.Minutes) {
		if m.SilenceUS == j.WorstUS && 2*m.StallUS >= m.SilenceUS {
			fmt.Fprintf(&b, "  in that minute this node itself was late by %s: the silence may be its own (a busy host, a paused VM)\n", shortUS(m.StallUS))
			break
		}
	}
	fmt.Fprintf(&b, "dead_after %s: ", us(h.DeadAfterUS))
	switch j.Verdict {
	case tooShort:
		fmt.Fprintf(&b, "too short: such an hour asks for %s; or look for what makes the nodes silent\n", us(j.SupportsUS))
	case couldBeShorter:
		fmt.Fprintf(&b, "could be shorter: such an hour supports %s, twice the worst silence and at least %d probes\n", us(j.SupportsUS), leastProbes)
	default:
		b.WriteString("supported as it is: at least twice the worst silence\n")
	}
	if j.Minutes < judgedMinutes {
		fmt.Fprintf(&b, "judged by %d of %d minutes: look again after an hour under load\n", j.Minutes, judgedMinutes)
	}
	return b.String()
}
