// SPDX-License-Identifier: Apache-2.0

// Command returns breaks the return of a node and its services, over and over: `make returns`. Exit status 1:
// a service started before its data was back, or the pair did not come to rest with the same data on both nodes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/returns"
)

var errBad = errors.New("not as it should be: see what is WRONG above")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "returns:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o := returns.Options{Progress: func(s string) { fmt.Fprintln(os.Stderr, s) }}
	flag.IntVar(&o.Rounds, "rounds", 50, "how many `returns`")
	flag.IntVar(&o.From, "from", 0, "the first one that follows from the seed: `number`")
	flag.Uint64Var(&o.Seed, "seed", 1, "`number` from which all that is drawn follows")
	flag.StringVar(&o.Executable, "xdpha", "bin/xdpha", "the xdpha `program`")
	flag.Parse()
	if o.Rounds < 1 || o.From < 0 {
		return fmt.Errorf("-rounds %d, -from %d: at least one, and none", o.Rounds, o.From)
	}
	var err error
	if o.Executable, err = filepath.Abs(o.Executable); err != nil { // nodes run in directories of their own
		return err
	}
	r, err := returns.Run(ctx, os.Stdout, o)
	if err == nil && !r.Good() {
		err = errBad
	}
	return err
}
