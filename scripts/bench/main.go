// SPDX-License-Identifier: Apache-2.0

// Command bench prints what xdpha costs: `make bench`. Exit status 1: it is not as promised.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/bench"
	"github.com/xdpha/xdpha/pkg/bench/command"
	"github.com/xdpha/xdpha/pkg/bench/cost"
	"github.com/xdpha/xdpha/pkg/bench/stats"
)

var errNotAsPromised = errors.New("not everything is as promised: see the table")

// rest is the section that needs the whole program, in a lab.
const rest = "rest"

func main() { command.Main("bench", run) }

// report is all figures, as JSON.
type report struct {
	bench.Report
	Rest []cost.Rest `json:"rest,omitempty"`
}

func run(ctx context.Context) (err error) {
	var o bench.Options
	names := append(bench.Sections(), rest)
	flag.BoolVar(&o.Short, "short", false, "measure briefly: to see that it works, not for figures")
	flag.IntVar(&o.Repeat, "runs", 1, "how many `runs`, each in new namespaces")
	only := flag.String("only", "", "measure these `sections` only: any of "+strings.Join(names, ","))
	var program string
	command.Program(&program)
	file := flag.String("json", "", "write the figures to this `file` too")
	flag.Parse()
	wanted := names
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return fmt.Errorf("-only %s: there is no section %q, only %s", *only, w, strings.Join(names, ", "))
		}
	}
	r, err := measure(ctx, os.Stdout, o, wanted, program)
	if err != nil {
		return err
	}
	if *file != "" {
		if err := stats.WriteJSON(*file, r); err != nil {
			return err
		}
	}
	if !r.Within() && !o.Short { // a short run says that it works, and nothing of how fast
		return errNotAsPromised
	}
	return nil
}

func measure(ctx context.Context, w io.Writer, o bench.Options, wanted []string, program string) (r report, err error) {
	o.Only = slices.DeleteFunc(slices.Clone(wanted), func(s string) bool { return s == rest })
	if len(o.Only) > 0 {
		if r.Report, err = bench.Run(ctx, w, o); err != nil {
			return r, err
		}
	}
	if slices.Contains(wanted, rest) {
		r.Rest, err = cost.Run(ctx, w, cost.Options{Short: o.Short, Executable: program})
	}
	return r, err
}
