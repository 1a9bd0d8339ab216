// SPDX-License-Identifier: Apache-2.0

// Command returns breaks the return of a node and its services, over and over: `make returns`. Exit status 1:
// a service started before its data was back, or the pair did not come to rest with the same data on both nodes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/xdpha/xdpha/pkg/bench/command"
	"github.com/xdpha/xdpha/pkg/bench/returns"
)

func main() { command.Main("returns", run) }

func run(ctx context.Context) error {
	o := returns.Options{Progress: command.Tell}
	flag.IntVar(&o.Rounds, "rounds", 50, "how many `returns`")
	flag.IntVar(&o.From, "from", 0, "the first one that follows from the seed: `number`")
	flag.Uint64Var(&o.Seed, "seed", 1, "`number` from which all that is drawn follows")
	command.Program(&o.Executable)
	flag.Parse()
	if o.Rounds < 1 || o.From < 0 {
		return fmt.Errorf("-rounds %d, -from %d: at least one, and none", o.Rounds, o.From)
	}
	r, err := returns.Run(ctx, os.Stdout, o)
	if err == nil && !r.Good() {
		err = command.ErrBad
	}
	return err
}
