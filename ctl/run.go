// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/privilege"
)

// The exit statuses of every command.
const (
	statusGood  = 0
	statusBad   = 1 // bad news: not healthy, refused, failed
	statusUsage = 2 // wrong usage or configuration
)

// Env is what a command line sees of the world.
type Env struct {
	Stdout, Stderr io.Writer
	// Terminal is where a live picture may be drawn; nil if Stdout is none.
	Terminal *os.File
	Version  string
}

// System is the Env of this process.
func System() Env {
	e := Env{Stdout: os.Stdout, Stderr: os.Stderr, Version: version()}
	if term.IsTerminal(os.Stdout.Fd()) {
		e.Terminal = os.Stdout
	}
	return e
}

// Build is the version that a packager gives: -ldflags "-X github.com/xdpha/xdpha/ctl.Build=1.2-3".
var Build string

// version is what the packager or the build noted: the module's version, or the commit.
func version() string {
	if Build != "" {
		return Build
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += "-" + s.Value[:12]
			}
		}
	}
	return v
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// configError is a configuration that cannot be used.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// errBadNews ends a command whose output has told the bad news already.
var errBadNews = errors.New("bad news")

// Run runs one command line, without the program's name, and returns the exit
// status. SIGINT and SIGTERM end it in order; a second one ends it at once.
func Run(env Env, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := privilege.HideMemory(); err != nil { // before a secret is in it
		return report(env.Stderr, err)
	}
	app := newApp(env)
	err := app.RunContext(ctx, append([]string{"xdpha"}, arrange(app, args)...))
	return report(env.Stderr, err)
}

// report prints the error and returns the exit status that it stands for.
func report(w io.Writer, err error) int {
	var usage usageError
	var conf configError
	switch {
	case err == nil:
		return statusGood
	case errors.Is(err, errBadNews):
		return statusBad
	case errors.As(err, &conf):
		fmt.Fprintf(w, "xdpha: %v\n", err)
		return statusUsage
	case errors.As(err, &usage):
		fmt.Fprintf(w, "xdpha: %v\nTry: xdpha help\n", err)
		return statusUsage
	case errors.Is(err, control.ErrInvalid), errors.Is(err, control.ErrNotFound):
		fmt.Fprintf(w, "xdpha: %v\n", err)
		return statusUsage
	}
	fmt.Fprintf(w, "xdpha: %v\n", err)
	return statusBad
}

const appDescription = `Two Linux servers stand in for each other. Each is home to some identities: a virtual MAC
with its addresses and services. When a server dies, the other one's kernel takes its
identities, and clients go on with the same address and the same MAC.

Nouns only read, verbs act. What reads has --json. Exit status: 0 good, 1 bad news
(not healthy, refused, failed), 2 wrong usage or configuration.

See it work on this machine, in network namespaces of its own:
   xdpha demo --fault power

Set up a pair:
   1. xdpha keygen --out /etc/xdpha/secret     on one server; copy it to the other one
   2. write /etc/xdpha/xdpha.yaml              the same file on both
   3. xdpha check                              on both: configuration, host, what would happen
   4. xdpha run                                on both
   5. xdpha status --watch`

func newApp(env Env) *cli.App {
	cli.HelpPrinter = helpPrinter
	app := &cli.App{
		Name: "xdpha", HelpName: "xdpha", Usage: "two Linux servers that stand in for each other", Version: env.Version,
		Description: appDescription, UsageText: "xdpha [global options] COMMAND [options] [arguments]",
		Writer: env.Stdout, ErrWriter: env.Stderr,
		ExitErrHandler:  func(*cli.Context, error) {}, // Run reports
		OnUsageError:    onUsageError,
		HideHelpCommand: false,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Value: "/etc/xdpha/xdpha.yaml", Usage: "configuration `FILE`, the same on every node"},
			&cli.StringFlag{Name: "node", Usage: "`NAME` of this node in the configuration (default: by hostname)"},
			&cli.StringFlag{Name: "run-dir", Value: "/run/xdpha", Usage: "`DIR` of the control socket"},
			&cli.StringFlag{Name: "state-dir", Value: "/var/lib/xdpha", Usage: "`DIR` of generations and journal, kept across reboots"},
			&cli.StringFlag{Name: "pin-dir", Value: "/sys/fs/bpf/xdpha", Usage: "`DIR` of the kernel's part, in a BPF file system"},
		},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return usagef("no command %q", name)
			}
			return cli.ShowAppHelp(c)
		},
	}
	app.Commands = []*cli.Command{
		runCommand(env), checkCommand(env), keygenCommand(env),
		statusCommand(env), eventsCommand(env), pingCommand(env),
		moveCommand(env), givebackCommand(env), standbyCommand(env), freezeCommand(env), reloadCommand(env), confirmOffCommand(env),
		planCommand(env), replayCommand(env), demoCommand(env), mirrorPipeCommand(), guardCommand(env),
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError
	}
	return app
}

func onUsageError(_ *cli.Context, err error, _ bool) error { return usageError{err} }

// helpPrinter keeps the columns of examples: nothing is wrapped, because the
// texts are written for 100 columns.
func helpPrinter(w io.Writer, templ string, data any) {
	cli.HelpPrinterCustom(w, templ, data, map[string]any{"wrapAt": func() int { return 10000 }})
}

// arrange lets flags stand anywhere, also global ones after the command: it puts
// them where the library wants them. What follows "--" is left alone.
func arrange(app *cli.App, args []string) []string {
	var global, own, words []string
	var command *cli.Command
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			words = append(words, args[i:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			words = append(words, a)
			if command == nil {
				command = app.Command(a)
			}
			continue
		}
		name, _, joined := strings.Cut(strings.TrimLeft(a, "-"), "=")
		flag, isGlobal := findFlag(app.Flags, name), true
		if flag == nil && command != nil {
			flag, isGlobal = findFlag(command.Flags, name), false
		}
		group := []string{a}
		if flag != nil && !joined && takesValue(flag) && i+1 < len(args) {
			i++
			group = append(group, args[i])
		}
		if isGlobal && (flag != nil || command == nil) {
			global = append(global, group...)
		} else {
			own = append(own, group...)
		}
	}
	if len(words) > 0 {
		global = append(global, words[0])
		words = words[1:]
	}
	return append(append(global, own...), words...)
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// needArgs refuses a wrong number of arguments.
func needArgs(c *cli.Context, least, most int) error {
	switch n := c.NArg(); {
	case n < least:
		return usagef("%s: an argument is missing: %s", c.Command.Name, strings.TrimSpace("xdpha "+c.Command.Name+" "+c.Command.ArgsUsage))
	case n > most:
		return usagef("%s: do not know what to do with %q", c.Command.Name, c.Args().Get(most))
	}
	return nil
}

// loadConfig loads the configuration that the flags name.
func loadConfig(c *cli.Context) (*config.Config, error) {
	cfg, err := config.Load(c.String("config"), config.Options{Node: c.String("node")})
	if err != nil {
		return nil, configError{err}
	}
	return cfg, nil
}

// withClient runs f with a client of the daemon that the flags name.
func withClient(c *cli.Context, f func(context.Context, *control.Client) error) error {
	client := control.NewClient(c.String("run-dir"))
	defer client.Close()
	return f(c.Context, client)
}

// jsonFlag is on everything that reads.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{DisableDefaultText: true, Name: "json", Usage: "print JSON"}
}

// commandTimeout bounds what must be answered at once.
const commandTimeout = 10 * time.Second
