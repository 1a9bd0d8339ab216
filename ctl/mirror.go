// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"os"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/mirror"
)

// mirrorPipeCommand is rsync's remote shell, which the daemon starts through rsync: nobody else has use for it.
func mirrorPipeCommand() *cli.Command {
	return &cli.Command{
		Name: mirror.PipeCommand, Hidden: true, SkipFlagParsing: true,
		Action: func(*cli.Context) error { return mirror.Pipe(os.Stdin, os.Stdout) },
	}
}
