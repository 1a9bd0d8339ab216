// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// LadderReport is what a busy machine does to a pair in which nothing breaks.
type LadderReport struct {
	Profile string   `json:"profile"`
	Lease   string   `json:"supervisor_lease"`
	Seconds float64  `json:"seconds"`
	Moves   uint64   `json:"moves"` // changes of owner, of both identities: none is wanted
	Rungs   []*Rung  `json:"rungs"`
	Gaps    []GapBin `json:"gaps"` // of the whole time, all links of both nodes
	// GapMaxNS and so on are the greatest of both nodes, since their start.
	GapMaxNS      int64   `json:"gap_max_ns"`       // between two frames of the peer on a link
	PacerGapMaxNS int64   `json:"pacer_gap_max_ns"` // between two ticks
	LeaseLeftS    float64 `json:"lease_left_s"`     // the least that was left of a supervisor's lease when it was renewed
}

// Rung is one kind of load, all its turns together.
type Rung struct {
	Name        string  `json:"name"`
	Load        string  `json:"load"`
	Turns       int     `json:"turns"`
	Seconds     float64 `json:"seconds"`
	Moves       uint64  `json:"moves"`
	OutageMaxNS int64   `json:"outage_max_ns"` // of both identities' clients
	Sent        int     `json:"sent"`
	Lost        int     `json:"lost"`
	StallMaxNS  int64   `json:"stall_max_ns"` // the clients' own
	DualAnswers int     `json:"dual_answers"`
	Suspects    float64 `json:"suspects"`
	Refuted     float64 `json:"refuted"`
	SelfStalls  float64 `json:"self_stalls"`     // evaluations that a node skipped, because it was late itself
	TokensLost  int     `json:"tokens_lost"`     // times that a kernel pacer stood still, until its daemon saw to it
	Unpaced     float64 `json:"tokens_unpaced"`  // tokens that a pacer ended, because nothing held them back
	Dropped     int64   `json:"backlog_dropped"` // frames for which the kernel's backlog, which veth devices share, had no room
	GapBelowNS  int64   `json:"gap_below_ns"`    // every time between two frames on a link was shorter than this
	Work        string  `json:"work,omitempty"`  // what the load came to
	LeaseLeftS  float64 `json:"lease_left_s"`    // so far: the least that was left of a supervisor's lease

	spans []span
}

// span is one turn of a rung.
type span struct{ from, to int64 }

// GapBin counts times between two frames on a link, up to its bound and above the one before.
type GapBin struct {
	UpToNS int64  `json:"up_to_ns"` // -1: no bound
	Count  uint64 `json:"count"`
}

// ladderLease must outlast what a rung does to an ordinary daemon: stopped for half a second,
// or with some 50 ms in a second to run in, while its peer's daemon waits just as long.
const ladderLease = "10s"

const (
	maxTurn      = time.Minute // then the next rung
	clientPeriod = 250 * time.Microsecond
)

func (l LadderReport) good() bool {
	return l.Moves == 0 && !slices.ContainsFunc(l.Rungs, func(r *Rung) bool { return r.DualAnswers > 0 })
}

// turns says how often each rung has its turn, and how long a turn is.
func turns(whole time.Duration, rungs int) (n int, each time.Duration) {
	n = int(math.Ceil(float64(whole) / float64(time.Duration(rungs)*maxTurn)))
	n = max(n, 1)
	return n, whole / time.Duration(n*rungs)
}

func (o Options) ladder(ctx context.Context, notes *[]Note) (_ *LadderReport, err error) {
	rep := &LadderReport{Profile: o.LadderProfile, Lease: ladderLease}
	scene := lab.Scene{Profile: rep.Profile, Pacer: "kernel", Staging: "ahead", Failback: "manual", SupervisorLease: ladderLease, PeerSupervisorLost: "wait"}
	r, err := o.open(ctx, Ladder, scene, 2*patience)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close(notes)) }()
	loads := r.loads()
	for _, l := range loads {
		rep.Rungs = append(rep.Rungs, &Rung{Name: l.name, Load: l.what})
	}
	n, each := turns(o.For, len(loads))
	start, err := r.read(ctx)
	if err != nil {
		return rep, err
	}
	end := start
	for turn := range n {
		for i, l := range loads {
			o.tell("ladder: turn %d of %d: %s for %s", turn+1, n, l.name, each.Round(time.Second))
			if end, err = r.climb(ctx, rep.Rungs[i], l, each); err != nil {
				return rep, fmt.Errorf("%s: %w", l.name, err)
			}
			o.tell("ladder: %s", rep.Rungs[i].line())
		}
	}
	rep.sum(start, end)
	for _, rung := range rep.Rungs {
		for _, s := range rung.spans {
			rung.TokensLost += r.events.Count("pacer-token-lost", s.from, s.to)
		}
	}
	return rep, nil
}

// line is a rung so far, for who waits.
func (r Rung) line() string {
	return fmt.Sprintf("%s: outage at most %.2f ms, %d of %d lost, %.0f suspects, %.0f refuted, %.0f own stalls, %d moves; %s", r.Name,
		float64(r.OutageMaxNS)/1e6, r.Lost, r.Sent, r.Suspects, r.Refuted, r.SelfStalls, r.Moves, r.Work)
}

func (l *LadderReport) sum(start, end readings) {
	for _, r := range l.Rungs {
		l.Seconds += r.Seconds
		l.Moves += r.Moves
	}
	l.Gaps = bins(start, end)
	l.GapMaxNS = int64(end.max("xdpha_heartbeat_gap_max_seconds") * 1e9)
	l.PacerGapMaxNS = int64(end.max("xdpha_pacer_gap_max_seconds") * 1e9)
	l.LeaseLeftS = end.leaseLeft()
}

// climb puts one load on the machine for a while.
func (r *rig) climb(ctx context.Context, rung *Rung, l load, d time.Duration) (after readings, err error) {
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	before, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	stop, err := r.clients(ctx, d)
	if err != nil {
		return nil, err
	}
	defer stop()
	began, dropped := lab.NowNs(), backlogDropped()
	timed, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	work, err := l.put(timed, d)
	if err != nil || ctx.Err() != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	ended := lab.NowNs()
	for _, s := range stop() {
		rung.saw(s)
	}
	if after, err = r.read(ctx); err != nil {
		return nil, err
	}
	rung.Turns++
	rung.Seconds += float64(ended-began) / 1e9
	rung.Dropped += backlogDropped() - dropped
	rung.spans = append(rung.spans, span{began, lab.NowNs()})
	rung.Work = work
	if moves := rung.count(before, after); moves > 0 {
		r.mark(began, lab.NowNs(), "rung %s: %d changes of owner", rung.Name, moves)
	}
	return after, nil
}

// clients ask both identities; what is returned ends them, and may be called again.
func (r *rig) clients(ctx context.Context, d time.Duration) (stop func() []lab.Summary, err error) {
	short, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	var all []*lab.Prober
	stop = sync.OnceValue(func() (out []lab.Summary) {
		for _, p := range all {
			out = append(out, lab.Analyze(p.Stop(), lab.Window{}))
		}
		return out
	})
	for _, id := range lab.Identities {
		p, err := r.StartProber(short, id.Addr, lab.ProbeOptions{Period: clientPeriod, Expect: d + 5*time.Second})
		if err != nil {
			stop()
			return nil, err
		}
		all = append(all, p)
	}
	return stop, nil
}

func (r *Rung) saw(s lab.Summary) {
	r.OutageMaxNS, r.StallMaxNS = max(r.OutageMaxNS, s.OutageNs), max(r.StallMaxNS, s.StallMaxNs)
	r.Sent, r.Lost, r.DualAnswers = r.Sent+s.Sent, r.Lost+s.Lost, r.DualAnswers+s.DualAnswers
}

// count adds what the nodes counted, and returns how often an owner changed.
func (r *Rung) count(before, after readings) (moves uint64) {
	for _, id := range lab.Identities {
		name := `xdpha_generation{identity="` + id.Name + `"}`
		moves += uint64(after.max(name) - before.max(name))
	}
	r.Moves += moves
	r.Suspects += after.sum("xdpha_suspects_total") - before.sum("xdpha_suspects_total")
	r.Refuted += after.sum("xdpha_suspects_refuted_total") - before.sum("xdpha_suspects_refuted_total")
	r.SelfStalls += after.sum("xdpha_self_stalls_total") - before.sum("xdpha_self_stalls_total")
	const unpaced = `xdpha_frames_total{kind="token",link="",reason="unpaced",verdict="dropped"}`
	r.Unpaced += after.sum(unpaced) - before.sum(unpaced)
	for _, b := range bins(before, after) {
		if b.Count > 0 && r.GapBelowNS >= 0 && (b.UpToNS < 0 || b.UpToNS > r.GapBelowNS) {
			r.GapBelowNS = b.UpToNS
		}
	}
	r.LeaseLeftS = after.leaseLeft()
	return moves
}

// readings are the metrics of each node.
type readings map[string]pair.Metrics

// read asks both nodes, for as long as a busy machine needs.
func (r *rig) read(ctx context.Context) (readings, error) {
	out := readings{}
	for _, n := range r.Nodes {
		var err error
		for range 5 {
			if out[n.Name], err = pair.Read(ctx, r.Lab, n.Name); err == nil {
				break
			}
		}
		if err != nil {
			return nil, errors.Join(err, pair.Ended(r.Lab))
		}
	}
	return out, nil
}

func (r readings) max(name string) (v float64) {
	for _, m := range r {
		v = max(v, m.Max(name))
	}
	return v
}

func (r readings) sum(name string) (v float64) {
	for _, m := range r {
		v += m[name]
	}
	return v
}

// leaseLeft is the least of both nodes.
func (r readings) leaseLeft() float64 {
	v := math.MaxFloat64
	for _, m := range r {
		v = min(v, m["xdpha_lease_remaining_min_seconds"])
	}
	return v
}

// bins are what a histogram of gaps, over all links and both nodes, gained.
func bins(before, after readings) []GapBin {
	const name = "xdpha_heartbeat_gap_seconds_bucket{"
	counts := map[float64]float64{}
	for node, m := range after {
		for k, v := range m {
			if !strings.HasPrefix(k, name) {
				continue
			}
			_, le, _ := strings.Cut(k, `le="`)
			le, _, _ = strings.Cut(le, `"`)
			if bound, err := strconv.ParseFloat(le, 64); err == nil {
				counts[bound] += v - before[node][k]
			}
		}
	}
	var bounds []float64
	for b := range counts {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	var out []GapBin
	var below float64 // the buckets are cumulative
	for _, b := range bounds {
		bin := GapBin{UpToNS: -1, Count: uint64(counts[b] - below)}
		if !math.IsInf(b, 1) {
			bin.UpToNS = int64(math.Round(b * 1e9))
		}
		below = counts[b]
		out = append(out, bin)
	}
	return out
}

// backlogDropped is how many frames all CPUs have dropped since boot, because their backlog was
// full; 0 if the kernel does not say.
func backlogDropped() (n int64) {
	b, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if v, err := strconv.ParseInt(f[1], 16, 64); err == nil {
			n += v
		}
	}
	return n
}
