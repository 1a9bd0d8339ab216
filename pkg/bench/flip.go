// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
)

// Flip is how long the kernel takes from its detector's verdict to the change of owner.
type Flip struct {
	Identities    int   `json:"identities"`
	Addresses     int   `json:"addresses"`
	Takeovers     int   `json:"takeovers"`
	FirstMedianNS int64 `json:"first_median_ns"` // to the first identity's flip
	FirstMaxNS    int64 `json:"first_max_ns"`
	LastMedianNS  int64 `json:"last_median_ns"` // to the last one's
	LastMaxNS     int64 `json:"last_max_ns"`
	LastMinNS     int64 `json:"last_min_ns"`
	SwapNS        int64 `json:"swap_ns"` // user space swaps all of them: median
}

// FlatLimit is how much longer the fastest flip may take with 10,000 addresses than with few:
// it touches none of them, so that anything beyond noise is wrong.
const FlatLimit = 2

const manyOfThem = 10_000

// The peer's deaths come quickly, and a hiccup of this machine is not one.
const (
	flipProbe   = time.Millisecond
	flipSuspect = 6 * time.Millisecond
	flipDead    = 10 * time.Millisecond
)

func flip(ctx context.Context, s size, res *Result) error {
	for _, identities := range []int{1, loader.MaxIdentities} {
		var fastest []int64
		for _, addresses := range []int{1, manyOfThem} {
			f, err := flipOf(ctx, s, identities, max(addresses, identities))
			if err != nil {
				return fmt.Errorf("%d identities, %d addresses: %w", identities, addresses, err)
			}
			res.Flips = append(res.Flips, f)
			fastest = append(fastest, f.LastMinNS)
		}
		res.Flat = append(res.Flat, ratio(fmt.Sprintf("fastest flip of %d, %d addresses", identities, manyOfThem), "few",
			float64(fastest[1])/float64(fastest[0]), FlatLimit))
	}
	return nil
}

func flipOf(ctx context.Context, s size, identities, addresses int) (f Flip, err error) {
	f = Flip{Identities: identities, Addresses: addresses}
	r, err := newRig(setup{probe: flipProbe, suspect: flipSuspect, dead: flipDead, standby: true, identities: dealt(identities, addresses)})
	if err != nil {
		return f, err
	}
	defer r.close()
	if err := r.greet(ctx); err != nil {
		return f, err
	}
	var first, last []int64
	for tries := 0; len(first) < s.deaths; tries++ {
		if tries > 10*s.deaths {
			return f, fmt.Errorf("of %d deaths only %d came when they should", tries, len(first))
		}
		a, b, err := r.death(ctx)
		switch {
		case errors.Is(err, errTooSoon):
		case err != nil:
			return f, err
		default:
			first, last = append(first, a), append(last, b)
		}
	}
	slices.Sort(first)
	slices.Sort(last)
	n := len(first)
	f.Takeovers = n
	f.FirstMedianNS, f.FirstMaxNS, f.LastMedianNS, f.LastMaxNS = first[n/2], first[n-1], last[n/2], last[n-1]
	f.LastMinNS = last[0]
	f.SwapNS = r.swaps()
	return f, nil
}

// dealt gives each identity its share of the addresses.
func dealt(identities, addresses int) [][]netip.Addr {
	list := make([][]netip.Addr, identities)
	for i, a := range manyAddresses(ipv4, addresses) {
		list[i%identities] = append(list[i%identities], a)
	}
	return list
}

// errTooSoon: this machine stood still, and the peer was declared dead before all was armed.
var errTooSoon = errors.New("the peer died too soon")

// death has the peer live, arms all identities, lets it fall silent, and returns how long after
// the verdict the first and the last of them were flipped.
func (r *rig) death(ctx context.Context) (first, last int64, err error) {
	if err := r.live(ctx); err != nil {
		return 0, 0, err
	}
	for i := range r.setup.identities {
		w := r.dp.Word(i)
		r.dp.Swap(i, w, core.MakeWord(core.Ready, w.Gen()))
	}
	armed := loader.Now()
	if err := r.until(ctx, r.tick, func() ([]byte, error) { return make([]byte, 60), nil }, r.ownsAll); err != nil {
		return 0, 0, fmt.Errorf("await the takeover: %w", err)
	}
	for i := range r.setup.identities {
		t := r.dp.Timeline(i)
		if t.DeadNS < armed {
			return 0, 0, errTooSoon
		}
		took := t.FlipNS - t.DeadNS
		if i == 0 || took < first {
			first = took
		}
		last = max(last, took)
	}
	return first, last, nil
}

// live sends the peer's probes until the detector sees it up.
func (r *rig) live(ctx context.Context) error {
	err := r.until(ctx, r.sockets["hb"], r.next, func() bool { return r.dp.Peer(1) == core.PeerUp })
	if err != nil {
		return fmt.Errorf("await the peer's return: %w", err)
	}
	return nil
}

func (r *rig) ownsAll() bool {
	for i := range r.setup.identities {
		if !r.dp.Word(i).Has(core.Owner) {
			return false
		}
	}
	return true
}

// until sends a frame every millisecond until what is awaited is there.
func (r *rig) until(ctx context.Context, by *socket, frame func() ([]byte, error), there func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	buf := make([]byte, 512)
	for !there() {
		b, err := frame()
		if err != nil {
			return err
		}
		by.send(b)
		select {
		case <-every.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for r.sockets["hb"].receive(buf) > 0 { // nobody reads the node's probes
		}
	}
	return nil
}

// swaps is how long user space takes to change all words, each by compare-and-swap.
func (r *rig) swaps() int64 {
	var took []int64
	for range 1000 {
		for _, to := range []core.Word{0, core.Owner} { // unarmed: the kernel leaves it alone
			start := time.Now()
			for i := range r.setup.identities {
				w := r.dp.Word(i)
				r.dp.Swap(i, w, core.MakeWord(to, w.Gen()))
			}
			took = append(took, int64(time.Since(start)))
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}

func printFlips(w io.Writer, r Result) {
	fmt.Fprintf(w, "\nfrom the verdict to\tfirst flip, median\tmax\tlast flip, median\tmax\ttakeovers\tuser space swaps all\n")
	for _, f := range r.Flips {
		fmt.Fprintf(w, "%d identities, %d addresses\t%.2f µs\t%.2f µs\t%.2f µs\t%.2f µs\t%d\t%.2f µs\n", f.Identities, f.Addresses,
			us(f.FirstMedianNS), us(f.FirstMaxNS), us(f.LastMedianNS), us(f.LastMaxNS), f.Takeovers, us(f.SwapNS))
	}
	fmt.Fprintf(w, "\nis it flat?\t\tat most\n")
	for _, x := range r.Flat {
		x.print(w)
	}
}
