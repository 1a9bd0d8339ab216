// SPDX-License-Identifier: Apache-2.0

// Command bench-peers measures xdpha and keepalived side by side: `make bench-peers`. If
// keepalived is not installed it says so, measures xdpha alone, and that is no failure.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/xdpha/xdpha/pkg/bench/command"
	"github.com/xdpha/xdpha/pkg/bench/peers"
	"github.com/xdpha/xdpha/pkg/bench/stats"
)

// shortRounds are enough to see that it works, not for figures.
const shortRounds = 2

func main() { command.Main("bench-peers", run) }

func run(ctx context.Context) (err error) {
	o := peers.Options{Progress: command.Tell}
	flag.IntVar(&o.Rounds, "rounds", 100, "how many `hangs` of each contender, and a tenth of it of every other fault")
	flag.StringVar(&o.Profile, "profile", "fast", "xdpha's timing `profile`")
	command.Program(&o.Executable)
	short := flag.Bool("short", false, "few rounds: to see that it works, not for figures")
	file := flag.String("json", "", "write the figures to this `file` too")
	flag.Parse()
	if *short {
		o.Rounds = shortRounds
	}
	if o.Rounds < 1 {
		return fmt.Errorf("-rounds %d: at least one", o.Rounds)
	}
	r, err := peers.Run(ctx, os.Stdout, o)
	if err != nil {
		return err
	}
	if *file == "" {
		return nil
	}
	return stats.WriteJSON(*file, r)
}
