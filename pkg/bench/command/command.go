// SPDX-License-Identifier: Apache-2.0

// Package command is what the commands of scripts/ that measure and judge have in common.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrBad is of a run that ended, and found what must not be; its tables tell.
var ErrBad = errors.New("not as it should be: see what is told above")

// Main runs a command until it ends or is told to, and ends the program: with status 1 after an error.
func Main(name string, run func(ctx context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Program is the flag -xdpha: the program under test. Its path is made absolute, for nodes run in
// directories of their own.
func Program(path *string) {
	set := func(s string) (err error) { *path, err = filepath.Abs(s); return err }
	if err := set("bin/xdpha"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Func("xdpha", "the xdpha `program` (default bin/xdpha)", set)
}

// Tell prints how far a run is.
func Tell(s string) { fmt.Fprintln(os.Stderr, s) }
