// SPDX-License-Identifier: Apache-2.0

// Command sim runs pairs of nodes by virtual time, one seed after the other: `make sim`. Exit
// status 1: something happened that must not; its faults, shrunk, and its transcript are printed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/pkg/sim"
)

// worlds are the timings and arbiters that seeds take turns with.
var worlds = []struct {
	name   string
	params sim.Params
}{
	{"balanced, reach", sim.Timings(1_000_000, 5_000_000, true)},
	{"fast, reach", sim.Timings(250_000, 1_000_000, true)},
	{"balanced, none", sim.Timings(1_000_000, 5_000_000, false)},
	{"balanced, fence", sim.Timings(1_000_000, 5_000_000, false).WithFence()},
	{"balanced, reach and fence", sim.Timings(1_000_000, 5_000_000, true).WithFence()},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run() error {
	forTime := flag.Duration("for", time.Minute, "how `long` to go on")
	first := flag.Uint64("seed", 0, "the `seed` to begin with")
	bugs := slices.Concat(sim.Mutations, sim.FenceMutations)
	mutation := flag.String("mutation", "", fmt.Sprintf("put this `bug` into the model: one of %q", bugs))
	flag.Parse()
	if *mutation != "" && !slices.Contains(bugs, *mutation) {
		return fmt.Errorf("-mutation %s: one of %q", *mutation, bugs)
	}
	began := time.Now()
	var next, done, changes, overlaps atomic.Uint64
	next.Store(*first)
	var once sync.Once
	var found error
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range runtime.NumCPU() {
		wg.Go(func() {
			for !stop.Load() && time.Since(began) < *forTime {
				seed := next.Add(1) - 1
				w := worlds[seed%uint64(len(worlds))]
				o := sim.Options{Seed: seed, Params: w.params, Mutation: *mutation}
				r := sim.Run(o)
				done.Add(1)
				changes.Add(uint64(r.Stats.Changes))
				overlaps.Add(uint64(r.Stats.Overlaps))
				if r.Violation != nil {
					stop.Store(true)
					once.Do(func() { found = explain(o, w.name, r) })
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	fmt.Printf("%d seeds in %.0f s, %.1f per second; %d changes of owner, %d overlaps that the arbiter documents\n",
		done.Load(), took.Seconds(), float64(done.Load())/took.Seconds(), changes.Load(), overlaps.Load())
	return found
}

// explain leaves out the faults that it happens without, and prints how it comes to it.
func explain(o sim.Options, name string, r sim.Result) error {
	o.Given, o.Faults = true, sim.Shrink(o, r.Faults)
	o.Trace = true
	r = sim.Run(o)
	for _, line := range r.Transcript {
		fmt.Println(line)
	}
	if r.Violation == nil {
		return errors.New("a run is not the same the second time")
	}
	return fmt.Errorf("seed %d (%s): %s; faults: %v", o.Seed, name, r.Violation.Text, o.Faults)
}
