// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/node"
	"github.com/xdpha/xdpha/pkg/privilege"
)

func runCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "the node's daemon, in the foreground",
		Description: `Loads the kernel's part, joins the other node, and supervises until it is told to leave.

   xdpha run                   in the foreground; log to standard error
   xdpha run --keep            when it leaves, kernel programs, addresses and pins stay

SIGTERM or Ctrl-C: hands everything over to the other node, removes what it made, and leaves. A
second one ends it at once. kill -9, a crash or a restart within supervisor_lease costs clients
nothing: the kernel goes on without the daemon, and the next start takes over what it finds.
A changed configuration takes effect at the next start.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{DisableDefaultText: true, Name: "keep", Usage: "leave addresses, devices, rules and pins in place when leaving"},
			&cli.StringFlag{Name: "log", Value: "text", Usage: "log as `text` or json"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`debug`, info, warn or error"},
		},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			log, err := newLog(env.Stderr, c.String("log"), c.String("log-level"))
			if err != nil {
				return err
			}
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			debug.SetTraceback("crash") // by SIGABRT: status 2 is the configuration's
			if err := privilege.Require(privilege.Needed); err != nil {
				return err
			}
			if err := privilege.KeepForSelf(); err != nil {
				return err
			}
			defer noteHangup(log)()
			return node.Run(c.Context, node.Options{
				Config: cfg, RunDir: c.String("run-dir"), StateDir: c.String("state-dir"), PinDir: c.String("pin-dir"),
				Keep: c.Bool("keep"), Log: log, Version: env.Version,
			})
		},
	}
}

func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("run: --log-level %q is none of debug, info, warn, error", level)
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, usagef("run: --log %q is neither text nor json", format)
}

// noteHangup keeps SIGHUP, with which administrators ask for a reload, from
// ending the daemon without a hand-over.
func noteHangup(log *slog.Logger) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-hup:
				log.Warn("SIGHUP: the configuration is read at the start only; restart the daemon, which costs clients nothing within supervisor_lease")
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hup)
		close(done)
	}
}
