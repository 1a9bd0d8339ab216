// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	m      *Manager
	cfg    config.Service
	driver driver
	probes []probe
	op     chan struct{} // holds a token while a start begins or a stop runs

	// guarded by m.mu
	state    State
	run      *run        // the last one; nil before the first
	expiry   *time.Timer // of the failure that counts; nil: none does
	failures uint64      // so far: tells one's expiry from another's

	// Only who holds op, or is the live run, touches these.
	dirty    bool // something was started, and not stopped since
	known    bool // dirty is known: false until the first start or stop
	unranked bool // dirty, and it runs in standby as far as is known
}

// run is the time from a start to its stop, or to the start of another role.
type run struct {
	role   role // that it brings the service to, and keeps it in
	ctx    context.Context
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when it is up for the first time, or err says why not
	err    error
	done   chan struct{} // closed when nothing of it runs
	former *run          // of a lower role, that still runs when this one begins; nil: none

	settled  bool        // ready is, or is about to be, closed; guarded by m.mu
	stopped  bool        // by end; who holds op touches it
	restarts []time.Time // those of the window
}

func newUnit(m *Manager, cfg config.Service) *unit {
	return &unit{
		m: m, cfg: cfg, op: make(chan struct{}, 1), driver: m.newDriver(cfg), probes: probesOf(cfg),
		state: State{Service: cfg.Name, Since: time.Now(), Ports: cfg.Ports},
	}
}

// set changes the state and reports it.
func (u *unit) set(p Phase, reason string, change ...func(*State)) {
	u.change(append(change, func(s *State) {
		if s.Phase != p {
			s.Since = time.Now()
		}
		s.Phase, s.Reason = p, reason
	})...)
}

func (u *unit) change(change ...func(*State)) {
	u.m.notifyMu.Lock()
	defer u.m.notifyMu.Unlock()
	u.m.mu.Lock()
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

// arrived reports that the service is where it should be: no failure counts any more.
func (u *unit) arrived(r role) {
	p := Up
	if r == standby {
		p = Standby
	}
	u.m.mu.Lock()
	u.forget()
	u.m.mu.Unlock()
	u.set(p, "", func(s *State) { s.Failure = "" })
}

// forget ends the wait for a failure to expire. The caller holds m.mu.
func (u *unit) forget() {
	if u.expiry != nil {
		u.expiry.Stop()
		u.expiry = nil
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

// newRun makes a run the unit's. The caller holds op.
func (u *unit) newRun(env Env, r role) *run {
	ctx, cancel := context.WithCancelCause(u.m.closed)
	n := &run{role: r, ctx: ctx, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	u.m.mu.Lock()
	u.run, u.state.Env, u.state.Active = n, env, r == active
	u.m.mu.Unlock()
	return n
}

// begin returns the run that is to bring the service to a role: the live one if that role is not
// beyond it, or a new one that waits for those in before which this service comes after.
func (u *unit) begin(ctx context.Context, env Env, want role, before map[*unit]*run) (*run, error) {
	if err := u.hold(ctx); err != nil {
		return nil, err
	}
	defer u.release()
	former := u.current()
	switch {
	case former == nil:
	case !former.live():
		<-former.done
		former = nil
	case former.role >= want:
		u.m.mu.Lock()
		u.state.Env = env // for its restarts
		u.m.mu.Unlock()
		return former, nil
	}
	return u.launch(env, want, former, before), nil
}

// launch starts a run. The caller holds op.
func (u *unit) launch(env Env, want role, former *run, before map[*unit]*run) *run {
	r := u.newRun(env, want)
	r.former = former
	if former == nil {
		u.set(Starting, "")
	}
	wait := map[string]*run{}
	for _, a := range u.cfg.After {
		if b := u.m.units[a]; before[b] != nil {
			wait[a] = before[b]
		}
	}
	go func() {
		defer close(r.done)
		defer r.cancel(nil)
		if former != nil {
			r.relieve(former)
			u.set(Starting, "promoting")
		}
		u.life(r, wait)
	}()
	return r
}

// errRelieved ends a run whose service goes on in another role.
var errRelieved = errors.New("taken over by a start of another role")

// relieve ends the former run, once it has brought the service up.
func (r *run) relieve(former *run) {
	select {
	case <-former.ready:
	case <-r.ctx.Done():
	}
	former.cancel(errRelieved)
	<-former.done
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
	u.end()
	if u.known && !u.dirty {
		u.set(Stopped, "")
		return nil
	}
	u.set(Stopping, "")
	if err := u.stopDriver(ctx); err != nil {
		u.set(Failed, err.Error())
		return err
	}
	u.set(Stopped, "")
	return nil
}

// end ends the run, if any, and waits for that. The caller holds op.
func (u *unit) end() {
	if r := u.current(); r != nil {
		r.cancel(ErrStopped)
		<-r.done
		r.stopped = true
	}
}

// stopDriver stops what runs, from whichever role.
func (u *unit) stopDriver(ctx context.Context) error {
	env := u.env()
	if u.cfg.Warm && !u.unranked {
		if err := u.driver.demote(ctx, env); err != nil && ctx.Err() == nil {
			u.m.log.Warn("service did not demote before its stop", "service", u.cfg.Name, "error", err)
		}
	}
	if err := u.driver.stop(ctx, env); err != nil {
		return err
	}
	u.known, u.dirty, u.unranked = true, false, false
	return nil
}

// demote brings a warm service from active to standby, and stops it if it cannot be demoted.
// Whether it runs is looked for if it is not known.
func (u *unit) demote(ctx context.Context, env Env) error {
	if err := u.hold(ctx); err != nil {
		return err
	}
	defer u.release()
	if r := u.current(); r != nil && r.live() && r.role == standby {
		return nil
	}
	u.end()
	if u.known && (!u.dirty || u.unranked) {
		return nil
	}
	runs := true
	if !u.known {
		r, err := u.driver.find(ctx, env)
		if err == nil && r == gone {
			u.known, u.dirty = true, false
			return nil
		}
		runs = err == nil
	}
	u.set(Stopping, "demoting")
	err := u.driver.demote(ctx, env)
	if err == nil {
		// What only may run is started after this: that is harmless if it does.
		u.known, u.dirty, u.unranked = runs, runs, runs
		return nil
	}
	if ctx.Err() == nil {
		u.m.log.Warn("service did not demote: it is stopped", "service", u.cfg.Name, "error", err)
		err = u.stopDriver(ctx)
	}
	if err != nil {
		u.set(Failed, err.Error())
	}
	return err
}

// adopt watches a service that runs already.
func (u *unit) adopt(ctx context.Context, env Env) bool {
	if u.hold(ctx) != nil {
		return false
	}
	defer u.release()
	if r := u.current(); r != nil {
		if r.live() {
			return false
		}
		<-r.done
	}
	found, err := u.driver.find(ctx, env)
	if errors.Is(err, errUnknown) && len(u.probes) > 0 && u.probe(ctx) == nil {
		found, err = active, nil
	}
	if err != nil || found == gone {
		u.m.log.Debug("service not adopted", "service", u.cfg.Name, "error", err)
		if err != nil && !errors.Is(err, errUnknown) {
			u.known, u.dirty = true, true // something runs, and is not good: it is stopped before it is started
		}
		return false
	}
	r := u.newRun(env, found)
	u.known, u.dirty, u.unranked = true, true, found == standby
	r.settled = true // before anybody else can see it
	close(r.ready)
	u.arrived(found)
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
	if errors.Is(err, ErrStopped) || errors.Is(err, ErrClosed) || errors.Is(err, errRelieved) {
		return // they say what becomes of it
	}
	u.m.mu.Lock()
	u.forget()
	if u.m.closed.Err() == nil {
		u.failures++
		n := u.failures
		u.expiry = time.AfterFunc(u.cfg.Restart.Within, func() { u.expire(n) })
	}
	u.m.mu.Unlock()
	u.set(Failed, err.Error(), func(s *State) { s.Failure = err.Error() })
}

// expire is the end of a failure: it does not speak against this node any more. The service is tried
// again, unless it was stopped since: then it is another node's, or nobody's.
func (u *unit) expire(failure uint64) {
	if u.hold(u.m.closed) != nil {
		return
	}
	defer u.release()
	u.m.mu.Lock()
	expired, r, env := u.expiry != nil && u.failures == failure, u.run, u.state.Env
	if expired {
		u.expiry, u.state.Failure = nil, ""
	}
	u.m.mu.Unlock()
	switch {
	case !expired: // it is up meanwhile, or was given up again
	case !r.gaveUp():
		u.change()
	default:
		<-r.done
		u.m.log.Info("service is tried again: its failure has expired", "service", u.cfg.Name)
		u.launch(env, r.role, nil, nil)
	}
}

// gaveUp reports whether the run has ended by itself, and nobody has stopped the service since.
func (r *run) gaveUp() bool { return !r.live() && !r.stopped }

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
		err := u.watch(r)
		if err == nil { // cancelled
			return
		}
		u.unranked = false // in no role: a restart begins with a stop
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
			if errors.Is(failure, errInVain) {
				return failure
			}
			if !r.mayRestart(u.cfg.Restart, time.Now()) {
				return fmt.Errorf("%w (no restart is left: %d within %v)", failure, u.cfg.Restart.Times, u.cfg.Restart.Within)
			}
			u.m.log.Warn("service restarts", "service", u.cfg.Name, "error", failure)
			u.set(Starting, "restarting: "+failure.Error(), func(s *State) { s.Restarts++ })
			if row > 1 && !pause(r.ctx, restartPause) {
				return context.Cause(r.ctx)
			}
		}
		if failure = u.startOnce(r.ctx, r.role); failure == nil {
			u.arrived(r.role)
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

// startOnce brings the service to a role and waits for the first good check there. What a former
// start left is stopped before, unless it is in standby: that is what a warm service is warm for.
func (u *unit) startOnce(ctx context.Context, want role) error {
	began, env := time.Now(), u.env()
	if !u.unranked {
		if err := u.startDriver(ctx, env); err != nil {
			return err
		}
	}
	u.unranked = false
	if want == active && u.cfg.Warm {
		began = time.Now()
		if err := u.driver.promote(ctx, env); err != nil {
			return err
		}
	}
	if err := u.ready(ctx, want, began); err != nil {
		return err
	}
	u.unranked = want == standby
	return nil
}

func (u *unit) startDriver(ctx context.Context, env Env) error {
	if u.dirty {
		if err := u.stopDriver(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			u.m.log.Warn("service did not stop before its restart", "service", u.cfg.Name, "error", err)
		}
	}
	u.known, u.dirty = true, true
	return u.driver.start(ctx, env)
}

// ready waits for a good check, for as long as a start may take since it began. It returns the last
// bad one's error when that time, or ctx, ends.
func (u *unit) ready(ctx context.Context, want role, began time.Time) error {
	if limit := u.driver.startLimit(); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, began.Add(limit), errTimeLimit)
		defer cancel()
	}
	var last error
	for wait := readyPoll; ; wait = min(2*wait, max(u.every(want), readyPoll)) {
		err := u.check(ctx, want)
		if err == nil {
			return nil
		}
		if last != nil && ctx.Err() != nil { // the check was cut off, and says only that
			err = last
		}
		last = err
		if !u.pauseOrChange(ctx, wait) {
			return fmt.Errorf("not ready in time: %w", err)
		}
	}
}

// pauseOrChange waits for a time or for what tells a change, and reports whether ctx still runs.
func (u *unit) pauseOrChange(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-u.driver.changed():
	case <-ctx.Done():
		return false
	}
	return true
}

// every is how often a service in a role is looked at; 0: never, or only when something tells.
func (u *unit) every(r role) time.Duration {
	if every := u.driver.every(r); every > 0 || r != active || len(u.probes) == 0 {
		return every
	}
	return u.cfg.Every
}

// watch checks the service until the check has been bad Fall times in a row, or is sure, and returns
// its error; nil if the run ends first.
func (u *unit) watch(r *run) error {
	var tick <-chan time.Time
	if every := u.every(r.role); every > 0 {
		t := time.NewTicker(every) // a check that takes longer is not run twice in a row: a tick is lost
		defer t.Stop()
		tick = t.C
	}
	bad, good := 0, u.cfg.Rise // in a row
	for {
		counts := true // a change is no reason to be less patient
		select {
		case <-tick:
		case <-u.driver.changed():
			counts = false
		case <-r.ctx.Done():
			return nil
		}
		err := u.check(r.ctx, r.role)
		switch {
		case r.ctx.Err() != nil:
			return nil
		case cannotLook(err):
			u.m.log.Warn("check not run: it counts neither way", "service", u.cfg.Name, "error", err)
		case errors.Is(err, errGone):
			return err
		case err != nil:
			if good = 0; counts {
				bad++
			}
			if bad >= u.cfg.Fall {
				return err
			}
			u.set(Failing, err.Error())
		case counts:
			bad, good = 0, good+1
			if good == u.cfg.Rise {
				u.arrived(r.role)
			}
		}
	}
}

// cannotLook tells what is this process's own want from what is the service's. To move the service
// for it would help nobody: the other node's check is another process.
func cannotLook(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EAGAIN) || errors.Is(err, errNotLooked)
}

// check asks the driver, and then as clients would: of a service in standby there are none.
func (u *unit) check(ctx context.Context, want role) error {
	if err := u.driver.look(ctx, u.env(), want); err != nil {
		return err
	}
	if want != active {
		return nil
	}
	return u.probe(ctx)
}

func (u *unit) probe(ctx context.Context) error {
	for _, p := range u.probes {
		if err := p(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (u *unit) env() Env {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	return u.state.Env
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
