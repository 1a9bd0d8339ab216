// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// role is how much of a service runs.
type role uint8

const (
	gone    role = iota
	standby      // of a warm service: started, and not promoted
	active
)

func (r role) String() string { return [...]string{"stopped", "standby", "active"}[r] }

// driver starts, stops and looks at one service in one of the ways that there are. Its methods are
// called one after the other, but for changed, prepare and cgroupDir. A warm service is in standby after
// start; to promote, demote and stop must be harmless when that is done already.
type driver interface {
	// start and promote take their leave as the last thing before the service runs, or becomes active.
	start(ctx context.Context, env Env, l leave) error
	promote(ctx context.Context, env Env, l leave) error
	demote(ctx context.Context, env Env) error
	stop(ctx context.Context, env Env) error
	// kill ends what runs at once, asking none of it: what is in group, if it is not nil, or systemd's unit.
	kill(ctx context.Context, group *cgroup) error
	// look returns why the service does not run as it should, errGone if that is sure.
	look(ctx context.Context, env Env, want role) error
	// find returns what runs, errUnknown if nothing tells, and another error for what runs and is not good.
	find(ctx context.Context, env Env) (role, error)
	// every is how often it is worth to look; 0: never, or only when changed says so.
	every(want role) time.Duration
	// changed has a value when a look is worthwhile at once; nil: nothing tells.
	changed() <-chan struct{}
	// startLimit bounds the time from the beginning of a start or promotion to the first good check.
	startLimit() time.Duration
	// prepare gets ready what a start would wait for, and says what is missing on this host.
	prepare(ctx context.Context) error
	cgroupDir(ctx context.Context) (string, error)
	// close lets go of what belongs to this process, and leaves the service as it is.
	close()
}

var (
	// errGone is in the error of a look that is sure of the service's end: it is not looked at again.
	errGone = errors.New("does not run")
	// errUnknown is find's error when nothing tells whether the service runs.
	errUnknown = errors.New("nothing tells whether it runs")
	// errInVain is what the error of a start is that would fail again: a restart in place does not help.
	errInVain = errors.New("in vain")
	// errNotLooked is in the error of a look that this process could not take.
	errNotLooked = errors.New("not looked")
	// errRefused is in the error of a start or promotion that was not permitted, and did not begin.
	errRefused = errors.New("not permitted")
	// errOverruled is in the error of one that began, and was not permitted any more.
	errOverruled = errors.New("not permitted any more")
)

const (
	leaveWait = 100 * time.Millisecond // for a permission that may be about to be given
	leavePoll = 5 * time.Millisecond   // nothing tells of it
)

// leave asks for the permission to have a service run for clients; nil: none is needed.
type leave func() error

// before is asked when nothing is left to do before the service runs.
func (l leave) before(ctx context.Context) error {
	err := l.still()
	for waited := time.Duration(0); err != nil && waited < leaveWait && pause(ctx, leavePoll); waited += leavePoll {
		err = l.still()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return nil
}

// after is asked when it has begun to: this process may have stood still in between.
func (l leave) after() error {
	if err := l.still(); err != nil {
		return fmt.Errorf("%w: %w", errOverruled, err)
	}
	return nil
}

func (l leave) still() error {
	if l == nil {
		return nil
	}
	return l()
}

// inVain makes an error one of errInVain without a word more.
type inVain struct{ error }

func (e inVain) Unwrap() error        { return e.error }
func (e inVain) Is(target error) bool { return target == errInVain }

// commands runs the programs of a service, and keeps what the last start prints.
type commands struct {
	service string
	lines   *lineLog
	group   *cgroup // nil: there are no cgroups to be had
	out     *output // of the last start, whose children may still print
}

// run runs a command whose output ends with it, and goes to the log if to is not nil.
func (c *commands) run(ctx context.Context, cmd command, to *lineLog) error {
	out, err := newOutput(cmd.verb, to)
	if err != nil {
		return err
	}
	err = cmd.run(ctx, out.file)
	out.close()
	return withLine(err, out.lastLine())
}

// runKeeping runs a start: what it leaves running may go on printing.
func (c *commands) runKeeping(ctx context.Context, cmd command) error {
	c.keep(nil)
	out, err := newOutput(cmd.verb, c.lines)
	if err != nil {
		return err
	}
	c.keep(out)
	if err = cmd.run(ctx, out.file); err != nil {
		c.keep(nil)
		return withLine(err, out.lastLine())
	}
	return nil
}

// keep closes the last start's output and keeps another.
func (c *commands) keep(o *output) {
	if c.out != nil {
		c.out.close()
	}
	c.out = o
}

func (c *commands) close() { c.keep(nil) }

func (c *commands) kill(_ context.Context, group *cgroup) error { return group.kill() }

func (c *commands) cgroupDir(context.Context) (string, error) {
	if c.group == nil || !c.group.populated() {
		return "", fmt.Errorf("%w: nothing of it runs in a cgroup", ErrNotMeasured)
	}
	return c.group.dir, nil
}

// environ tells a command what it is run for.
func (c *commands) environ(env Env, r role) []string {
	return []string{
		"XDPHA_SERVICE=" + c.service,
		"XDPHA_IDENTITY=" + env.Identity,
		"XDPHA_GENERATION=" + strconv.FormatUint(env.Generation, 10),
		"XDPHA_NODE=" + env.Node,
		"XDPHA_ROLE=" + r.String(),
	}
}

// lineError is a command's error with the line that it printed last.
type lineError struct {
	err  error
	line string
}

func (e *lineError) Error() string { return e.err.Error() + ": " + e.line }
func (e *lineError) Unwrap() error { return e.err }

func withLine(err error, line string) error {
	if err == nil || line == "" {
		return err
	}
	return &lineError{err, line}
}
