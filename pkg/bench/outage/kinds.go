// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// KindsReport is the outages of each kind of fault.
type KindsReport struct {
	Kinds []*KindSeries `json:"kinds"`
	Total Tally         `json:"total"` // its spread is of all kinds together
}

// KindSeries is the outages of one kind.
type KindSeries struct {
	Kind lab.Fault `json:"kind"`
	Tally
	Falls []lab.Fall `json:"falls"`
}

// faultLease is short, so that the rounds of a stopped daemon are, and the product's own: with a
// shorter one a busy machine makes moves that nobody ordered.
const faultLease = "1s"

// longOutage is one that is worth a look at the events around it.
const longOutage = 50 * time.Millisecond

// scene has everything prepared, and nothing go home by itself: the measurement says when.
// A service that fails is found soon and restarted in place as often as the campaign wants.
func (o Options) scene() lab.Scene {
	return lab.Scene{
		Profile: o.Profile, Staging: "ahead", Failback: "manual", SupervisorLease: faultLease, UpDelay: "500ms",
		Service: "check: {every: 100ms, rise: 1, fall: 1}\nrestart: {times: 100}",
	}
}

// choice is one round: what breaks, whose home, and by which family its address is asked.
type choice struct {
	kind   lab.Fault
	id     lab.Identity
	family int
}

// choices gives every kind its rounds, by turns: each turn in another order, every kind at the
// other home than before, every second time by the other family. So the same never breaks twice
// in a row, which xdpha would rightly take for a flapping cable. It follows from its arguments alone.
func choices(kinds []lab.Fault, rounds int, seed uint64) []choice {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var all []choice
	for turn := range rounds {
		for _, i := range rnd.Perm(len(kinds)) {
			family := 4
			if (i+turn/len(lab.Identities))%2 == 1 && lab.HasIPv6() {
				family = 6
			}
			all = append(all, choice{kinds[i], lab.Identities[(i+turn)%len(lab.Identities)], family})
		}
	}
	return all
}

// stays reports whether a fault must leave an identity with its owner. A lost LAN cable does: the spare
// NIC carries it then.
func stays(kind lab.Fault) bool {
	return kind == lab.FaultCrossover || kind == lab.FaultService || kind == lab.FaultLAN
}

func (o Options) kinds(ctx context.Context, notes *[]Note) (_ *KindsReport, err error) {
	r, err := o.open(ctx, Kinds, o.scene(), patience)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close(notes)) }()
	rep := &KindsReport{}
	series := map[lab.Fault]*KindSeries{}
	for _, k := range o.Faults {
		rep.Kinds = append(rep.Kinds, &KindSeries{Kind: k})
		series[k] = rep.Kinds[len(rep.Kinds)-1]
	}
	for i, c := range choices(o.Faults, o.Rounds, o.Seed) {
		id := c.id
		if c.family == 6 {
			id.Addr = id.Addr6
		}
		f, unasked, err := r.round(ctx, c.kind, id, i)
		if err != nil {
			return rep.sum(), err
		}
		s := series[c.kind]
		s.Falls, s.Unasked = append(s.Falls, f), s.Unasked+unasked
		o.tell("%3d of %d: %-12s %s  IPv%d  %9.3f ms%s", i+1, o.Rounds*len(o.Faults), f.Kind, f.Node, f.Family, float64(f.OutageNs)/1e6, wrong(f))
	}
	return rep.sum(), nil
}

// wrong says in a word what went wrong in a round.
func wrong(f lab.Fall) string {
	switch {
	case f.DualAnswers > 0 || overlaps(f) > 0:
		return "  TWO OWNERS"
	case !f.Served:
		return "  NOT SERVED"
	}
	return ""
}

func (k *KindsReport) sum() *KindsReport {
	var all []lab.Fall
	unasked := 0
	for _, s := range k.Kinds {
		s.sum(s.Falls)
		all, unasked = append(all, s.Falls...), unasked+s.Unasked
	}
	k.Total.sum(all)
	k.Total.Unasked = unasked
	return k
}
