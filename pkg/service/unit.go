// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
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

func newUnit(m *Manager, cfg config.Service) *unit {
	return &unit{
		m: m, cfg: cfg, op: make(chan struct{}, 1), driver: m.newDriver(cfg), probes: probesOf(cfg),
		state: State{Service: cfg.Name, Since: time.Now(), Ports: cfg.Ports},
	}
}

// set changes the state and reports it.
func (u *unit) set(p Phase, reason string, change ...func(*State)) {
	u.change(append([]func(*State){func(s *State) { s.CalledOff, s.Refused = false, false }}, append(change, func(s *State) {
		if s.Phase != p {
			s.Since = time.Now()
		}
		s.Phase, s.Reason = p, reason
	})...)...)
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
	defer u.stopAlone(ctx)()
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
		if runs = err == nil; !runs && !errors.Is(err, errUnknown) {
			u.known, u.dirty = true, true // something does, and is not good: it is stopped before it is started
		}
	}
	u.set(Stopping, "demoting")
	over := u.stopAlone(ctx)
	err := u.driver.demote(ctx, env)
	over()
	if err == nil {
		if runs { // what only may run is started after this: that is harmless if it does
			u.known, u.dirty, u.unranked = true, true, true
		}
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
	u.known, u.dirty, u.unranked = true, true, found == standby
	if err := u.leave(env, found).before(ctx); err != nil { // a start begins with its stop
		u.m.log.Debug("service not adopted", "service", u.cfg.Name, "error", err)
		return false
	}
	r := u.newRun(env, found)
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

func (u *unit) env() Env {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	return u.state.Env
}
