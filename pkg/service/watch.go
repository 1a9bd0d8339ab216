// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// readyPoll is the first wait between checks of a service that starts; it doubles up to its Every.
const readyPoll = 50 * time.Millisecond

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
