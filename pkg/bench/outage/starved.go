// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// StarvedReport compares who paces while nothing ordinary runs.
type StarvedReport struct {
	HogsMS   int64           `json:"hogs_ms"` // how long all CPUs are full
	CutMS    int64           `json:"cut_ms"`  // when the owner dies, from the prober's start; hogs start after that
	Variants []StarvedSeries `json:"variants"`
}

// StarvedSeries is one pacer's.
type StarvedSeries struct {
	Pacer   string `json:"pacer"`
	Stopped bool   `json:"stopped"` // the survivor's daemon, by SIGSTOP, until the hogs are gone
	Tally
	// InTime counts the rounds in which the other node served while hogs still ran.
	InTime int            `json:"in_time"`
	Rounds []StarvedRound `json:"rounds"`
}

// StarvedRound is one death on a machine without time for anybody.
type StarvedRound struct {
	lab.Fall
	HogsFromNs int64 `json:"hogs_from_ns"` // CLOCK_BOOTTIME
	HogsToNs   int64 `json:"hogs_to_ns"`
	CutNs      int64 `json:"cut_ns"`
	// OrdinaryNs is the longest time for which an ordinary program, that wants to run every
	// millisecond, did not.
	OrdinaryNs int64 `json:"ordinary_ns"`
	LostBefore int   `json:"lost_before"` // probes without an answer although nothing was broken
	InTime     bool  `json:"in_time"`
}

// The hogs' priority is below the client's, and above that of xdpha's pacer thread: the worst
// that a neighbour may do. Their programs take some ten milliseconds to start.
const (
	hogPriority = 30
	hogTime     = 1500 * time.Millisecond
	cutAfter    = 500 * time.Millisecond
	// starvedLease does not run out while the survivor's daemon is stopped: that is another fault.
	starvedLease = "60s"
	perTurn      = 10
)

// variants: with the daemon stopped, its thread is too, so the thread has a second chance.
var variants = []StarvedSeries{
	{Pacer: "kernel", Stopped: true},
	{Pacer: "thread", Stopped: true},
	{Pacer: "thread"},
}

func (s StarvedReport) good() bool {
	for _, v := range s.Variants {
		if !v.Tally.good() || v.Pacer == "kernel" && v.InTime != v.Faults {
			return false
		}
	}
	return true
}

// starved measures the variants by turns, each turn in a new lab.
func (o Options) starved(ctx context.Context, notes *[]Note) (*StarvedReport, error) {
	rep := &StarvedReport{HogsMS: hogTime.Milliseconds(), CutMS: cutAfter.Milliseconds(), Variants: append([]StarvedSeries(nil), variants...)}
	for done := 0; done < o.Rounds; done += perTurn {
		for i := range rep.Variants {
			if err := o.starvedTurn(ctx, &rep.Variants[i], min(perTurn, o.Rounds-done), notes); err != nil {
				return rep, err
			}
		}
	}
	return rep, nil
}

func (o Options) starvedTurn(ctx context.Context, v *StarvedSeries, rounds int, notes *[]Note) (err error) {
	scene := lab.Scene{Profile: o.Profile, Pacer: v.Pacer, Staging: "ahead", Failback: "manual", SupervisorLease: starvedLease, PeerSupervisorLost: "wait"}
	r, err := o.open(ctx, Starved, scene, patience)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(notes)) }()
	for range rounds {
		id := lab.Identities[len(v.Rounds)%len(lab.Identities)]
		got, err := r.starve(ctx, id, *v)
		for ; err == nil && got.Unasked && wrong(got.Fall) == "" && v.Unasked < maxUnasked*o.Rounds; got, err = r.starve(ctx, id, *v) {
			v.Unasked++ // somebody else had it before the cut: that death says nothing
			r.mark(got.HogsFromNs, got.CutNs, "%s: %s moved with nothing broken", v.name(), id.Name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.name(), err)
		}
		got.Round = len(v.Rounds)
		v.add(got)
		r.judge(got.Fall, v.long())
		o.tell("starved: %s, round %d of %d at %s: %9.3f ms, an ordinary program waited for %v%s", v.name(), len(v.Rounds), o.Rounds, id.Home,
			float64(got.OutageNs)/1e6, time.Duration(got.OrdinaryNs).Round(time.Millisecond), wrong(got.Fall))
	}
	return nil
}

// long is the outage that is worth a look: without its thread a node can do nothing in time.
func (v StarvedSeries) long() time.Duration {
	if v.Pacer == "thread" {
		return time.Hour
	}
	return longOutage
}

func (v StarvedSeries) name() string {
	if v.Stopped {
		return "pacer " + v.Pacer + ", daemon stopped"
	}
	return "pacer " + v.Pacer + ", daemon starved"
}

func (v *StarvedSeries) add(r StarvedRound) {
	v.Rounds = append(v.Rounds, r)
	var falls []lab.Fall
	v.InTime = 0
	for _, x := range v.Rounds {
		falls = append(falls, x.Fall)
		if x.InTime {
			v.InTime++
		}
	}
	v.sum(falls)
}

// starve is one round: the home of id dies while nobody ordinary runs, by the prober's own hand.
func (r *rig) starve(ctx context.Context, id lab.Identity, v StarvedSeries) (out StarvedRound, err error) {
	out.Fall = lab.Fall{Kind: lab.FaultHang, Node: id.Home, Identity: id.Name, Family: 4, Expected: r.Peer(id.Home).Name}
	if err := r.settle(ctx); err != nil {
		return out, err
	}
	if err := r.Judge(true); err != nil {
		return out, err
	}
	if _, err := r.JudgeTrail(); err != nil { // what came before does not count
		return out, err
	}
	if v.Stopped {
		if err := r.Node(out.Expected).Signal(unix.SIGSTOP); err != nil {
			return out, err
		}
	}
	rec, err := r.dieAmongHogs(ctx, id, v.Stopped, &out)
	if err != nil {
		return out, err
	}
	out.saw(rec)
	if err := r.Heal(ctx, lab.FaultHang, id); err != nil {
		return out, err
	}
	if err := pair.Pause(ctx, afterReturn); err != nil {
		return out, err
	}
	trail, err := r.JudgeTrail()
	if err != nil {
		return out, err
	}
	for i := range lab.Identities {
		out.Overlaps = append(out.Overlaps, lab.Overlap(trail, i))
	}
	return out, r.Judge(false)
}

// afterReturn is how long the old owner is looked at when it can be heard again.
const afterReturn = 200 * time.Millisecond

// dieAmongHogs returns the client's record, when the other node has served for a while or the
// patience is over. A stopped daemon goes on when the hogs are gone.
func (r *rig) dieAmongHogs(ctx context.Context, id lab.Identity, stopped bool, out *StarvedRound) (rec lab.Record, err error) {
	short, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	p, err := r.StartProber(short, id.Addr, lab.ProbeOptions{CutNode: id.Home, CutAt: cutAfter, Expect: 2 * hogTime})
	if err != nil {
		return rec, err
	}
	stop := sync.OnceValue(p.Stop)
	defer stop()
	watched := witness()
	out.HogsFromNs = lab.NowNs()
	wait, err := lab.StartHogs(hogPriority, hogTime)
	if err == nil {
		err = wait()
	}
	out.HogsToNs = lab.NowNs()
	out.OrdinaryNs = watched()
	if stopped {
		err = errors.Join(err, r.Node(out.Expected).Signal(unix.SIGCONT))
	}
	if err != nil {
		return rec, err
	}
	out.CutNs = p.Live().CutNs
	out.T0Ns = out.CutNs
	if err := p.AwaitAnswer(short, out.Expected, out.CutNs); err != nil {
		out.Why = err.Error()
	} else if err := pair.Pause(ctx, afterReturn); err != nil {
		return rec, err
	}
	out.Served = out.Why == "" && p.Live().LastBy == out.Expected
	return stop(), nil
}

// serveTimeout is how long the other node may take after all: hogs and all.
const serveTimeout = 15 * time.Second

// saw notes what the client saw. The outage is the silence that the death made or prolonged.
func (r *StarvedRound) saw(rec lab.Record) {
	from := eve(rec)
	s := lab.Analyze(rec, lab.Window{FromNs: from})
	r.ChangeNs = s.ChangeNs
	r.OutageNs, r.Restored, r.Lost = s.OutageNs, s.Restored, s.Lost
	all := lab.Analyze(rec, lab.Window{})
	r.DualAnswers, r.Before, r.After, r.StalledNs, r.StallMaxNs = all.DualAnswers, all.Before, all.After, all.StalledNs, all.StallMaxNs
	r.Unasked = lab.Analyze(rec, lab.Window{ToNs: rec.CutNs}).After == r.Expected
	r.LostBefore = lab.Analyze(rec, lab.Window{ToNs: rec.CutNs - int64(5*time.Millisecond)}).Lost
	r.InTime = r.Served && s.ToNs < r.HogsFromNs+int64(hogTime) // hogs begin a little later than HogsFromNs, and end so
}

// eve is the last probe that was answered and sent before the cut.
func eve(rec lab.Record) (last int64) {
	for _, a := range rec.Answers {
		if sent := rec.SentNs[a.Seq]; sent < rec.CutNs {
			last = max(last, sent)
		}
	}
	return last
}

// witness is an ordinary program that wants to run every millisecond; what it returns ends
// it and tells for how long it could not.
func witness() (longest func() int64) {
	var end atomic.Bool
	told := make(chan int64)
	go func() {
		var worst int64
		for last := lab.NowNs(); !end.Load(); {
			time.Sleep(time.Millisecond) // what it waits for is the machine's scheduler
			now := lab.NowNs()
			worst, last = max(worst, now-last), now
		}
		told <- worst
	}()
	return func() int64 { end.Store(true); return <-told }
}
