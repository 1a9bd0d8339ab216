// SPDX-License-Identifier: Apache-2.0

// Command bench prints what the kernel's answers cost: `make bench`. Exit status 1: slower
// than promised.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/xdpha/xdpha/pkg/bench"
)

var errTooSlow = errors.New("an answer costs more than promised")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o bench.Options
	flag.BoolVar(&o.Short, "short", false, "measure briefly: to see that it works, not for figures")
	flag.IntVar(&o.Repeat, "runs", 1, "how many `runs`, each in new namespaces")
	file := flag.String("json", "", "write the figures to this `file` too")
	flag.Parse()
	r, err := bench.Run(ctx, os.Stdout, o)
	if err != nil {
		return err
	}
	if *file != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return fmt.Errorf("encode figures: %w", err)
		}
		if err := os.WriteFile(*file, append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("write figures: %w", err)
		}
	}
	if !r.Within() {
		return errTooSlow
	}
	return nil
}
