// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// CampaignPlan is what to break, one after the other, in one lab.
type CampaignPlan struct {
	Rounds int
	Seed   uint64 // of what each round breaks
	// Faults and Identities are what a round chooses from: it breaks the home of the
	// identity that it asks. One of each is a fixed fault; no identities are all of them.
	Faults     []Fault
	Identities []Identity
	Probe      ProbeOptions
	NoIPv6     bool // ask by IPv4 only, not by turns

	WarmUp   time.Duration // how long all is well before a fault; default 100 ms
	Settle   time.Duration // how long to look on when service is back, and again after healing; default 100 ms
	Patience time.Duration // how long to wait for an answer; default 10 s

	// Expect names the node that must serve, to the end of Settle, after a fault: the lab
	// knows nothing of policies. Empty is any. Where the home must go on, Settle should be
	// as long as what could move it.
	Expect func(kind Fault, id Identity) (node string)
	// Ready returns when the cluster is whole and every identity served by its home; nil: at once.
	Ready func(ctx context.Context) error
	// Back is called after a fault was healed, and gives identities back; nil: nothing to do.
	Back func(ctx context.Context) error
	// Each is told of every round as it ends; may be nil.
	Each func(Fall)
}

// Fall is one round of a campaign: what was broken, and what clients and switches saw of it.
type Fall struct {
	Round    int    `json:"round"` // from 0
	Kind     Fault  `json:"kind"`
	Node     string `json:"node"` // that was broken
	Identity string `json:"identity"`
	Family   int    `json:"family"` // 4 or 6
	T0Ns     int64  `json:"t0_ns"`  // CLOCK_BOOTTIME just before the fault
	Expected string `json:"expected"`
	// Unasked: somebody else than Node answered before anything was broken. What follows is of
	// what the client and the switches saw since the fault.
	Unasked bool `json:"unasked"`
	// Served: the expected node answered, and still did after Settle. Else, Why not.
	Served bool   `json:"served"`
	Why    string `json:"why,omitempty"`
	// Of the client's Summary.
	OutageNs    int64  `json:"outage_ns"`
	ChangeNs    int64  `json:"change_ns"`
	Restored    bool   `json:"restored"`
	Lost        int    `json:"lost"`
	DualAnswers int    `json:"dual_answers"`
	Before      string `json:"before"`
	After       string `json:"after"`
	StalledNs   int64  `json:"stalled_ns"`
	StallMaxNs  int64  `json:"stall_max_ns"`
	SendErrors  int    `json:"send_errors"`
	// Overlaps counts for each identity the frames of a node that another had taken over
	// from, as Overlap does, until the fault was healed; Returns those from then until Back,
	// which is when an old owner that comes to might still speak. Healing a hand-over is a
	// move back, and has no Returns.
	Overlaps []int `json:"overlaps"`
	Returns  []int `json:"returns"`
}

// drainEvery keeps the judge's trail from filling in a long round; a short one is not disturbed.
const drainEvery = 2 * time.Second

// Campaign runs the plan and returns its rounds. A round that ends otherwise than was
// expected is no error; that a round cannot be run is, and ends the campaign.
func (l *Lab) Campaign(ctx context.Context, p CampaignPlan) ([]Fall, error) {
	if err := p.complete(); err != nil {
		return nil, fmt.Errorf("campaign: %w", err)
	}
	var falls []Fall
	for i, c := range p.choices() {
		r := round{lab: l, plan: &p, choice: c, fall: Fall{Round: i, Kind: c.kind, Node: c.id.Home, Identity: c.id.Name, Family: c.family()}}
		if err := r.run(ctx); err != nil {
			return falls, fmt.Errorf("campaign: round %d, %s at %s: %w", i, c.kind, c.id.Home, err)
		}
		falls = append(falls, r.fall)
		if p.Each != nil {
			p.Each(r.fall)
		}
	}
	return falls, nil
}

// complete fills in defaults and refuses what cannot be run.
func (p *CampaignPlan) complete() error {
	if p.Rounds < 1 || len(p.Faults) == 0 || p.Expect == nil {
		return errors.New("a plan needs Rounds, Faults and Expect")
	}
	for _, k := range p.Faults {
		if _, err := ParseFault(string(k)); err != nil {
			return err
		}
	}
	if len(p.Identities) == 0 {
		p.Identities = Identities[:]
	}
	for d, v := range map[*time.Duration]time.Duration{&p.WarmUp: 100 * time.Millisecond, &p.Settle: 100 * time.Millisecond, &p.Patience: 10 * time.Second} {
		if *d == 0 {
			*d = v
		}
	}
	if p.Probe.Expect == 0 {
		p.Probe.Expect = p.WarmUp + p.Patience + p.Settle
	}
	nothing := func(context.Context) error { return nil }
	if p.Ready == nil {
		p.Ready = nothing
	}
	if p.Back == nil {
		p.Back = nothing
	}
	return nil
}

// choice is what a round breaks and asks.
type choice struct {
	kind Fault
	id   Identity
	addr netip.Addr
}

func (c choice) family() int {
	if c.addr.Is4() {
		return 4
	}
	return 6
}

// choices follows from the plan alone.
func (p *CampaignPlan) choices() []choice {
	rnd := rand.New(rand.NewPCG(p.Seed, 0))
	var all []choice
	for i := range p.Rounds {
		c := choice{kind: p.Faults[rnd.IntN(len(p.Faults))], id: p.Identities[rnd.IntN(len(p.Identities))]}
		if c.addr = c.id.Addr; i%2 == 1 && !p.NoIPv6 {
			c.addr = c.id.Addr6
		}
		all = append(all, c)
	}
	return all
}

// round is one round of a campaign while it runs.
type round struct {
	lab  *Lab
	plan *CampaignPlan
	choice
	fall  Fall
	probe *Prober
	watch [len(Identities)]relay // who uses which MAC
	count []int                  // where relieved ones are counted: Overlaps, then Returns
}

func (r *round) run(ctx context.Context) error {
	if err := r.plan.Ready(ctx); err != nil {
		return fmt.Errorf("await readiness: %w", err)
	}
	if err := r.breakAndMeasure(ctx); err != nil {
		return err
	}
	if err := r.heal(ctx); err != nil {
		return err
	}
	if err := r.plan.Back(ctx); err != nil {
		return fmt.Errorf("give back: %w", err)
	}
	return nil
}

func (r *round) breakAndMeasure(ctx context.Context) error {
	l, f, p := r.lab, &r.fall, r.plan
	if err := errors.Join(l.Judge(true), r.ignoreTrail()); err != nil {
		return err
	}
	f.Overlaps, f.Returns = make([]int, len(Identities)), make([]int, len(Identities))
	r.count = f.Overlaps
	short, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	var err error
	if r.probe, err = l.StartProber(short, r.addr, p.Probe); err != nil {
		return err
	}
	stop := sync.OnceValue(r.probe.Stop)
	defer stop()
	if err := r.await(ctx, r.id.Home, NowNs()+int64(p.WarmUp)); err != nil {
		return err
	}
	if err := r.ignoreTrail(); err != nil {
		return err
	}
	if f.T0Ns, err = l.Inject(ctx, r.kind, r.id); err != nil {
		return err
	}
	if err := r.awaitService(ctx); err != nil {
		return err
	}
	f.saw(stop())
	f.SendErrors = r.probe.SendErrors()
	return r.readTrail()
}

// awaitService notes whether the expected node came to serve, and stayed.
func (r *round) awaitService(ctx context.Context) error {
	f := &r.fall
	f.Expected = r.plan.Expect(r.kind, r.id)
	err := r.await(ctx, f.Expected, f.T0Ns)
	if err == nil {
		err = r.await(ctx, f.Expected, NowNs()+int64(r.plan.Settle))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.Served = err == nil; !f.Served {
		f.Why = err.Error()
	}
	return nil
}

// saw notes what the client saw; its record may go. It looks from the last probe on that was
// answered before the fault: moving to and fro before it is not serving twice.
func (f *Fall) saw(rec Record) {
	var eve int64
	for _, a := range rec.Answers {
		if sent := rec.SentNs[a.Seq]; sent < f.T0Ns {
			eve = max(eve, sent)
			f.Unasked = f.Unasked || nodeByTTL(a.TTL) != f.Node
		}
	}
	s := Analyze(rec, Window{FromNs: eve})
	f.ChangeNs = s.ChangeNs
	f.OutageNs, f.Restored, f.Lost, f.DualAnswers = s.OutageNs, s.Restored, s.Lost, s.DualAnswers
	f.Before, f.After, f.StalledNs, f.StallMaxNs = s.Before, s.After, s.StalledNs, s.StallMaxNs
}

// heal ends the fault and looks on: what was away must not speak for what it lost.
func (r *round) heal(ctx context.Context) error {
	r.count = r.fall.Returns
	if err := r.lab.Heal(ctx, r.kind, r.id); err != nil {
		return err
	}
	if r.kind == FaultHandOver {
		return r.lab.Judge(false)
	}
	select {
	case <-time.After(r.plan.Settle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return errors.Join(r.readTrail(), r.lab.Judge(false))
}

// await returns when node answered a probe after t, or the plan's patience is over.
func (r *round) await(ctx context.Context, node string, t int64) error {
	patient, cancel := context.WithTimeoutCause(ctx, r.plan.Patience, fmt.Errorf("not within %s", r.plan.Patience))
	defer cancel()
	for {
		short, cancel := context.WithTimeout(patient, drainEvery)
		err := r.probe.AwaitAnswer(short, node, t)
		cancel()
		if err == nil || patient.Err() != nil {
			return err
		}
		if err := r.readTrail(); err != nil {
			return err
		}
	}
}

// ignoreTrail forgets what the judge has seen so far: it does not count.
func (r *round) ignoreTrail() error {
	r.watch = [len(Identities)]relay{}
	_, err := r.lab.JudgeTrail()
	return err
}

// readTrail counts what the judge has seen since it was read last.
func (r *round) readTrail() error {
	trail, err := r.lab.JudgeTrail()
	if err != nil {
		return err
	}
	inOrder(trail)
	for _, j := range trail {
		if r.watch[j.Identity].next(1 + cutIndex[j.Port.Node]) {
			r.count[j.Identity]++
		}
	}
	return nil
}
