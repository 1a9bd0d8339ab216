// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// PairsReport is what came of faults in pairs.
type PairsReport struct {
	Classes []PairClass `json:"classes"`
	Total   PairClass   `json:"total"`
	Rounds  []PairRound `json:"rounds"`
	Labs    int         `json:"labs"` // a pair that does not come to rest is given up, and a new one started
}

// PairClass sums up the rounds of two classes of faults.
type PairClass struct {
	Name         string       `json:"name"`
	Rounds       int          `json:"rounds"`
	Void         int          `json:"void"`         // of their faults: there was nothing left to break
	Documented   int          `json:"documented"`   // times with two owners that the arbiter reach documents
	Undocumented int          `json:"undocumented"` // and others
	NotServed    int          `json:"not_served"`   // rounds that did not come to rest with all served
	Outage       stats.Spread `json:"outage"`       // of each round's longer one
	Rest         stats.Spread `json:"rest"`
}

// classes are the kinds of faults by what they are done to.
var classes = map[lab.Fault]string{
	lab.FaultPower: "node", lab.FaultHang: "node", lab.FaultPanic: "node", lab.FaultPause: "node", lab.FaultReboot: "node", lab.FaultBootBoth: "node",
	lab.FaultDaemonKill: "daemon", lab.FaultDaemonStop: "daemon", lab.FaultDaemonSlow: "daemon",
	lab.FaultService: "service", lab.FaultCrashLoop: "service",
	lab.FaultCrossover: "cable", lab.FaultLAN: "cable", lab.FaultFlap: "cable", lab.FaultNIC: "cable", lab.FaultSwitch: "cable", lab.FaultTrunk: "cable",
	lab.FaultIsolate: "partition", lab.FaultPartition: "partition",
	lab.FaultForge: "attack", lab.FaultReplay: "attack", lab.FaultFlood: "attack", lab.FaultClaim: "attack",
	lab.FaultHandOver: "hand-over",
}

func (r PairRound) class() string {
	a, b := classes[r.Strikes[0].Kind], classes[r.Strikes[1].Kind]
	return min(a, b) + " + " + max(a, b)
}

func (p PairsReport) good() bool { return p.Total.Undocumented == 0 && p.Total.NotServed == 0 }

func (p *PairsReport) sum() *PairsReport {
	byName := map[string][]PairRound{}
	for _, r := range p.Rounds {
		byName[r.class()] = append(byName[r.class()], r)
	}
	p.Classes = nil
	for name, rounds := range byName {
		p.Classes = append(p.Classes, sumClass(name, rounds))
	}
	slices.SortFunc(p.Classes, func(a, b PairClass) int { return cmp.Compare(a.Name, b.Name) })
	p.Total = sumClass("total", p.Rounds)
	return p
}

func sumClass(name string, rounds []PairRound) PairClass {
	c := PairClass{Name: name, Rounds: len(rounds)}
	var outages, rests []int64
	for _, r := range rounds {
		documented, others := r.two()
		c.Documented, c.Undocumented = c.Documented+documented, c.Undocumented+others
		if !r.AtRest {
			c.NotServed++
		} else {
			rests = append(rests, r.RestNs)
		}
		var longest int64
		for _, ns := range r.OutageNs {
			longest = max(longest, ns)
		}
		outages = append(outages, longest)
		for _, s := range r.Strikes {
			if s.Void != "" {
				c.Void++
			}
		}
	}
	c.Outage, c.Rest = stats.Of(outages), stats.Of(rests)
	return c
}

// pairScene has a failing service moved soon, and forgotten soon: one that dies while it starts is
// waited for as long as a start may take.
func (o Options) pairScene() lab.Scene {
	s := o.scene()
	s.Pacer = "kernel"
	s.Service = "check: {every: 100ms, rise: 1, fall: 1}\nrestart: {times: 2, within: 1s}\ntimeout: {start: 1s, stop: 1s}"
	return s
}

// pairs runs the rounds in one lab, as long as that comes to rest.
func (o Options) pairs(ctx context.Context, notes *[]Note) (_ *PairsReport, err error) {
	rep := &PairsReport{}
	for i := o.From; i < o.From+o.Rounds; {
		n, err := o.pairsInOneLab(ctx, rep, i, notes)
		if err != nil {
			return rep.sum(), err
		}
		i += n
	}
	return rep.sum(), nil
}

// pairsInOneLab runs rounds from one on, up to the first that does not come to rest, and says how many.
func (o Options) pairsInOneLab(ctx context.Context, rep *PairsReport, first int, notes *[]Note) (done int, err error) {
	r, err := o.open(ctx, Pairs, o.pairScene(), patience)
	if err != nil {
		return 0, err
	}
	rep.Labs++
	defer func() { err = errors.Join(err, r.close(notes)) }()
	cfg, err := config.Load(r.ConfigPath(), config.Options{Node: lab.Serv1})
	if err != nil {
		return 0, err
	}
	for i := first; i < o.From+o.Rounds; i++ {
		p := &pairRound{rig: r, timing: cfg.Timing, out: drawPair(o.Seed, i, o.PairFaults)}
		if err := p.run(ctx); err != nil {
			return done, fmt.Errorf("round %d, %s: %w", i, p.out.name(), err)
		}
		told, err := p.judge(ctx)
		if err != nil {
			return done, err
		}
		done++
		rep.Rounds = append(rep.Rounds, p.out)
		o.tell("%4d of %d: %s", i+1-o.From, o.Rounds, p.out.line())
		if !p.out.good() {
			if err := o.keep(p, told); err != nil {
				return done, err
			}
		}
		if !p.out.AtRest {
			break
		}
	}
	return done, nil
}

// eventsLag is how long events may be on their way: more of them than were there can excuse a frame.
const eventsLag = 300 * time.Millisecond

// judge looks at what was seen and told in a round.
func (p *pairRound) judge(ctx context.Context) (told []control.Event, err error) {
	for _, to := range []string{lab.Serv1, lab.Serv2} {
		for _, from := range []string{lab.Serv1, lab.Serv2, lab.Hosts2} {
			s, err := p.LastingSilence(to, from)
			if err != nil {
				return nil, err
			}
			p.silent = append(p.silent, s)
		}
	}
	for range 2 {
		told = p.events.From(p.out.T0Ns - int64(noteBefore))
		p.out.Owners = verdicts(p.trail, p.silent, told, p.timing)
		if p.out.good() {
			break
		}
		if err := pair.Pause(ctx, eventsLag); err != nil {
			return nil, err
		}
	}
	return told, nil
}

// name is what a round breaks.
func (r PairRound) name() string {
	var parts []string
	for _, s := range r.Strikes {
		parts = append(parts, fmt.Sprintf("%s at %s, %d to %d ms", s.Kind, s.Node, s.BeginNs/1e6, s.HealNs/1e6))
	}
	return strings.Join(parts, "; ")
}

// line is a round for who waits.
func (r PairRound) line() string {
	documented, others := r.two()
	s := fmt.Sprintf("%-64s outage", r.name())
	for _, id := range lab.Identities {
		s += fmt.Sprintf(" %7.1f", float64(r.OutageNs[id.Name])/1e6)
	}
	s += fmt.Sprintf(" ms, rest %5d ms, round %5d ms", r.RestNs/1e6, r.TookNs/1e6)
	if documented > 0 {
		s += "  two owners, as documented"
	}
	if others > 0 {
		s += "  TWO OWNERS"
	}
	if !r.AtRest {
		s += "  NOT AT REST"
	}
	return s
}

// moment is a line of a round's story.
type moment struct {
	ns   int64
	who  string
	text string
}

// keep writes a round that went wrong, and tells it.
func (o Options) keep(p *pairRound, told []control.Event) error {
	story := p.story(told)
	o.tell("%s", story)
	if o.Keep == "" {
		return nil
	}
	if err := os.MkdirAll(o.Keep, 0o755); err != nil {
		return fmt.Errorf("keep a round: %w", err)
	}
	file := filepath.Join(o.Keep, fmt.Sprintf("seed-%d-round-%d.txt", p.out.Seed, p.out.Round))
	if err := os.WriteFile(file, []byte(story), 0o644); err != nil {
		return fmt.Errorf("keep a round: %w", err)
	}
	return nil
}

// story is a round as both nodes and the switches tell it.
func (p *pairRound) story(told []control.Event) string {
	t0 := p.out.T0Ns
	all := speakers(p.trail, t0)
	for _, e := range told {
		all = append(all, moment{e.TimeNS, e.Node, strings.TrimSpace(e.Kind + " " + e.Identity + ": " + e.Text)})
	}
	for _, s := range p.out.Strikes {
		text := string(s.Kind) + " at " + s.Node
		all = append(all, moment{t0 + s.BegunNs, "fault", text + " begins " + s.Void})
		if s.HealedNs != 0 {
			all = append(all, moment{t0 + s.HealedNs, "fault", text + " is healed"})
		}
	}
	for _, s := range p.silent {
		if s.ToNs-s.FromNs > int64(p.timing.DeadAfter)/2 && (s.From == lab.Serv1 || s.From == lab.Serv2) {
			all = append(all, moment{s.FromNs, "switch", fmt.Sprintf("nothing of %s to %s for %.3f ms from here, until a frame on its %s", s.From, s.To, float64(s.ToNs-s.FromNs)/1e6, s.EndedBy)})
		}
	}
	for _, w := range p.out.Owners {
		kind := "TWO OWNERS"
		if w.Documented {
			kind = "two owners, as documented"
		}
		all = append(all, moment{w.FromNs, "judge", fmt.Sprintf("%s of %s: %d frames of %s until %.3f ms; %s", kind, w.Identity, w.Frames, w.Old, float64(w.LastNs-t0)/1e6, w.Why)})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(a.ns, b.ns) })
	var b strings.Builder
	fmt.Fprintf(&b, "-seed %d -from %d -rounds 1: %s\n%s\n", p.out.Seed, p.out.Round, p.out.name(), p.out.Why)
	for _, m := range all {
		fmt.Fprintf(&b, "%12.3f ms  %-6s  %s\n", float64(m.ns-t0)/1e6, m.who, m.text)
	}
	return b.String()
}
