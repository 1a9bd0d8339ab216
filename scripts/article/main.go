// SPDX-License-Identifier: Apache-2.0

// Command article runs the article's cluster with today's programs in the lab, breaks it, and tells what
// the clients of each service saw: `make article`. It needs what `scripts/setup --article` installs.
// Exit status 1: a client was not served again, data was lost, or what must run once ran twice.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/article"
	"github.com/xdpha/xdpha/pkg/bench/command"
	"github.com/xdpha/xdpha/pkg/lab"
)

func main() { command.Main("article", run) }

func run(ctx context.Context) error {
	began := time.Now()
	o := article.Options{Faults: article.Faults, Progress: func(s string) { fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(began).Seconds(), s) }}
	command.Program(&o.Executable)
	flag.StringVar(&o.Example, "example", "testdata/examples/article", "the `folder` with etc/ and srv/ of both nodes")
	only := flag.String("faults", "", fmt.Sprintf("some of the `faults` %v, as power,lan", article.Faults))
	short := flag.Bool("short", false, "one fault at each node")
	flag.Parse()
	if *short {
		o.Faults = []lab.Fault{lab.FaultPower}
	}
	if *only != "" {
		o.Faults = nil
		for name := range strings.SplitSeq(*only, ",") {
			f, err := lab.ParseFault(name)
			if err != nil {
				return fmt.Errorf("-faults %s: %w", *only, err)
			}
			o.Faults = append(o.Faults, f)
		}
	}
	r, err := article.Run(ctx, os.Stdout, o)
	if err == nil && !r.Good() {
		err = command.ErrBad
	}
	return err
}
