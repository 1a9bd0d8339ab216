// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// restartPause is before each restart but the first of a row.
const restartPause = 500 * time.Millisecond

// run is the time from a start to its stop, or to the start of another role.
type run struct {
	role   role // that it brings the service to, and keeps it in
	ctx    context.Context
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when it is up for the first time, or err says why not
	err    error
	done   chan struct{} // closed when nothing of it runs

	settled  bool        // ready is, or is about to be, closed; guarded by m.mu
	stopped  bool        // by end; who holds op touches it
	restarts []time.Time // those of the window
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

// launch starts a run. former is one of a lower role that still runs; nil: none does. The caller holds op.
func (u *unit) launch(env Env, want role, former *run, before map[*unit]*run) *run {
	r := u.newRun(env, want)
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
	switch {
	case errors.Is(err, context.Canceled): // whoever called the start off: it says nothing of the service
		u.set(Failed, err.Error(), func(s *State) { s.CalledOff = true })
		return
	case NotPermitted(err): // nor does this
		u.set(Failed, err.Error(), func(s *State) { s.CalledOff, s.Refused = true, true })
		return
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
			if NotPermitted(failure) {
				return failure
			}
			if errors.Is(failure, errInVain) {
				return fmt.Errorf("%w (a restart here would not mend it)", failure)
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
		if err := u.startDriver(ctx, env, want); err != nil {
			return err
		}
	}
	if want == active && u.cfg.Warm {
		began = time.Now()
		if err := u.begun(ctx, env, want, u.driver.promote); err != nil {
			return err
		}
	}
	u.unranked = false
	if err := u.ready(ctx, want, began); err != nil {
		return err
	}
	u.unranked = want == standby
	return nil
}

func (u *unit) startDriver(ctx context.Context, env Env, want role) error {
	if u.dirty {
		if err := u.stopDriver(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			u.m.log.Warn("service did not stop before its restart", "service", u.cfg.Name, "error", err)
		}
	}
	return u.begun(ctx, env, want, u.driver.start)
}

// begun starts or promotes the service, if that is permitted. What was begun without is ended at once:
// the permission may have gone while this process stood still.
func (u *unit) begun(ctx context.Context, env Env, want role, begin func(context.Context, Env, leave) error) error {
	known, dirty, unranked := u.known, u.dirty, u.unranked
	u.known, u.dirty, u.unranked = true, true, false
	l := u.leave(env, want)
	err := begin(ctx, env, l)
	if errors.Is(err, errRefused) {
		u.known, u.dirty, u.unranked = known, dirty, unranked
		return err
	}
	overruled := err
	if !errors.Is(err, errOverruled) {
		if overruled = l.after(); overruled == nil {
			return err
		}
	}
	u.m.log.Warn("service is ended at once", "service", u.cfg.Name, "error", overruled)
	if err := u.driver.kill(context.WithoutCancel(ctx), u.m.groups.of(u.cfg.Name)); err != nil {
		u.m.log.Warn("service was not killed", "service", u.cfg.Name, "error", err)
	}
	if err := u.stopDriver(ctx); err != nil {
		u.m.log.Warn("service did not stop", "service", u.cfg.Name, "error", err)
	}
	return overruled
}

// leave is what a service needs that clients are to use; in standby it needs none.
func (u *unit) leave(env Env, want role) leave {
	if u.m.Permit == nil || want != active {
		return nil
	}
	return func() error { return u.m.Permit(env) }
}

// NotPermitted tells an error by which a start was refused, or what it began was ended, for Permit did
// not let it: that says nothing of the service.
func NotPermitted(err error) bool { return errors.Is(err, errRefused) || errors.Is(err, errOverruled) }
