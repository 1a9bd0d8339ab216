// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/stats"
)

// Limit is what an answer may cost at most, as a multiple of the bare reflector's.
const Limit = 1.3

// Options say how long to measure.
type Options struct {
	Short  bool // a second instead of some ten: for tests, not for figures
	Repeat int  // runs, each in new namespaces; 0 is 1
}

type size struct {
	batches, perBatch int // round trips of each kind
	warm              int // before them
	repeat            uint32
}

func (o Options) size() size {
	if o.Short {
		return size{batches: 5, perBatch: 100, warm: 50, repeat: 100_000}
	}
	return size{batches: 200, perBatch: 500, warm: 2000, repeat: 2_000_000}
}

// Report is what was measured.
type Report struct {
	Kernel string   `json:"kernel"`
	CPUs   int      `json:"cpus"`
	Limit  float64  `json:"limit"`
	Runs   []Result `json:"runs"`
}

// Result is one run's figures.
type Result struct {
	Mode       string      `json:"mode"` // of XDP: native or generic
	RoundTrips []RoundTrip `json:"round_trips"`
	Ratios     []Ratio     `json:"ratios"`
	Costs      []Cost      `json:"costs"`
}

// RoundTrip is the time from a raw socket's send to its receiving the answer.
type RoundTrip struct {
	Name     string `json:"name"`
	Answers  int    `json:"answers"`
	Lost     int    `json:"lost"`
	MedianNS int64  `json:"median_ns"`
	P99NS    int64  `json:"p99_ns"`
	MaxNS    int64  `json:"max_ns"`
}

// Ratio compares two medians.
type Ratio struct {
	Of     string  `json:"of"`
	To     string  `json:"to"`
	Value  float64 `json:"value"`
	Within bool    `json:"within"` // Limit
}

// Cost is the time that one packet spends in a program.
type Cost struct {
	Name string  `json:"name"`
	NS   float64 `json:"ns"`
	How  string  `json:"how"`
}

// Within reports whether every ratio is within Limit.
func (r Report) Within() bool {
	for _, run := range r.Runs {
		for _, ratio := range run.Ratios {
			if !ratio.Within {
				return false
			}
		}
	}
	return true
}

// Run measures and prints what it finds to w as it goes. It needs root.
func Run(ctx context.Context, w io.Writer, o Options) (Report, error) {
	r := Report{Kernel: stats.KernelRelease(), CPUs: runtime.NumCPU(), Limit: Limit}
	if err := printHead(w, r); err != nil {
		return r, err
	}
	for i := range max(o.Repeat, 1) {
		res, err := runOnce(ctx, o.size())
		if err != nil {
			return r, fmt.Errorf("run %d: %w", i+1, err)
		}
		r.Runs = append(r.Runs, res)
		if err := printResult(w, i+1, res); err != nil {
			return r, err
		}
	}
	return r, nil
}

// runOnce measures on a thread of its own, which ends with all that it has made: its
// namespaces, the NICs in them and the pins.
func runOnce(ctx context.Context, s size) (Result, error) {
	type outcome struct {
		res Result
		err error
	}
	done := make(chan outcome)
	var live func()
	settled := make(chan struct{})
	live = func() {
		runtime.LockOSThread() // never unlocked
		if isMainThread() {    // it would not end with its goroutine
			go live()
			<-settled
			runtime.UnlockOSThread()
			return
		}
		close(settled)
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		runtime.GC()
		res, err := measure(ctx, s)
		done <- outcome{res, err}
	}
	go live()
	o := <-done
	return o.res, o.err
}

func measure(ctx context.Context, s size) (_ Result, err error) {
	r, err := newRig()
	if err != nil {
		return Result{}, err
	}
	defer r.close()
	if err := r.greet(ctx); err != nil {
		return Result{}, err
	}
	all, err := r.contenders()
	if err != nil {
		return Result{}, err
	}
	for _, c := range all {
		c.batch(s.warm)
		c.samples, c.lost = c.samples[:0], 0
	}
	for range s.batches {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		for _, c := range all {
			c.batch(s.perBatch)
		}
	}
	res := Result{Mode: r.mode}
	medians := map[string]int64{}
	for _, c := range all {
		t, err := c.summary()
		if err != nil {
			return Result{}, err
		}
		medians[c.name] = t.MedianNS
		res.RoundTrips = append(res.RoundTrips, t)
	}
	for _, pair := range [][2]string{{heartbeat, heartbeatBare}, {arp, arpBare}, {arp, arpKernel}} {
		v := float64(medians[pair[0]]) / float64(medians[pair[1]])
		res.Ratios = append(res.Ratios, Ratio{Of: pair[0], To: pair[1], Value: v, Within: v <= Limit})
	}
	if res.Costs, err = r.costs(s, all); err != nil {
		return Result{}, err
	}
	return res, nil
}

// contender is one kind of question and who answers it.
type contender struct {
	name    string
	socket  *socket
	ask     func() []byte            // the next question
	check   func(answer []byte) bool // is it the answer to the last question?
	samples []int64
	lost    int
}

// patience is longer than a busy machine keeps a thread waiting.
const patience = 2 * time.Second

func (c *contender) batch(n int) {
	buf := make([]byte, 512)
	for range n {
		q := c.ask()
		if ns, ok := c.socket.roundTrip(q, buf, c.check); ok {
			c.samples = append(c.samples, ns)
		} else {
			c.lost++
		}
	}
}

func (c *contender) summary() (RoundTrip, error) {
	if len(c.samples) == 0 {
		return RoundTrip{}, fmt.Errorf("measure %s: none of %d questions was answered", c.name, c.lost)
	}
	slices.Sort(c.samples)
	n := len(c.samples)
	return RoundTrip{
		Name: c.name, Answers: n, Lost: c.lost, MedianNS: c.samples[n/2],
		P99NS: c.samples[int(math.Ceil(float64(n)*0.99))-1], MaxNS: c.samples[n-1],
	}, nil
}
