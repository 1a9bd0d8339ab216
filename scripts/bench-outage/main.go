// SPDX-License-Identifier: Apache-2.0

// Command bench-outage measures what a client sees when something breaks, or when the machine
// is only busy: `make bench-outage`, `make bench-tickle`, `make faults`, `make soak`. Exit status 1: two nodes served at once,
// somebody was not served who should have been, or moved for nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/command"
	"github.com/xdpha/xdpha/pkg/bench/outage"
	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/lab"
)

// What -short makes of it: enough to see that it works, not for figures.
const (
	shortRounds = 2
	shortFor    = 18 * time.Second
)

func main() { command.Main("bench-outage", run) }

func run(ctx context.Context) error {
	o, file, err := parse()
	if err != nil {
		return err
	}
	r, err := outage.Run(ctx, os.Stdout, o)
	if file != "" {
		err = errors.Join(err, stats.WriteJSON(file, r)) // what was measured until an error is worth having
	}
	if err == nil && !r.Good() {
		err = command.ErrBad
	}
	return err
}

func parse() (o outage.Options, file string, err error) {
	o.Progress = command.Tell
	flag.IntVar(&o.Rounds, "rounds", 100, "how many `faults` of each kind, pacer and number of addresses, with a tickle and without; and pairs of faults")
	flag.IntVar(&o.From, "from", 0, "the first of the pairs of faults that follow from the seed: `number`")
	flag.StringVar(&o.Keep, "keep", "", "write the story of each pair of faults that went wrong into this `directory` too")
	flag.DurationVar(&o.For, "for", 3*time.Minute, "how long the ladder takes: `time`")
	flag.StringVar(&o.Profile, "profile", "fast", "timing `profile` of all but the ladder")
	flag.StringVar(&o.LadderProfile, "ladder-profile", "balanced", "timing `profile` of the ladder")
	flag.Uint64Var(&o.Seed, "seed", 1, "`number` from which the order of faults follows")
	flag.DurationVar(&o.Period, "period", 100*time.Microsecond, "how often the client asks in the sections kinds and addresses, and so how fine an outage is measured: `time`")
	command.Program(&o.Executable)
	only := flag.String("only", "", fmt.Sprintf("some of the `sections` %v, as kinds,starved", outage.Sections))
	kinds := flag.String("kinds", "", fmt.Sprintf("some of the `faults` %v of the section kinds, or others %v; of the section pairs, which are all of them", outage.Faults, lab.Faults))
	most := flag.Int("most", slices.Max(outage.Counts), "at most so many `addresses`")
	short := flag.Bool("short", false, "few rounds: to see that it works, not for figures")
	flag.StringVar(&file, "json", "", "write the figures to this `file` too")
	flag.Parse()
	if *short {
		o.Rounds, o.For = shortRounds, shortFor
	}
	if o.Rounds < 1 || o.From < 0 || o.For <= 0 || o.Period <= 0 {
		return o, file, fmt.Errorf("-rounds %d, -from %d, -for %s, -period %s: at least one, none, and some time", o.Rounds, o.From, o.For, o.Period)
	}
	if o.Sections, err = sections(*only); err != nil {
		return o, file, err
	}
	if o.Faults, err = faults(*kinds, outage.Faults); err != nil {
		return o, file, err
	}
	if o.PairFaults, err = faults(*kinds, lab.Faults); err != nil {
		return o, file, err
	}
	for _, n := range outage.Counts {
		if n <= *most {
			o.Counts = append(o.Counts, n)
		}
	}
	if len(o.Counts) == 0 {
		return o, file, fmt.Errorf("-most %d: at least %d", *most, outage.Counts[0])
	}
	return o, file, err
}

func sections(only string) (out []outage.Section, err error) {
	if only == "" {
		return outage.Sections, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		s := outage.Section(name)
		if !slices.Contains(outage.Sections, s) {
			return nil, fmt.Errorf("-only %s: no section %q: there are %v", only, name, outage.Sections)
		}
		out = append(out, s)
	}
	return out, nil
}

func faults(kinds string, all []lab.Fault) (out []lab.Fault, err error) {
	if kinds == "" {
		return all, nil
	}
	for name := range strings.SplitSeq(kinds, ",") {
		f, err := lab.ParseFault(name)
		if err != nil {
			return nil, fmt.Errorf("-kinds %s: %w", kinds, err)
		}
		out = append(out, f)
	}
	return out, nil
}
