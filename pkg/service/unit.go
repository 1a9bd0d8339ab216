// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

const (
	readyPoll    = 50 * time.Millisecond  // first wait between checks of a service that starts; doubles up to its Every
	restartPause = 500 * time.Millisecond // before each restart but the first of a row
)

// unit is one service.
type unit struct {
	m     *Manager
	cfg   config.Service
	lines *lineLog
	op    chan struct{} // holds a token while a start begins or a stop runs

	// guarded by m.mu
	state State
	run   *run // the last one; nil before the first

	// Only who holds op, or is the live run, touches these.
	dirty bool    // something was started, and not stopped since
	known bool    // dirty is known: false until the first start or stop
	out   *output // of the last start, whose children may still print
}

// run is the time from a start to its stop.
type run struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when it is up for the first time, or err says why not
	err    error
	done   chan struct{} // closed when nothing of it runs

	settled  bool        // ready is, or is about to be, closed; guarded by m.mu
	restarts []time.Time // those of the window
}

func newUnit(m *Manager, cfg config.Service) *unit {
	return &unit{
		m: m, cfg: cfg, op: make(chan struct{}, 1),
		lines: newLineLog(m.log.With("service", cfg.Name)),
		state: State{Service: cfg.Name, Since: time.Now()},
	}
}

// set changes the state and reports it.
func (u *unit) set(p Phase, reason string, change ...func(*State)) {
	u.m.notifyMu.Lock()
	defer u.m.notifyMu.Unlock()
	u.m.mu.Lock()
	if u.state.Phase != p {
		u.state.Since = time.Now()
	}
	u.state.Phase, u.state.Reason = p, reason
	for _, f := range change {
		f(&u.state)
	}
	s := u.state
	u.m.mu.Unlock()
	u.m.log.Debug("service state", "service", s.Service, "state", s.Phase.String(), "reason", s.Reason)
	if u.m.notify != nil {
		u.m.notify(s)
	}
}

// hold takes the right to begin or end a run.
func (u *unit) hold(ctx context.Context) error {
	select {
	case u.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-u.m.closed.Done():
		return ErrClosed
	}
}

func (u *unit) release() { <-u.op }

func (u *unit) current() *run {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	return u.run
}

func (r *run) live() bool {
	select {
	case <-r.done:
		return false
	default:
		return r.ctx.Err() == nil
	}
}

// abandon cancels a run that nobody waits for any more, unless it is up.
func (m *Manager) abandon(r *run, cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.settled {
		r.cancel(cause)
	}
}

// settle ends the time in which a run can be abandoned, and reports whether it
// has not been.
func (m *Manager) settle(r *run) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.settled = true
	return r.ctx.Err() == nil
}

// newRun makes a run the unit's. The caller holds op and sees that no other is live.
func (u *unit) newRun(env Env) *run {
	ctx, cancel := context.WithCancelCause(u.m.closed)
	r := &run{ctx: ctx, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	u.m.mu.Lock()
	u.run, u.state.Env = r, env
	u.m.mu.Unlock()
	return r
}

// begin returns the run that is to bring the service up: the live one, or a new
// one that waits for those in before which this service comes after.
func (u *unit) begin(ctx context.Context, env Env, before map[*unit]*run) (*run, error) {
	if err := u.hold(ctx); err != nil {
		return nil, err
	}
	defer u.release()
	if r := u.current(); r != nil {
		if r.live() {
			u.m.mu.Lock()
			u.state.Env = env // for its restarts
			u.m.mu.Unlock()
			return r, nil
		}
		<-r.done
	}
	r := u.newRun(env)
	u.set(Starting, "")
	wait := map[string]*run{}
	for _, a := range u.cfg.After {
		if b := u.m.units[a]; before[b] != nil {
			wait[a] = before[b]
		}
	}
	go func() {
		defer close(r.done)
		defer r.cancel(nil)
		u.life(r, wait)
	}()
	return r, nil
}

// interrupt cancels the run, if any, without waiting.
func (u *unit) interrupt() {
	if r := u.current(); r != nil {
		r.cancel(ErrStopped)
	}
}

// stop ends the run and stops the service.
func (u *unit) stop(ctx context.Context) error {
	if err := u.hold(ctx); err != nil {
		return err
	}
	defer u.release()
	if r := u.current(); r != nil {
		r.cancel(ErrStopped)
		<-r.done
	}
	if u.known && !u.dirty {
		u.set(Stopped, "")
		return nil
	}
	u.set(Stopping, "")
	if err := u.stopCommand(ctx); err != nil {
		u.set(Failed, err.Error())
		return err
	}
	u.set(Stopped, "")
	return nil
}

func (u *unit) stopCommand(ctx context.Context) error {
	if u.cfg.Stop != "" {
		if err := u.exec(ctx, "stop", u.cfg.Stop, u.cfg.Timeout.Stop, u.lines); err != nil {
			return err
		}
	}
	u.known, u.dirty = true, false
	u.setOut(nil)
	return nil
}

// adopt watches a service that runs already.
func (u *unit) adopt(ctx context.Context, env Env) bool {
	if u.cfg.Check == "" || u.hold(ctx) != nil {
		return false
	}
	defer u.release()
	if r := u.current(); r != nil {
		if r.live() {
			return false
		}
		<-r.done
	}
	u.m.mu.Lock()
	u.state.Env = env
	u.m.mu.Unlock()
	if err := u.check(ctx); err != nil {
		u.m.log.Debug("service not adopted", "service", u.cfg.Name, "error", err)
		return false
	}
	r := u.newRun(env)
	u.known, u.dirty = true, true
	close(r.ready)
	u.set(Up, "")
	go func() {
		defer close(r.done)
		defer r.cancel(nil)
		u.keep(r)
	}()
	return true
}

// life is a run from the wait for others to its end.
func (u *unit) life(r *run, wait map[string]*run) {
	err := u.await(r, wait)
	if err == nil {
		err = u.bringUp(r, nil)
	}
	if !u.m.settle(r) {
		err = context.Cause(r.ctx)
	}
	if err != nil {
		u.fail(r, err)
		r.err = err
		close(r.ready)
		return
	}
	close(r.ready)
	u.keep(r)
}

// fail ends a run. Who is told of it may start the service anew at once, so the
// run is over before.
func (u *unit) fail(r *run, err error) {
	r.cancel(err)
	if !errors.Is(err, ErrStopped) && !errors.Is(err, ErrClosed) { // they say what becomes of it
		u.set(Failed, err.Error())
	}
}

func (u *unit) await(r *run, wait map[string]*run) error {
	for name, b := range wait {
		u.set(Starting, "waiting for "+name)
		select {
		case <-b.ready:
			if b.err != nil {
				return fmt.Errorf("%s, which it comes after, is not up: %w", name, b.err)
			}
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
	return nil
}

// keep watches a service that is up, and restarts it as often as its window allows.
func (u *unit) keep(r *run) {
	for {
		err := u.watch(r.ctx)
		if err == nil { // cancelled
			return
		}
		if err = u.bringUp(r, err); err != nil {
			u.fail(r, err)
			return
		}
	}
}

// bringUp starts the service until it is up. A failure that led here, if any,
// and each failed start take one restart of the window.
func (u *unit) bringUp(r *run, failure error) error {
	for row := 0; ; row++ {
		if failure != nil {
			if !r.mayRestart(u.cfg.Restart, time.Now()) {
				return fmt.Errorf("%w (no restart is left: %d within %v)", failure, u.cfg.Restart.Times, u.cfg.Restart.Within)
			}
			u.m.log.Warn("service restarts", "service", u.cfg.Name, "error", failure)
			u.set(Starting, "restarting: "+failure.Error(), func(s *State) { s.Restarts++ })
			if row > 1 && !pause(r.ctx, restartPause) {
				return context.Cause(r.ctx)
			}
		}
		if failure = u.startOnce(r.ctx); failure == nil {
			u.set(Up, "")
			return nil
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
	}
}

// mayRestart takes a restart if one is left. Those that are older than the
// window do not count any more.
func (r *run) mayRestart(w config.ServiceRestart, now time.Time) bool {
	r.restarts = slices.DeleteFunc(r.restarts, func(t time.Time) bool { return now.Sub(t) >= w.Within })
	if len(r.restarts) >= w.Times {
		return false
	}
	r.restarts = append(r.restarts, now)
	return true
}

// startOnce runs start and waits for the first good check, within the time
// limit of both. What a former start left is stopped before.
func (u *unit) startOnce(ctx context.Context) error {
	if u.dirty {
		if err := u.stopCommand(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			u.m.log.Warn("service did not stop before its restart", "service", u.cfg.Name, "error", err)
		}
	}
	limit := u.cfg.Timeout.Start
	began := time.Now()
	u.known, u.dirty = true, true
	u.setOut(nil)
	out, err := newOutput("start", u.lines)
	if err != nil {
		return err
	}
	u.setOut(out) // stays: the service may go on printing to it
	err = command{"start", u.cfg.Start, u.environ(), limit}.run(ctx, out.file)
	if err != nil {
		u.setOut(nil)
		return withLine(err, out.lastLine())
	}
	if u.cfg.Check == "" {
		return nil
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, began.Add(limit), errTimeLimit)
		defer cancel()
	}
	return u.ready(ctx)
}

// ready waits for a good check. It returns the last bad one's error when ctx ends.
func (u *unit) ready(ctx context.Context) error {
	for wait := readyPoll; ; wait = min(2*wait, max(u.cfg.Every, readyPoll)) {
		err := u.check(ctx)
		if err == nil {
			return nil
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("not ready in time: %w", err)
		}
	}
}

// watch checks the service until the check has been bad Fall times in a row,
// and returns its error; nil if ctx ends first.
func (u *unit) watch(ctx context.Context) error {
	if u.cfg.Check == "" {
		<-ctx.Done()
		return nil
	}
	bad, good := 0, u.cfg.Rise // in a row
	for pause(ctx, u.cfg.Every) {
		err := u.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if cannotLook(err) {
			u.m.log.Warn("check not run: it counts neither way", "service", u.cfg.Name, "error", err)
			continue
		}
		if err != nil {
			bad, good = bad+1, 0
			if bad >= u.cfg.Fall {
				return err
			}
			u.set(Failing, err.Error())
			continue
		}
		bad, good = 0, good+1
		if good == u.cfg.Rise {
			u.set(Up, "")
		}
	}
	return nil
}

// cannotLook tells what is this process's own want from what is the service's. To move the service
// for it would help nobody: the other node's check is another process.
func cannotLook(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EAGAIN)
}

// check runs the check. What it prints is not logged: it would be, for ever;
// the last line goes into its error.
func (u *unit) check(ctx context.Context) error {
	return u.exec(ctx, "check", u.cfg.Check, u.cfg.Timeout.Check, nil)
}

// exec runs a command whose output ends with it.
func (u *unit) exec(ctx context.Context, verb, script string, limit time.Duration, to *lineLog) error {
	out, err := newOutput(verb, to)
	if err != nil {
		return err
	}
	err = command{verb, script, u.environ(), limit}.run(ctx, out.file)
	out.close()
	return withLine(err, out.lastLine())
}

func withLine(err error, line string) error {
	if err == nil || line == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, line)
}

func (u *unit) environ() []string {
	u.m.mu.Lock()
	env := u.state.Env
	u.m.mu.Unlock()
	return []string{
		"XDPHA_SERVICE=" + u.cfg.Name,
		"XDPHA_IDENTITY=" + env.Identity,
		"XDPHA_GENERATION=" + strconv.FormatUint(env.Generation, 10),
		"XDPHA_NODE=" + env.Node,
	}
}

// setOut closes the last start's output and keeps another.
func (u *unit) setOut(o *output) {
	if u.out != nil {
		u.out.close()
	}
	u.out = o
}

// pause waits, and reports whether it did so to the end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
