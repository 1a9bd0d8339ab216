// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Bounds of what is drawn of a round.
const (
	startWithin = 50 * time.Millisecond // so that it comes at any time between two heartbeats
	laterWithin = 300 * time.Millisecond
	lastAtLeast = 20 * time.Millisecond
	lastWithin  = 1200 * time.Millisecond // longer than a supervisor's lease
)

const (
	restTime     = 30 * time.Second // from the last healing until the pair must be at rest
	handOverTime = time.Second      // an order that is not taken until then is void
	drainEvery   = time.Second      // the judge's trail, which holds some ten seconds
)

// Strike is one of a round's two faults. Times are from the first one's begin.
type Strike struct {
	Kind     lab.Fault `json:"kind"`
	Node     string    `json:"node"` // home of Identity
	Identity string    `json:"identity"`
	// As drawn.
	BeginNs int64 `json:"begin_ns"`
	HealNs  int64 `json:"heal_ns"`
	// As it was.
	BegunNs  int64  `json:"begun_ns"`
	HealedNs int64  `json:"healed_ns"` // 0: nothing was to be healed
	Void     string `json:"void,omitempty"`

	id lab.Identity
}

// PairRound is one round: two faults, and what came of them.
type PairRound struct {
	Round    int              `json:"round"`
	Seed     uint64           `json:"seed"`
	Families []int            `json:"families"` // by which each identity was asked
	StartNs  int64            `json:"start_ns"` // as drawn: from when all is well to the first one
	Strikes  [2]Strike        `json:"strikes"`
	T0Ns     int64            `json:"t0_ns"` // CLOCK_BOOTTIME of the first one's begin
	Owners   []Overlapping    `json:"two_owners"`
	AtRest   bool             `json:"at_rest"` // and served, in the end
	Why      string           `json:"why,omitempty"`
	OutageNs map[string]int64 `json:"outage_ns"` // by identity: the client's longest silence, faults and all
	RestNs   int64            `json:"rest_ns"`   // from the last healing until the pair was at rest
	TookNs   int64            `json:"took_ns"`   // the round, with giving back
}

// two counts the times with two owners that the arbiter documents, and the others.
func (r PairRound) two() (documented, others int) {
	for _, o := range r.Owners {
		if o.Documented {
			documented++
		} else {
			others++
		}
	}
	return documented, others
}

func (r PairRound) good() bool {
	_, others := r.two()
	return r.AtRest && others == 0
}

// nodeless are the kinds that are the same at either node.
var nodeless = []lab.Fault{lab.FaultPartition, lab.FaultTrunk, lab.FaultCrossover, lab.FaultBootBoth}

// drawPair is a round; it follows from its arguments alone, so that each can be had again.
func drawPair(seed uint64, round int, kinds []lab.Fault) PairRound {
	rnd := rand.New(rand.NewPCG(seed, uint64(round)))
	within := func(d time.Duration) int64 { return rnd.Int64N(int64(d)) }
	r := PairRound{Round: round, Seed: seed, OutageNs: map[string]int64{}}
	for range lab.Identities {
		family := 4
		if rnd.IntN(2) == 1 && lab.HasIPv6() {
			family = 6
		}
		r.Families = append(r.Families, family)
	}
	for {
		for i := range r.Strikes {
			id := lab.Identities[rnd.IntN(len(lab.Identities))]
			r.Strikes[i] = Strike{Kind: kinds[rnd.IntN(len(kinds))], Node: id.Home, Identity: id.Name, id: id}
		}
		a, b := r.Strikes[0], r.Strikes[1]
		if a.Kind != b.Kind || a.Node != b.Node && !slices.Contains(nodeless, a.Kind) {
			break
		}
	}
	r.StartNs = within(startWithin)
	r.Strikes[1].BeginNs = within(laterWithin)
	for i := range r.Strikes {
		s := &r.Strikes[i]
		s.HealNs = s.BeginNs + int64(lastAtLeast) + within(lastWithin-lastAtLeast)
	}
	return r
}

// pairRound is a round while it runs.
type pairRound struct {
	*rig
	timing  config.Timing
	out     PairRound
	probers []*lab.Prober
	trail   []lab.JudgeRecord
	silent  []lab.Silence
	drained time.Time
}

// run breaks two things and heals them. That something went wrong with the pair is no error; that
// the round could not be run is.
func (p *pairRound) run(ctx context.Context) (err error) {
	began := time.Now()
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.strike(ctx); err != nil {
		return err
	}
	healed := lab.NowNs()
	if why, err := p.awaitRest(ctx); err != nil {
		return err
	} else if p.out.Why = why; why == "" {
		p.out.AtRest = true
		p.out.RestNs = lab.NowNs() - healed
		if err := p.goHome(ctx); err != nil {
			return err
		}
	}
	p.out.TookNs = int64(time.Since(began))
	return ctx.Err()
}

func (p *pairRound) begin(ctx context.Context) error {
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := p.Judge(true); err != nil {
		return err
	}
	if _, _, err := p.Trail(); err != nil { // what came before does not count
		return err
	}
	p.drained = time.Now()
	short, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	for i, id := range lab.Identities {
		addr := id.Addr
		if p.out.Families[i] == 6 {
			addr = id.Addr6
		}
		pr, err := p.StartProber(short, addr, lab.ProbeOptions{Period: clientPeriod, Expect: 5 * time.Second})
		if err != nil {
			return errors.Join(err, p.stop())
		}
		p.probers = append(p.probers, pr)
	}
	for i, id := range lab.Identities {
		if err := p.probers[i].AwaitAnswer(short, id.Home, 0); err != nil {
			return errors.Join(err, p.stop())
		}
	}
	return pair.Pause(ctx, time.Duration(p.out.StartNs))
}

// stop ends the clients, and tells what they saw.
func (p *pairRound) stop() error {
	for i, pr := range p.probers {
		rec := pr.Stop()
		p.out.OutageNs[lab.Identities[i].Name] = lab.Analyze(rec, lab.Window{}).OutageNs
	}
	p.probers = nil
	return errors.Join(p.drain(), p.Judge(false))
}

// step is what is done at a time of a round.
type step struct {
	at int64
	do func() error
}

// strike begins and heals both faults, each in its time; a hand-over, which takes some, on its own.
func (p *pairRound) strike(ctx context.Context) error {
	var steps []step
	var orders sync.WaitGroup
	defer orders.Wait()
	for i := range p.out.Strikes {
		s := &p.out.Strikes[i]
		begin := func() error { return p.inject(ctx, s) }
		if s.Kind == lab.FaultHandOver {
			begin = func() error {
				s.BegunNs = lab.NowNs() - p.out.T0Ns
				orders.Go(func() { p.order(ctx, s) })
				return nil
			}
		}
		steps = append(steps, step{s.BeginNs, begin}, step{s.HealNs, func() error { return p.heal(ctx, s) }})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	p.out.T0Ns = lab.NowNs()
	for _, st := range steps {
		if err := pair.Pause(ctx, time.Duration(p.out.T0Ns+st.at-lab.NowNs())); err != nil {
			return err
		}
		if err := errors.Join(st.do(), p.drainInTime()); err != nil {
			return err
		}
	}
	return nil
}

// order is a planned move; one that is refused, or finds nobody to take it, moves nothing.
func (p *pairRound) order(ctx context.Context, s *Strike) {
	short, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if _, err := p.Inject(short, s.Kind, s.id); err != nil {
		s.Void = err.Error()
	}
}

func (p *pairRound) inject(ctx context.Context, s *Strike) error {
	t, err := p.Inject(ctx, s.Kind, s.id)
	s.BegunNs = t - p.out.T0Ns
	if errors.Is(err, lab.ErrNothingToBreak) {
		s.Void, err = err.Error(), nil
	}
	return err
}

func (p *pairRound) heal(ctx context.Context, s *Strike) error {
	if s.Kind == lab.FaultHandOver || s.Void != "" {
		return nil
	}
	err := p.Heal(ctx, s.Kind, s.id)
	s.HealedNs = lab.NowNs() - p.out.T0Ns
	return err
}

// awaitRest returns "" when the pair is at rest and the client served, or what is missing after all the time.
func (p *pairRound) awaitRest(ctx context.Context) (missing string, err error) {
	for deadline := time.Now().Add(restTime); ; {
		var owners map[string]string
		if missing, owners, err = pair.AtRest(ctx, p.Lab); err != nil {
			return err.Error(), ctx.Err() // a daemon has ended by itself, which is the pair's fault
		}
		if missing == "" {
			if missing, err = p.served(ctx, owners); missing == "" || err != nil {
				return "", err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Sprintf("not at rest %s after all was healed: %s%s", restTime, missing, pair.Logs(p.Lab)), nil
		}
		if err := errors.Join(p.drainInTime(), pair.Pause(ctx, restPoll)); err != nil {
			return "", err
		}
	}
}

const (
	restPoll   = 20 * time.Millisecond
	answerTime = 50 * time.Millisecond // within which a client is answered that is served
)

// served says what is missing until the client has an answer of each identity's owner, at the identity's MAC.
func (p *pairRound) served(ctx context.Context, owners map[string]string) (missing string, err error) {
	for i, id := range lab.Identities {
		e, err := p.ARP(id.Addr)
		if err != nil {
			return "", err
		}
		if len(e.MAC) == 6 && [6]byte(e.MAC) != id.MAC {
			return fmt.Sprintf("the client takes %s for %s", e.MAC, id.Name), nil
		}
		short, cancel := context.WithTimeout(ctx, answerTime)
		err = p.probers[i].AwaitAnswer(short, owners[id.Name], lab.NowNs())
		cancel()
		if err != nil {
			return err.Error(), ctx.Err()
		}
	}
	return "", nil
}

// goHome gives back what is away, under the judge's eyes.
func (p *pairRound) goHome(ctx context.Context) error {
	for deadline := time.Now().Add(restTime); ; {
		missing, err := pair.Settle(ctx, p.Lab)
		if missing == "" && err == nil {
			return nil
		}
		if err != nil || time.Now().After(deadline) {
			p.out.AtRest = false
			p.out.Why = fmt.Sprintf("at rest, and then not home: %s %v%s", missing, err, pair.Logs(p.Lab))
			return ctx.Err()
		}
		if err := errors.Join(p.drainInTime(), pair.Pause(ctx, restPoll)); err != nil {
			return err
		}
	}
}

func (p *pairRound) drainInTime() error {
	if time.Since(p.drained) < drainEvery {
		return nil
	}
	return p.drain()
}

func (p *pairRound) drain() error {
	frames, silences, err := p.Trail()
	p.trail, p.silent, p.drained = append(p.trail, frames...), append(p.silent, silences...), time.Now()
	return err
}
