// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/node"
	"github.com/xdpha/xdpha/pkg/privilege"
)

func runCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "the node's daemon, in the foreground",
		Description: `Loads the kernel's part, joins the other nodes, and supervises until it is told to leave.

   xdpha run                   in the foreground; log to standard error
   xdpha run --keep            when it leaves, kernel programs, addresses and pins stay

SIGTERM or Ctrl-C: hands everything over to other nodes, removes what it made, and leaves. A
second one ends it at once. kill -9, a crash or a restart within supervisor_lease costs clients
nothing: the kernel goes on without the daemon, and the next start takes over what it finds.

SIGHUP: follows a changed secret file and hooks, as xdpha reload does. Everything else that has
changed takes effect at the next start.`,
		Flags: append(logFlags(),
			&cli.BoolFlag{DisableDefaultText: true, Name: "keep", Usage: "leave addresses, devices, rules and pins in place when leaving"},
		),
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			log, lines, err := openLog(env.Stderr, c)
			if err != nil {
				return err
			}
			defer lines.Close()
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			debug.SetTraceback("crash") // by SIGABRT: status 2 is the configuration's
			needed := privilege.Needed
			if len(cfg.Mirrors) > 0 {
				needed = append(slices.Clone(needed), privilege.Mirror...)
			}
			if err := privilege.Require(needed); err != nil {
				return err
			}
			if err := privilege.KeepForSelf(); err != nil {
				return err
			}
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, unix.SIGHUP)
			defer signal.Stop(hangup)
			signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // a log whose reader is gone ends no daemon; for children all stays as it was
			err = node.Run(c.Context, node.Options{
				Config: cfg, Load: func() (*config.Config, error) { return loadConfig(c) }, Hangup: hangup, RunDir: c.String("run-dir"), StateDir: c.String("state-dir"), PinDir: c.String("pin-dir"),
				Keep: c.Bool("keep"), Log: log, Version: env.Version,
				GuardFlags: []string{"--log", c.String("log"), "--log-level", c.String("log-level")},
			})
			if err != nil {
				report(lines, err) // without waiting for a reader: what restarts the daemon waits for its end
				return errBadNews
			}
			return nil
		},
	}
}

func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log", Value: "text", Usage: "log as `text` or json"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`debug`, info, warn or error"},
	}
}

// guardCommand is the daemon's guard, which the daemon starts: nobody else has use for it.
func guardCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: node.GuardCommand, Hidden: true, Flags: logFlags(),
		Action: func(c *cli.Context) error {
			log, lines, err := openLog(env.Stderr, c)
			if err != nil {
				return err
			}
			defer lines.Close()
			return node.Guard(c.Context, os.Stdin, os.Stdout, log.With("part", node.GuardCommand))
		},
	}
}

// openLog is the log of a process that must never wait for whoever reads it.
func openLog(w io.Writer, c *cli.Context) (*slog.Logger, *node.LogWriter, error) {
	own, err := newHandler(w, c)
	if err != nil {
		return nil, nil, err
	}
	lines := node.NewLogWriter(w, own)
	handler, err := newHandler(lines, c)
	if err != nil {
		return nil, nil, err
	}
	go lines.Run()
	return slog.New(handler), lines, nil
}

func newHandler(w io.Writer, c *cli.Context) (slog.Handler, error) {
	format, level := c.String("log"), c.String("log-level")
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("run: --log-level %q is none of debug, info, warn, error", level)
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.NewTextHandler(w, opt), nil
	case "json":
		return slog.NewJSONHandler(w, opt), nil
	}
	return nil, usagef("run: --log %q is neither text nor json", format)
}
