// SPDX-License-Identifier: Apache-2.0

// Command sim runs pairs of nodes, and more, by virtual time, one seed after the other: `make sim`; or looks at
// all orders of what may happen in smaller worlds: `make orders`. Exit
// status 1: something happened that must not; its faults, shrunk, and its transcript are printed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
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
	{"balanced, etcd", sim.EtcdTimings(1_000_000, 5_000_000)},
	{"three nodes, etcd", sim.EtcdTimings(2_000_000, 10_000_000).Among(3)},
	{"five nodes, etcd", sim.EtcdTimings(2_000_000, 10_000_000).Among(5)},
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
	bugs := slices.Concat(sim.Mutations, sim.ServiceMutations, sim.FenceMutations, sim.EtcdMutations, sim.ManyMutations)
	mutation := flag.String("mutation", "", fmt.Sprintf("put this `bug` into the model: one of %q", bugs))
	orders := flag.Bool("orders", false, "look at all orders of what may happen in small worlds, instead of seeds")
	states := flag.Int("states", 1_000_000, "with -orders: end at the first depth with so many `states`")
	heldUp := flag.Int("held-up", 1, "with -orders: how often processors are held up between two steps in one story")
	flag.Parse()
	if *mutation != "" && !slices.Contains(bugs, *mutation) {
		return fmt.Errorf("-mutation %s: one of %q", *mutation, bugs)
	}
	if *orders {
		return exhaust(*heldUp, *mutation, sim.Limits{Depth: math.MaxInt, States: *states})
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

// exhaust explores every small world, or those up to the first in which something is wrong. A
// state with two cores takes some twenty times as long as one without, and one of three kernels as much
// more memory: of those it looks at fewer.
func exhaust(heldUp int, mutation string, l sim.Limits) error {
	total := 0
	show := func(name string, explore func() sim.Found) error {
		began := time.Now()
		f := explore()
		total += f.States
		fmt.Printf("%9d states, to a depth of %2d, in %3.0f s: %s\n", f.States, f.Depth, time.Since(began).Seconds(), name)
		if f.Wrong != "" {
			return fmt.Errorf("%s, by:\n  %s", f.Wrong, strings.Join(f.Story, "\n  "))
		}
		return nil
	}
	fmt.Printf("two kernels, whose processors are held up %d times in a story at the most:\n", heldUp)
	for _, kind := range sim.RaceKinds {
		if err := show(kind.Name, func() sim.Found { return sim.Races(kind, heldUp, mutation, l) }); err != nil {
			return err
		}
	}
	l.States /= 20
	fmt.Println("three kernels, and a key in etcd:")
	for _, kind := range sim.CrowdKinds {
		if err := show(kind.Name, func() sim.Found { return sim.Crowds(kind, mutation, l) }); err != nil {
			return err
		}
	}
	fmt.Println("two kernels with their cores:")
	for _, kind := range sim.PairKinds {
		if err := show(kind.Name, func() sim.Found { return sim.Pairs(kind, mutation, l) }); err != nil {
			return err
		}
	}
	fmt.Printf("%9d states in all: no two gates open, no generation owned twice\n", total)
	return nil
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
