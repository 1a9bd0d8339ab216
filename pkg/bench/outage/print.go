// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/stats"
)

func printHead(w io.Writer, r Report) error {
	_, err := fmt.Fprintf(w, "Linux %s, %d CPUs; xdpha, profile %s; seed %d.\n", r.Kernel, r.CPUs, r.Profile, r.Seed)
	return err
}

// print writes what was measured of a section, which may have ended too early.
func (r Report) print(w io.Writer, s Section, notes []Note) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	switch {
	case s == Kinds && r.Kinds != nil:
		r.Kinds.print(t)
	case s == Pairs && r.Pairs != nil:
		r.Pairs.print(t)
	case s == Starved && r.Starved != nil:
		r.Starved.print(t)
	case s == Addresses && r.Addresses != nil:
		r.Addresses.print(t)
	case s == Tickle && r.Tickle != nil:
		r.Tickle.print(t)
	case s == Ladder && r.Ladder != nil:
		r.Ladder.print(t)
	}
	for _, n := range notes {
		fmt.Fprintf(t, "\n! %s: %s. Events, by the time from there, without %d that came to nothing:\n", n.Section, n.Why, n.Flutter)
		for _, e := range n.Events {
			fmt.Fprintln(t, e)
		}
	}
	return t.Flush()
}

const (
	spreadHead = "faults\tmedian\tp90\tp99\tmax\tchange\tdual answers\toverlaps\tnot served\tmoved unasked"
	times      = "Outage: the longest silence that the client saw, less its own stalls. Change: the silence in which the other node\n" +
		"took over, which may be a shorter one; median. Dual answers, overlaps: answers that the client got, and frames\n" +
		"that the switches saw, from a node after the other one had taken over from it. Moved unasked: before anything was broken.\n"
)

func (t Tally) cells() string {
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d", t.Faults, stats.MS(t.MedianNS), stats.MS(t.P90NS), stats.MS(t.P99NS), stats.MS(t.MaxNS),
		stats.MS(t.ChangeNS), t.DualAnswers, t.Overlaps, t.NotServed, t.Unasked)
}

func (k KindsReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nOutage by kind of fault, both directions.\nkind\t%s\n", spreadHead)
	for _, s := range k.Kinds {
		fmt.Fprintf(w, "%s\t%s\n", s.Kind, s.cells())
	}
	fmt.Fprintf(w, "total\t%s\n", k.Total.cells())
	fmt.Fprintf(w, "\n%s", times)
	fmt.Fprintf(w, "%d faults; instants with two answerers: %d.\n", k.Total.Faults, k.Total.two())
}

func (p PairsReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nFaults in pairs, by the classes of both; %d pairs of nodes were started.\n", p.Labs)
	fmt.Fprintln(w, "classes\trounds\ttwo owners, not documented\tdocumented\tnot served\tvoid faults\toutage median\tmax\tat rest, median\tmax")
	for _, c := range append(p.Classes, p.Total) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", c.Name, c.Rounds, c.Undocumented, c.Documented, c.NotServed, c.Void,
			stats.MS(c.Outage.MedianNS), stats.MS(c.Outage.MaxNS), stats.MS(c.Rest.MedianNS), stats.MS(c.Rest.MaxNS))
	}
	fmt.Fprintf(w, "\nTwo owners: times in which the switches saw a node use an identity's MAC after the other one had taken over. Documented: not a\n"+
		"frame passed between the nodes, both reached the listed hosts, and it ended with the first frame that passed. Void: nothing was left\n"+
		"to break. Outage: the longest silence of either identity's client, for as long as the faults last. At rest: after the last healing.\n"+
		"%d faults; rounds with one owner of each identity and a served client in the end: %d of %d.\n", 2*p.Total.Rounds-p.Total.Void, p.Total.Rounds-p.Total.NotServed, p.Total.Rounds)
}

func (s StarvedReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nThe owner dies while a SCHED_FIFO process of priority %d fills every CPU for %d ms; addresses are staged ahead, the lease is %s.\n", hogPriority, s.HogsMS, starvedLease)
	fmt.Fprintf(w, "the survivor\t%s\tserved while hogs ran\tlost before\tan ordinary program waited, median\n", spreadHead)
	for _, v := range s.Variants {
		var waited []int64
		lost := 0
		for _, r := range v.Rounds {
			waited = append(waited, r.OrdinaryNs)
			lost += r.LostBefore
		}
		fmt.Fprintf(w, "%s\t%s\t%d of %d\t%d\t%s\n", v.name(), v.cells(), v.InTime, v.Faults, lost, stats.MS(stats.Of(waited).MedianNS))
	}
	fmt.Fprintf(w, "\n%sWith its thread stopped or starved a node neither asks nor takes over: that outage ends with the hogs.\n", times)
}

func (a AddressesReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nOutage of a hang by the number of addresses of the identity; the client asks the last one.\naddresses\tratio of medians\t%s\tuntil the pair was whole\n", spreadHead)
	for _, c := range a.Counts {
		var start []time.Duration
		for _, ms := range c.StartMS {
			start = append(start, (time.Duration(ms) * time.Millisecond).Round(100*time.Millisecond))
		}
		fmt.Fprintf(w, "%d\t%.2f\t%s\t%v\n", c.Addresses, c.Ratio, c.cells(), start)
	}
	fmt.Fprintf(w, "\n%s", times)
}

func (r TickleReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nAn idle client of an owner whose power is cut: when it is connected again. Times count from the takeover.\n"+
		"tickle\ttakeovers\tnoticed, median\tmax\tconnected again, median\tp90\tmax\tnoticed nothing for %s\n", idleWait)
	for _, v := range r.Variants {
		cell := func(ns int64) string {
			if v.Unnoticed == len(v.Rounds) {
				return "-"
			}
			return stats.MS(ns)
		}
		fmt.Fprintf(w, "%v\t%d\t%s\t%s\t%s\t%s\t%s\t%d\n", v.Tickle, len(v.Rounds), cell(v.Noticed.MedianNS), cell(v.Noticed.MaxNS),
			cell(v.Reconnected.MedianNS), cell(v.Reconnected.P90NS), cell(v.Reconnected.MaxNS), v.Unnoticed)
	}
}

func (l LadderReport) print(w io.Writer) {
	fmt.Fprintf(w, "\nNothing breaks for %.0f s: profile %s, pacer kernel, supervisor_lease %s, client asks both identities every %s.\n", l.Seconds, l.Profile, l.Lease, clientPeriod)
	fmt.Fprintln(w, "rung\tseconds\tmoves\tdual answers\toutage max\tlost\tsuspects\trefuted\town stalls\ttokens lost\tunpaced\tbacklog dropped\tgap below\tlease left\tclient's stall max\tload")
	for _, r := range l.Rungs {
		below := "-"
		if r.GapBelowNS > 0 {
			below = stats.MS(r.GapBelowNS)
		} else if r.GapBelowNS < 0 {
			below = "no bound"
		}
		fmt.Fprintf(w, "%s\t%.0f\t%d\t%d\t%s\t%d of %d\t%.0f\t%.0f\t%.0f\t%d\t%.0f\t%d\t%s\t%.2f s\t%s\t%s", r.Name, r.Seconds, r.Moves, r.DualAnswers, stats.MS(r.OutageMaxNS),
			r.Lost, r.Sent, r.Suspects, r.Refuted, r.SelfStalls, r.TokensLost, r.Unpaced, r.Dropped, below, r.LeaseLeftS, stats.MS(r.StallMaxNS), r.Load)
		if r.Work != "" {
			fmt.Fprintf(w, ": %s", r.Work)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\ngap between two frames of the peer on a link, of all links and both nodes; longest %s; longest between two ticks of a pacer %s\n", stats.MS(l.GapMaxNS), stats.MS(l.PacerGapMaxNS))
	for _, b := range l.Gaps {
		if b.Count == 0 {
			continue
		}
		bound := "more"
		if b.UpToNS >= 0 {
			bound = fmt.Sprintf("up to %.3f ms", float64(b.UpToNS)/1e6)
		}
		fmt.Fprintf(w, "%s\t%d\n", bound, b.Count)
	}
	verdict := "nobody moved"
	if l.Moves > 0 {
		verdict = fmt.Sprintf("%d MOVES, and none was wanted", l.Moves)
	}
	fmt.Fprintf(w, "%s. Lease left: the least, so far, of a supervisor's lease when it was renewed.\n", verdict)
}
