// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killAfter = 2 * time.Second       // between SIGTERM and SIGKILL
	groupPoll = 20 * time.Millisecond // is the process group gone?
)

// errTimeLimit is a command's error when it was killed for its time limit.
var errTimeLimit = errors.New("time limit exceeded")

// command is one run of a program for a service.
type command struct {
	verb  string // start, stop, check, …
	argv  []string
	env   []string
	limit time.Duration // none if 0
	group *cgroup       // that it joins; nil: none
	// whole: a failure ends all that runs in group, not the command's process group alone.
	whole bool
	quiet bool // what it prints on its standard error goes nowhere
	leave leave
}

// shell is how a command of the configuration is run.
func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

// prepared is argv as the process runs it. It joins its cgroup by itself before it becomes the command,
// so that no child of it can be outside. (clone3 could do it, but a unit with RestrictNamespaces= has
// none.) Then it waits at its gate, if it has to.
func (c command) prepared() []string {
	dir, script := "", ""
	if c.group != nil {
		dir, script = c.group.dir, `echo 0 >"$0/cgroup.procs" && `
	}
	if c.leave != nil {
		script += `echo >&3 && read -r go <&3 && `
	}
	if script == "" {
		return c.argv
	}
	return append([]string{"/bin/sh", "-c", script + `exec "$@" 3>&-`, dir}, c.argv...)
}

// gate is where a process waits for the leave to become its command. Who ends what is in its cgroup
// after the leave was given ends it, too, however late this process comes to open the gate.
type gate struct{ ours, its *os.File }

func newGate() (*gate, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true) // for a deadline
	}
	if err != nil {
		return nil, fmt.Errorf("make a gate: %w", err)
	}
	return &gate{os.NewFile(uintptr(fds[0]), "gate"), os.NewFile(uintptr(fds[1]), "gate")}, nil
}

func (g *gate) close() {
	g.ours.Close()
	g.its.Close()
}

// open waits for the process to come to the gate, and lets it pass if l permits it. Without an error
// the process may have ended, or ctx.
func (g *gate) open(ctx context.Context, l leave) error {
	g.its.Close() // so that the process's end is seen
	defer context.AfterFunc(ctx, func() { _ = g.ours.SetReadDeadline(time.Now()) })()
	if _, err := g.ours.Read(make([]byte, 1)); err != nil {
		return nil
	}
	if err := l.before(ctx); err != nil {
		return err
	}
	_, _ = g.ours.WriteString("\n") // who has ended meanwhile reads nothing
	return l.after()
}

// run runs the command to its end. Its output goes to out, which may stay in
// the hands of the command's children.
func (c command) run(ctx context.Context, out *os.File) error {
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.limit, errTimeLimit)
		defer cancel()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", c.verb, context.Cause(ctx))
	}
	if c.group != nil {
		if err := c.group.make(); err != nil {
			return fmt.Errorf("run %s: %w", c.verb, err)
		}
		defer c.group.removeIfEmpty()
	}
	argv := c.prepared()
	cmd := exec.Command(argv[0], argv[1:]...)
	var g *gate
	if c.leave != nil {
		var err error
		if g, err = newGate(); err != nil {
			return fmt.Errorf("run %s: %w", c.verb, err)
		}
		defer g.close()
		cmd.ExtraFiles = []*os.File{g.its}
	}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), forDaemon), c.env...)
	cmd.Stdout, cmd.Stderr = out, out // files: Wait waits for the process alone
	if c.quiet {
		cmd.Stderr = nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", c.verb, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if g != nil {
		if err := g.open(ctx, c.leave); err != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // gone meanwhile is as good
			<-exited
			return fmt.Errorf("%s: %w", c.verb, err)
		}
	}
	select {
	case err := <-exited:
		if err != nil {
			c.kill(cmd.Process.Pid, nil)
			return fmt.Errorf("%s: %w", c.verb, err)
		}
		return nil
	case <-ctx.Done():
		c.kill(cmd.Process.Pid, exited)
		if cause := context.Cause(ctx); errors.Is(cause, errTimeLimit) {
			return fmt.Errorf("%s: %w: killed after %v", c.verb, errTimeLimit, c.limit)
		}
		return fmt.Errorf("%s: %w", c.verb, context.Cause(ctx))
	}
}

// kill ends what a failed command has left. Its process group is ended in any case: the command
// may not have joined its cgroup yet.
func (c command) kill(pgid int, exited <-chan error) {
	if c.group != nil && c.whole {
		polite, cancel := context.WithTimeout(context.Background(), killAfter)
		defer cancel()
		_ = c.group.end(polite) // the failure that led here is told
	}
	killGroup(pgid, exited)
}

// forDaemon tells the variables by which systemd speaks to this daemon: a
// service that took them for its own would speak in the daemon's name.
func forDaemon(kv string) bool {
	name, _, _ := strings.Cut(kv, "=")
	switch name {
	case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
		return true
	}
	return false
}

// killGroup ends a process group, politely first. With exited it waits for the
// leader, too: until it is reaped, the group is not gone.
func killGroup(pgid int, exited <-chan error) {
	if syscall.Kill(-pgid, syscall.SIGTERM) != nil && exited == nil {
		return // nobody left
	}
	deadline := time.NewTimer(killAfter)
	defer deadline.Stop()
	poll := time.NewTicker(groupPoll)
	defer poll.Stop()
	for {
		select {
		case <-exited:
			exited = nil
		case <-poll.C:
		case <-deadline.C:
			_ = syscall.Kill(-pgid, syscall.SIGKILL) // gone meanwhile is as good
			if exited != nil {
				<-exited
			}
			return
		}
		if exited == nil && !groupLives(pgid) {
			return
		}
	}
}

// groupLives reports whether a process of the group still runs. One that has
// ended and waits for a slow init to reap it does not count.
func groupLives(pgid int) bool {
	if errors.Is(syscall.Kill(-pgid, 0), syscall.ESRCH) {
		return false
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		return true // no /proc to ask
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		// proc_pid_stat(5): pid (comm) state ppid pgrp; comm may hold anything.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" && f[0] != "X" {
			return true
		}
	}
	return false
}
