// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// Counts are how many further addresses the first identity has, if nothing else is said.
var Counts = []int{1, 100, 1000, 10_000}

// AddressesReport is whether an outage grows with the number of addresses.
type AddressesReport struct {
	Counts []CountSeries `json:"counts"`
}

// CountSeries is the outages with so many addresses, the last of which the client asks.
type CountSeries struct {
	Addresses int     `json:"addresses"`
	StartMS   []int64 `json:"start_ms"` // until the pair was whole, each time it was started
	Ratio     float64 `json:"ratio"`    // of the median to that of the first
	Tally
	Falls []lab.Fall `json:"falls"`
}

func (a AddressesReport) good() bool {
	return !slices.ContainsFunc(a.Counts, func(c CountSeries) bool { return !c.good() })
}

// addressTime is how long a pair with so many addresses may take to be whole.
func addressTime(count int) time.Duration { return patience + time.Duration(count)*20*time.Millisecond }

// addresses goes there and back, from few to many to few, so that what the machine does
// meanwhile hits all alike; the most are in the middle, and their lab, which is slow to start, stays.
func (o Options) addresses(ctx context.Context, notes *[]Note) (*AddressesReport, error) {
	rep := &AddressesReport{}
	for _, n := range o.Counts {
		rep.Counts = append(rep.Counts, CountSeries{Addresses: n})
	}
	there := (o.Rounds + 1) / 2
	for i := range rep.Counts {
		n := there
		if i == len(rep.Counts)-1 {
			n = o.Rounds
		}
		if err := o.hangs(ctx, &rep.Counts[i], n, notes); err != nil {
			return rep.sum(), err
		}
	}
	for i := len(rep.Counts) - 2; i >= 0 && o.Rounds > there; i-- {
		if err := o.hangs(ctx, &rep.Counts[i], o.Rounds-there, notes); err != nil {
			return rep.sum(), err
		}
	}
	return rep.sum(), nil
}

func (a *AddressesReport) sum() *AddressesReport {
	for i := range a.Counts {
		c := &a.Counts[i]
		c.sum(c.Falls)
		if base := a.Counts[0].MedianNS; base > 0 {
			c.Ratio = float64(c.MedianNS) / float64(base)
		}
	}
	return a
}

// hangs has the home of the addresses die silently, some times in one lab.
func (o Options) hangs(ctx context.Context, c *CountSeries, rounds int, notes *[]Note) (err error) {
	o.tell("addresses: starting a pair with %d", c.Addresses)
	began := time.Now()
	scene := o.scene()
	scene.Addresses = c.Addresses
	scene.SupervisorLease = "" // a daemon with many addresses has more to do; nobody stops it here
	r, err := o.open(ctx, Addresses, scene, addressTime(c.Addresses))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(notes)) }()
	took := time.Since(began)
	c.StartMS = append(c.StartMS, took.Milliseconds())
	o.tell("addresses: %d are in place after %s", c.Addresses, took.Round(100*time.Millisecond))
	id := lab.Identities[0]
	id.Addr = lab.RangeAddr(c.Addresses)
	for range rounds {
		f, unasked, err := r.round(ctx, lab.FaultHang, id, len(c.Falls))
		if err != nil {
			return err
		}
		c.Falls, c.Unasked = append(c.Falls, f), c.Unasked+unasked
		o.tell("addresses: %d, round %d of %d: %9.3f ms%s", c.Addresses, len(c.Falls), o.Rounds, float64(f.OutageNs)/1e6, wrong(f))
	}
	return nil
}
