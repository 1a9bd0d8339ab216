// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/xdpha/xdpha/pkg/control"
)

// TestMain makes xdpha and a daemon's control socket commands of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"xdpha": func() { os.Exit(Run(System(), os.Args[1:])) },
		"unprivileged": func() {
			// Root without a single capability finds its files and nothing else.
			if os.Geteuid() == 0 {
				exitLike(exec.Command("setpriv", append([]string{"--bounding-set=-all", "--inh-caps=-all"}, os.Args[1:]...)...))
			}
			exitLike(exec.Command(os.Args[1], os.Args[2:]...))
		},
	})
}

func exitLike(c *exec.Cmd) {
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); c.ProcessState == nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(127)
	}
	os.Exit(c.ProcessState.ExitCode())
}

// TestCommandLine runs the scripts of testdata/cli. They need no root.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "testdata", "cli"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("XDPHA_UPDATE") == "1",
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": expectStatus, "daemon": fakeDaemon, "mode": fileMode},
		Setup: func(e *testscript.Env) error {
			bad, err := filepath.Abs(filepath.Join("..", "testdata", "config"))
			e.Vars = append(e.Vars, "CONFIGS="+bad)
			return err
		},
	})
}

// expectStatus runs a command and checks its exit status: status 2 xdpha move.
func expectStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %v: %v", args[1:], err)
	}
	if got != want {
		ts.Fatalf("%v ends with status %d, not %d", args[1:], got, want)
	}
}

// fileMode checks a file's permissions: mode 0600 secret.
func fileMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if want, err := strconv.ParseUint(args[0], 8, 32); err != nil || info.Mode().Perm() != os.FileMode(want) {
		ts.Fatalf("%s has mode %04o, not %s", args[1], info.Mode().Perm(), args[0])
	}
}

// fakeDaemon serves the control API in a run directory until the script ends: daemon DIR healthy|ill.
func fakeDaemon(ts *testscript.TestScript, _ bool, args []string) {
	l, err := control.Listen(ts.MkAbs(args[0]))
	ts.Check(err)
	b := &fakeBackend{hub: control.NewHub(16), status: sampleStatus(), history: sampleHistory()}
	if args[1] == "ill" {
		b.status = illStatus()
		b.history.DeadAfterUS = 2500
	}
	b.hub.Publish(control.Event{TimeNS: 12_345_678_901_234, Wall: time.Date(2026, 11, 23, 9, 41, 0, 5e6, time.Local), Node: "serv2", Kind: "takeover", Identity: "files", Text: "serv1 is dead"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.NewServer(b, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("fake daemon: %v", err)
		}
	})
}

type fakeBackend struct {
	hub     *control.Hub
	status  control.Status
	history control.History
}

func (b *fakeBackend) Status() control.Status   { return b.status }
func (b *fakeBackend) History() control.History { return b.history }
func (b *fakeBackend) Events() *control.Hub     { return b.hub }
func (b *fakeBackend) Ping(context.Context, time.Duration) (control.Ping, error) {
	return samplePing(), nil
}

func (b *fakeBackend) Estimates(context.Context) ([]control.Estimate, error) {
	return []control.Estimate{{Identity: "files", To: "serv1", Files: 50_000, Copied: 3, Bytes: 1_234_567, Deleted: 1, CompareS: 0.79}}, nil
}

func (b *fakeBackend) Uses() control.Uses {
	return control.Uses{
		Node: "serv2", Processors: 4, Memory: 8_000_000_000, Nodes: []string{"serv1", "serv2"},
		Homes: []control.HomeOf{{Identity: "files", Home: "serv1"}, {Identity: "mail", Home: "serv1"}},
		Services: []control.Use{
			{Service: "dns", Concurrent: true, CPU: 0.1, CPUPeak: 0.3, Memory: 50_000_000, MeasuredS: 3600},
			{Service: "imap", Identity: "mail", CPU: 1.4, CPUPeak: 2, Memory: 3_000_000_000, IO: 2e6, MeasuredS: 3600},
			{Service: "samba", Identity: "files"},
		},
	}
}

func (b *fakeBackend) Do(ctx context.Context, c control.Command) error {
	switch {
	case c.Identity == "huge":
		<-ctx.Done() // it copies for longer than anybody waits
		return ctx.Err()
	case c.Verb == control.Move && c.Identity == "nothing":
		return wrapped{"no identity \"nothing\": there are files, mail", control.ErrNotFound}
	case c.Verb == control.Move && !c.Force:
		return wrapped{"serv2 is not ready to take files", control.ErrRefused}
	}
	return nil
}

// wrapped is an error of its own words that is also a sentinel.
type wrapped struct {
	text string
	is   error
}

func (w wrapped) Error() string { return w.text }
func (w wrapped) Unwrap() error { return w.is }
