// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/mirror"
	"github.com/xdpha/xdpha/pkg/privilege"
)

// mirrorPipeCommand is rsync's remote shell, which the daemon starts through rsync: nobody else has use for it.
func mirrorPipeCommand() *cli.Command {
	return &cli.Command{
		Name: mirror.PipeCommand, Hidden: true, SkipFlagParsing: true,
		Action: func(*cli.Context) error { return mirror.Pipe(os.Stdin, os.Stdout) },
	}
}

// mirrorChecks looks whether this host can mirror, if it shall.
func mirrorChecks(ctx context.Context, cfg *config.Config) (out []hostCheck) {
	if len(cfg.Mirrors) == 0 {
		return nil
	}
	out = heldChecks(privilege.Mirror)
	for _, f := range mirror.Probe(ctx, cfg) {
		out = append(out, hostCheck{Name: f.Name, OK: f.OK, Detail: f.Detail, Remedy: f.Remedy})
	}
	return out
}
