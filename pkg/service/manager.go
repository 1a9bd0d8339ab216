// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// Phase is where a service is in its life.
type Phase uint8

// The phases.
const (
	Stopped  Phase = iota
	Starting       // or waiting for those it comes after, or being restarted
	Up
	Failing // up, but its check is bad; not yet often enough
	Failed  // given up: it failed more often than its restart window allows, or its stop failed
	Stopping
)

var phaseNames = [...]string{"stopped", "starting", "up", "failing", "failed", "stopping"}

func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// State is what is known of a service.
type State struct {
	Service  string
	Phase    Phase
	Restarts uint64 // since this manager was made
	Reason   string // why it is not up
	Env      Env    // of its last start
	Since    time.Time
}

// Env is what a service is started for.
type Env struct {
	Identity   string // empty: a concurrent service
	Generation uint64
	Node       string
}

// Errors for which a caller may have another answer than to report them.
var (
	// ErrStopped ends a Start whose service is being stopped.
	ErrStopped = errors.New("stopped meanwhile")
	// ErrClosed ends what still runs when the manager is closed.
	ErrClosed = errors.New("service manager closed")
)

// Manager runs the services of one node.
type Manager struct {
	log    *slog.Logger
	units  map[string]*unit
	names  []string // of the units, in configuration order
	closed context.Context
	close  context.CancelCauseFunc

	notifyMu sync.Mutex // keeps a service's reports in order
	notify   func(State)

	mu sync.Mutex // guards the units' state, env and run
}

// New returns a manager of the services. notify is called after every change of
// a State, one at a time; it must not block, and not wait for the manager.
func New(services []config.Service, log *slog.Logger, notify func(State)) *Manager {
	m := &Manager{log: log, units: map[string]*unit{}, notify: notify}
	m.closed, m.close = context.WithCancelCause(context.Background())
	for _, s := range services {
		m.units[s.Name] = newUnit(m, s)
		m.names = append(m.names, s.Name)
	}
	return m
}

// States returns all services' states, in configuration order.
func (m *Manager) States() []State {
	m.mu.Lock()
	defer m.mu.Unlock()
	states := make([]State, 0, len(m.names))
	for _, n := range m.names {
		states = append(states, m.units[n].state)
	}
	return states
}

// State returns one service's state.
func (m *Manager) State(name string) (State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, ok := m.units[name]
	if !ok {
		return State{}, false
	}
	return u.state, true
}

// Start starts the named services, each when those of them that it comes after
// are up, and returns when each is up or has failed. One that is up already is
// left alone. When ctx ends first, the starts that are under way are cancelled.
func (m *Manager) Start(ctx context.Context, names []string, env Env) error {
	units, err := m.pick(names)
	if err != nil {
		return fmt.Errorf("start services: %w", err)
	}
	runs := make(map[*unit]*run, len(units))
	for _, u := range units { // before-first, so that the runs to wait for exist
		r, err := u.begin(ctx, env, runs)
		if err != nil {
			for _, r := range runs {
				m.abandon(r, err)
			}
			return fmt.Errorf("start %s: %w", u.cfg.Name, err)
		}
		runs[u] = r
	}
	errs := make([]error, 0, len(units))
	for _, u := range units {
		r := runs[u]
		select {
		case <-r.ready:
		case <-ctx.Done():
			m.abandon(r, context.Cause(ctx))
			<-r.ready
		}
		if r.err != nil {
			<-r.done
			errs = append(errs, fmt.Errorf("start %s: %w", u.cfg.Name, r.err))
		}
	}
	return errors.Join(errs...)
}

// Stop stops the named services, each when those of them that come after it
// have stopped. A start under way is cancelled. It goes on after a failure, and
// returns them all. One that is known to be stopped is left alone.
func (m *Manager) Stop(ctx context.Context, names []string) error {
	units, err := m.pick(names)
	if err != nil {
		return fmt.Errorf("stop services: %w", err)
	}
	stopped := make(map[*unit]chan struct{}, len(units))
	for _, u := range units {
		stopped[u] = make(chan struct{})
		u.interrupt() // no new start or restart from here on
	}
	errs := make([]error, len(units))
	for i, u := range units {
		go func() {
			defer close(stopped[u])
			for _, later := range units {
				if slices.Contains(later.cfg.After, u.cfg.Name) {
					<-stopped[later]
				}
			}
			if err := u.stop(ctx); err != nil {
				errs[i] = fmt.Errorf("stop %s: %w", u.cfg.Name, err)
			}
		}()
	}
	for _, done := range stopped {
		<-done
	}
	return errors.Join(errs...)
}

// Adopt takes those of the named services that run already, as their check
// says, and watches them from now on. It returns their names. One that has no
// check, or is being managed already, is not adopted.
func (m *Manager) Adopt(ctx context.Context, names []string, env Env) ([]string, error) {
	units, err := m.pick(names)
	if err != nil {
		return nil, fmt.Errorf("adopt services: %w", err)
	}
	good := make([]bool, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() { good[i] = u.adopt(ctx, env) })
	}
	wg.Wait()
	var adopted []string
	for i, u := range units {
		if good[i] {
			adopted = append(adopted, u.cfg.Name)
		}
	}
	return adopted, ctx.Err()
}

// Close ends the watching and leaves the services as they are; starts under way
// are cancelled. The manager starts nothing after it.
func (m *Manager) Close() {
	m.close(ErrClosed)
	for _, u := range m.units {
		m.mu.Lock()
		r := u.run
		m.mu.Unlock()
		if r != nil {
			<-r.done
		}
		u.op <- struct{}{} // after a stop under way
		u.setOut(nil)
		u.release()
	}
}

// pick returns the units in an order in which each comes after those it must.
func (m *Manager) pick(names []string) ([]*unit, error) {
	var order []*unit
	const onPath, placed = 1, 2
	mark := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		u, ok := m.units[name]
		switch {
		case !ok:
			return fmt.Errorf("no service is named %q", name)
		case mark[name] == onPath:
			return fmt.Errorf("service %s comes after itself", name)
		case mark[name] == placed:
			return nil
		}
		mark[name] = onPath
		for _, a := range u.cfg.After {
			if slices.Contains(names, a) { // the order of others is not this call's
				if err := visit(a); err != nil {
					return err
				}
			}
		}
		mark[name] = placed
		order = append(order, u)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}
