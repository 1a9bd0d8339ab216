// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/host"
)

// What an answer may cost at most, as a multiple of what it is measured beside.
const (
	HeartbeatLimit = 1.2 // with authentication, of the bare reflector's: the promise
	Limit          = 1.3
)

// Options say what to measure, and for how long.
type Options struct {
	Short  bool     // a few seconds instead of a minute: for tests, not for figures
	Repeat int      // runs, each in new namespaces; 0 is 1
	Only   []string // names of Sections; empty: all
}

type size struct {
	batches, perBatch int // round trips of each kind
	warm              int // before them
	repeat            uint32
	tables            []int // how many addresses, for the gate
	deaths            int   // takeovers of each kind
	flood             flood
	after             deadlines // of the pair that is flooded
}

func (o Options) size() size {
	if o.Short {
		return size{batches: 5, perBatch: 100, warm: 50, repeat: 100_000, tables: []int{1, 10_000}, deaths: 3, flood: shortFlood,
			after: deadlines{60 * time.Millisecond, 100 * time.Millisecond}} // a processor may be stolen for a while
	}
	return size{batches: 200, perBatch: 500, warm: 2000, repeat: 2_000_000, tables: []int{1, 100, 1000, 10_000}, deaths: 50, flood: longFlood,
		after: deadlines{3 * time.Millisecond, 5 * time.Millisecond}} // those of the profile "balanced"
}

// Report is what was measured.
type Report struct {
	Kernel string   `json:"kernel"`
	CPUs   int      `json:"cpus"`
	Runs   []Result `json:"runs"`
}

// Result is one run's figures; of sections that were not asked for there are none.
type Result struct {
	Mode       string      `json:"mode,omitempty"` // of XDP: native or generic
	RoundTrips []RoundTrip `json:"round_trips,omitempty"`
	Ratios     []Ratio     `json:"ratios,omitempty"`
	Costs      []Cost      `json:"costs,omitempty"`
	Gates      []Gate      `json:"gates,omitempty"`
	Flips      []Flip      `json:"flips,omitempty"`
	Flat       []Ratio     `json:"flat,omitempty"` // flips with many addresses beside few
	Stretches  []Stretch   `json:"flood,omitempty"`
}

// Ratio compares two medians.
type Ratio struct {
	Of     string  `json:"of"`
	To     string  `json:"to"`
	Value  float64 `json:"value"`
	AtMost float64 `json:"at_most"`
	Within bool    `json:"within"`
}

func ratio(of, to string, value, atMost float64) Ratio {
	return Ratio{Of: of, To: to, Value: value, AtMost: atMost, Within: value <= atMost}
}

// Within reports whether every ratio is within its limit, and no flood made a node take over.
func (r Report) Within() bool {
	for _, run := range r.Runs {
		if slices.ContainsFunc(slices.Concat(run.Ratios, run.Flat), func(x Ratio) bool { return !x.Within }) ||
			slices.ContainsFunc(run.Stretches, func(x Stretch) bool { return x.Takeovers > 0 }) {
			return false
		}
	}
	return true
}

// section is one thing that is measured.
type section struct {
	name    string
	measure func(context.Context, size, *Result) error
	print   func(io.Writer, Result)
}

var sections = []section{
	{"answers", answers, printAnswers},
	{"gate", gate, printGates},
	{"flip", flip, printFlips},
	{"flood", flooded, printStretches},
}

// Sections are the names of what can be measured.
func Sections() (names []string) {
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// Run measures and prints what it finds to w as it goes. It needs root.
func Run(ctx context.Context, w io.Writer, o Options) (Report, error) {
	r := Report{Kernel: stats.KernelRelease(), CPUs: runtime.NumCPU()}
	if err := printHead(w, r); err != nil {
		return r, err
	}
	for i := range max(o.Repeat, 1) {
		if _, err := fmt.Fprintf(w, "\nRun %d\n", i+1); err != nil {
			return r, err
		}
		res, err := runOnce(ctx, w, o)
		if err != nil {
			return r, fmt.Errorf("run %d: %w", i+1, err)
		}
		r.Runs = append(r.Runs, res)
	}
	return r, nil
}

func runOnce(ctx context.Context, w io.Writer, o Options) (res Result, err error) {
	for _, s := range sections {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		if err := alone(func() error { return s.measure(ctx, o.size(), &res) }); err != nil {
			return res, fmt.Errorf("%s: %w", s.name, err)
		}
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		s.print(t, res)
		if err := t.Flush(); err != nil {
			return res, err
		}
	}
	return res, nil
}

// alone measures on a thread of its own, which ends with all that it has made: its
// namespaces, the NICs in them and the pins.
func alone(f func() error) (err error) {
	host.OnOwnThread(func() {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		runtime.GC()
		err = f()
	})
	return err
}
