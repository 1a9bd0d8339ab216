// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// demoResult is what `xdpha demo --json` prints for a run.
type demoResult struct {
	Fault    string `json:"fault"` // a kind, or "none"
	Identity string `json:"identity"`
	Profile  string `json:"profile"`
	// Before and After are the nodes that answered the client first and last.
	Before       string      `json:"before"`
	After        string      `json:"after"`
	OutageUS     int64       `json:"outage_us"`
	DetectUS     int64       `json:"detect_us"` // last sign of life to change of owner; 0 without a takeover
	Timeline     []demoEvent `json:"timeline"`
	Sent         int         `json:"sent"`
	Answered     int         `json:"answered"`
	Lost         int         `json:"lost"`
	DualAnswers  int         `json:"dual_answers"`
	Restored     bool        `json:"restored"`
	OwnerChanges uint64      `json:"owner_changes"` // generations that the identity went up
	StallMaxUS   int64       `json:"client_stall_max_us"`
	StalledUS    int64       `json:"client_stalled_us"`
	// OutageFromUS and OutageToUS are the ends of the longest silence.
	OutageFromUS int64    `json:"outage_from_us"`
	OutageToUS   int64    `json:"outage_to_us"`
	Wrong        []string `json:"wrong"` // what is not as it should be
}

// demoEvent is one line of the timeline; times count from the fault.
type demoEvent struct {
	TUS   int64  `json:"t_us"`
	Node  string `json:"node"`
	Event string `json:"event"`
}

// observation is all that a run gathered; CLOCK_BOOTTIME nanoseconds.
type observation struct {
	plan     demoPlan
	t0, end  int64 // the fault, or the start of the rest
	healed   int64 // 0: never
	lease    time.Duration
	client   lab.Summary
	events   []control.Event
	before   uint64 // the identity's generation
	after    uint64
	takeover *control.Takeover // the new owner's, if there was one
}

// judge turns an observation into the result. It is pure.
func judge(o observation) demoResult {
	us := func(ns int64) int64 { return ns / 1e3 }
	c := o.client
	r := demoResult{
		Fault: "none", Identity: o.plan.identity.Name, Profile: o.plan.profile, Before: c.Before, After: c.After, OutageUS: us(c.OutageNs),
		Sent: c.Sent, Answered: c.Answered, Lost: c.Lost, DualAnswers: c.DualAnswers, Restored: c.Restored,
		StallMaxUS: us(c.StallMaxNs), StalledUS: us(c.StalledNs), OutageFromUS: us(c.FromNs - o.t0), OutageToUS: us(c.ToNs - o.t0),
		OwnerChanges: o.after - min(o.before, o.after), Wrong: []string{},
	}
	if o.plan.fault != "" {
		r.Fault = string(o.plan.fault)
	}
	if o.takeover != nil && o.takeover.Identity == r.Identity && o.takeover.Generation > o.before {
		r.DetectUS = o.takeover.DetectUS
	}
	r.Timeline = timeline(o)
	r.Wrong = wrong(o, r)
	return r
}

// wrong compares what happened with what should have.
func wrong(o observation, r demoResult) []string {
	out := []string{}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !r.Restored {
		add("the outage had not ended when the run did")
	}
	// A partition in which both nodes reach the listed hosts makes two owners: the one case that
	// the arbiter reach documents.
	if r.DualAnswers > 0 && o.plan.fault != lab.FaultPartition {
		add("%d answers came from two owners", r.DualAnswers)
	}
	home := o.plan.identity.Home
	if want := expected(o.plan, o.lease); want != r.After && o.plan.fault != lab.FaultPartition {
		add("%s should be served by %s at the end, not by %s", r.Identity, want, orNobody(r.After))
	} else if want == home && r.OwnerChanges > 0 {
		add("%s changed its owner, and should not have", r.Identity)
	}
	return out
}

// expected is the node that must serve the identity when the run ends.
func expected(p demoPlan, lease time.Duration) string {
	home := p.identity.Home
	switch p.fault {
	case "", lab.FaultCrossover, lab.FaultService, lab.FaultLAN:
		return home
	case lab.FaultDaemonKill, lab.FaultDaemonStop:
		if p.restartAfter > 0 && p.restartAfter < lease {
			return home
		}
	}
	return otherNode(home)
}

// timeline joins both nodes' events, the new owner's stages, the fault and what the client saw.
func timeline(o observation) []demoEvent {
	type row struct {
		ns int64
		e  demoEvent
	}
	var rows []row
	add := func(ns int64, node, text string) {
		rows = append(rows, row{ns, demoEvent{(ns - o.t0) / 1e3, node, text}})
	}
	home := o.plan.identity.Home
	if o.plan.fault != "" {
		add(o.t0, home, "fault "+string(o.plan.fault)+": "+faultTexts[o.plan.fault])
	}
	if o.healed != 0 {
		add(o.healed, home, "mended")
	}
	for _, e := range o.events {
		if e.TimeNS >= o.t0 && e.TimeNS <= o.end {
			add(e.TimeNS, e.Node, eventWords(e))
		}
	}
	for _, st := range newOwnersStages(o) {
		add(st.ns, st.node, st.text)
	}
	if c := o.client; c.Lost > 0 && c.ToNs > c.FromNs {
		add(c.FromNs, lab.Client, "last probe before the silence is answered by "+nodeWord(c.FromTTL))
		if c.Restored {
			add(c.ToNs, lab.Client, "first probe after the silence is answered by "+nodeWord(c.ToTTL))
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.ns, b.ns) })
	out := []demoEvent{}
	for _, r := range rows {
		out = append(out, r.e)
	}
	return out
}

// ownersStage is a stage of the takeover that is no event: the kernel stamps it and tells nobody.
type ownersStage struct {
	ns         int64
	node, text string
}

// newOwnersStages are those that fall into the run.
func newOwnersStages(o observation) (out []ownersStage) {
	t := o.takeover
	if t == nil || t.Identity != o.plan.identity.Name || t.Generation <= o.before {
		return nil
	}
	for _, st := range []struct {
		us   int64
		text string
	}{
		{t.Timeline.AnsweredUS, "first ARP or ND question answered"}, {t.Timeline.InUS, "first packet in"}, {t.Timeline.OutUS, "first packet out"},
	} {
		if ns := t.Timeline.AtNS + st.us*1e3; st.us != 0 && ns >= o.t0 && ns <= o.end {
			out = append(out, ownersStage{ns, otherNode(o.plan.identity.Home), st.text + " " + t.Identity})
		}
	}
	return out
}

func otherNode(name string) string {
	if name == lab.Serv1 {
		return lab.Serv2
	}
	return lab.Serv1
}

func eventWords(e control.Event) string {
	s := e.Kind
	if e.Identity != "" {
		s += " " + e.Identity
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

func nodeWord(ttl uint8) string {
	switch ttl {
	case lab.TTLServ1:
		return lab.Serv1
	case lab.TTLServ2:
		return lab.Serv2
	}
	return "nobody"
}

// resultText is a run's end for people: the timeline, and beside it what the
// client heard.
func resultText(r demoResult) string {
	var b strings.Builder
	if r.Fault == "none" {
		fmt.Fprintf(&b, "\nat rest, identity %s, profile %s: times in ms from the start\n", r.Identity, r.Profile)
	} else {
		fmt.Fprintf(&b, "\nfault %s, identity %s, profile %s: times in ms from the fault\n", r.Fault, r.Identity, r.Profile)
	}
	timelineText(&b, r)
	if r.Lost == 0 {
		fmt.Fprintf(&b, "\n  no probe was lost; the longest time between two answered ones is %s\n", shortNS(float64(r.OutageUS)*1e3))
	} else {
		fmt.Fprintf(&b, "\n  outage %s, detected in %s, %d probes lost\n", shortNS(float64(r.OutageUS)*1e3), orNone(r.DetectUS), r.Lost)
	}
	fmt.Fprintf(&b, "  client: %d probes sent, %d answered, %d answers by two owners; served by %s before and by %s after\n",
		r.Sent, r.Answered, r.DualAnswers, orNobody(r.Before), orNobody(r.After))
	if r.StallMaxUS > 0 {
		fmt.Fprintf(&b, "  the client's own stalls, not counted: %s in all, longest %s\n", shortNS(float64(r.StalledUS)*1e3), shortNS(float64(r.StallMaxUS)*1e3))
	}
	for _, w := range r.Wrong {
		fmt.Fprintf(&b, "  ✗ %s\n", w)
	}
	return b.String()
}

func timelineText(b *strings.Builder, r demoResult) {
	if len(r.Timeline) == 0 {
		b.WriteString("\n  nothing happened\n")
		return
	}
	nw := 6
	var texts []string
	for _, e := range r.Timeline {
		nw, texts = max(nw, len(e.Node)), append(texts, e.Event)
	}
	tw := min(width(texts), 78)
	fmt.Fprintf(b, "\n  %10s  %-*s  %s  client hears\n", "t", nw, "who", pad("what", tw))
	for _, e := range r.Timeline {
		fmt.Fprintf(b, "  %10.3f  %-*s  %s  %s\n", float64(e.TUS)/1e3, nw, e.Node, pad(e.Event, tw), hears(r, e.TUS))
	}
}

func orNone(us int64) string {
	if us == 0 {
		return "-"
	}
	return shortNS(float64(us) * 1e3)
}

// hears says what the client heard at a time.
func hears(r demoResult, us int64) string {
	silent := r.Lost > 0 || !r.Restored
	switch {
	case !silent:
		return "│ " + r.After
	case us <= r.OutageFromUS:
		return "│ " + r.Before
	case us < r.OutageToUS:
		return "░ silence"
	case !r.Restored:
		return "░ silence"
	}
	return "│ " + r.After
}

// seriesText sums up several runs.
func seriesText(rs []demoResult) string {
	var outages []int64
	dual, bad := 0, 0
	for _, r := range rs {
		outages = append(outages, r.OutageUS)
		dual += r.DualAnswers
		if len(r.Wrong) > 0 {
			bad++
		}
	}
	slices.Sort(outages)
	us := func(v int64) string { return shortNS(float64(v) * 1e3) }
	return fmt.Sprintf("\n%d runs: outage median %s, least %s, most %s; answers by two owners %d; runs that went wrong %d\n",
		len(rs), us(median(outages)), us(outages[0]), us(outages[len(outages)-1]), dual, bad)
}

// median of sorted values; of an even number the mean of the middle two.
func median(sorted []int64) int64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
