// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
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
	Standby // a warm service that runs and is not promoted
)

var phaseNames = [...]string{"stopped", "starting", "up", "failing", "failed", "stopping", "standby"}

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
	// Failure is why it was given up last, for as long as that counts: until it is up, or a restart
	// window has passed since.
	Failure   string
	CalledOff bool // Failed, because its start was called off: that is not the service's failure
	Refused   bool // CalledOff, by Permit: whoever wants it started must start it again
	Env       Env  // of its last start
	Since     time.Time
	Active    bool     // it is for clients to use, or to become so; false: it is in standby, or stopped since its manager was made
	Ports     []uint16 // that clients connect to
}

// Ready reports whether clients can be let in: its check was good after its start, and it was not given up since.
func (s State) Ready() bool { return s.Active && (s.Phase == Up || s.Phase == Failing) }

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
	// Permit is asked right before a service is started or promoted for clients to use, whoever wants
	// that and however long ago, and again when that has begun and when it is done; by its error it
	// refuses it, or has what was begun ended at once. It must not wait. nil: it is permitted. It is
	// set before anything is started.
	Permit func(Env) error
	// Locks is a directory, not of a disk, which may hang, where one who stops a service keeps others
	// from doing so at the same time; empty: nobody else stops them. It is set as Permit is.
	Locks string

	log    *slog.Logger
	units  map[string]*unit
	names  []string // of the units, in configuration order
	groups *groups  // nil: there are no cgroups to be had
	bus    *bus
	dir    string
	closed context.Context
	close  context.CancelCauseFunc

	patience time.Duration // with another process that stops the same service

	notifyMu sync.Mutex // keeps a service's reports in order
	notify   func(State)

	mu sync.Mutex // guards the units' state, env and run
}

// New returns a manager of the services of the daemon that has its files in dir. notify is called
// after every change of a State, one at a time; it must not block, and not wait for the manager.
func New(services []config.Service, dir string, log *slog.Logger, notify func(State)) *Manager {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	var own *groups
	if NeedCgroup(services) {
		var err error
		if own, err = newGroups(dir); err != nil {
			log.Warn("services run without cgroups: what leaves its process group outlives a stop, and use is not measured", "error", err)
		}
	}
	return newManager(services, dir, log, own, notify)
}

func newManager(services []config.Service, dir string, log *slog.Logger, own *groups, notify func(State)) *Manager {
	m := &Manager{log: log, units: map[string]*unit{}, bus: newBus(log), dir: dir, groups: own, notify: notify, patience: stopPatience}
	m.closed, m.close = context.WithCancelCause(context.Background())
	for _, s := range services {
		m.units[s.Name] = newUnit(m, s)
		m.names = append(m.names, s.Name)
	}
	return m
}

func (m *Manager) newDriver(s config.Service) driver {
	c := commands{service: s.Name, lines: newLineLog(m.log.With("service", s.Name)), group: m.groups.of(s.Name)}
	switch s.Kind() {
	case "systemd":
		return &systemdDriver{bus: m.bus, cfg: s, unit: m.bus.unit(s.Systemd)}
	case "ocf":
		return newOCFDriver(c, s, m.dir)
	}
	return &execDriver{commands: c, cfg: s}
}

// CheckCgroups says why this process cannot give the services of the daemon that has its files in
// dir cgroups of their own; nil if it can.
func CheckCgroups(dir string) error {
	dir, err := filepath.Abs(dir)
	if err == nil {
		_, err = newGroups(dir)
	}
	return err
}

// NeedCgroup reports whether any of the services would have a cgroup from this daemon: systemd makes
// those of its units.
func NeedCgroup(services []config.Service) bool {
	return slices.ContainsFunc(services, func(s config.Service) bool { return s.Kind() != "systemd" })
}

// Prepare gets ready what a start would have to wait for, and returns what is missing on this host:
// joined errors, one for each service that misses something.
func (m *Manager) Prepare(ctx context.Context) error {
	errs := make([]error, len(m.names))
	var wg sync.WaitGroup
	for i, n := range m.names {
		wg.Go(func() {
			if err := m.units[n].driver.prepare(ctx); err != nil {
				errs[i] = fmt.Errorf("service %s: %w", n, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
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

// Start brings the named services to where clients can use them: each when those of them that it
// comes after are up. A warm one that is in standby is promoted. It returns when each is up or has
// failed. One that is up already is left alone. When ctx ends first, the starts that are under way
// are cancelled.
func (m *Manager) Start(ctx context.Context, names []string, env Env) error {
	units, err := m.pick(names)
	if err != nil {
		return fmt.Errorf("start services: %w", err)
	}
	return m.bring(ctx, units, env, active)
}

// Standby brings the named services to where they are on a node that does not own their identity:
// the warm ones run and are not promoted, all others are stopped. First each that is beyond that
// goes back, when those of them that come after it have; then the warm ones that do not run start.
func (m *Manager) Standby(ctx context.Context, names []string, env Env) error {
	units, err := m.pick(names)
	if err != nil {
		return fmt.Errorf("put services into standby: %w", err)
	}
	for _, u := range units {
		if !u.cfg.Warm {
			u.interrupt()
		}
	}
	down := m.takeDown(units, func(u *unit) error {
		if u.cfg.Warm {
			return u.demote(ctx, env)
		}
		return u.stop(ctx)
	})
	warm := slices.DeleteFunc(slices.Clone(units), func(u *unit) bool { return !u.cfg.Warm })
	return errors.Join(down, m.bring(ctx, warm, env, standby))
}

// bring brings units, in their order, to a role.
func (m *Manager) bring(ctx context.Context, units []*unit, env Env, want role) error {
	runs := make(map[*unit]*run, len(units))
	for _, u := range units { // before-first, so that the runs to wait for exist
		r, err := u.begin(ctx, env, want, runs)
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
	for _, u := range units {
		u.interrupt() // no new start or restart from here on
	}
	return m.takeDown(units, func(u *unit) error { return u.stop(ctx) })
}

// takeDown does something to each unit when that is done to those of them that come after it.
func (m *Manager) takeDown(units []*unit, do func(*unit) error) error {
	done := make(map[*unit]chan struct{}, len(units))
	for _, u := range units {
		done[u] = make(chan struct{})
	}
	errs := make([]error, len(units))
	for i, u := range units {
		go func() {
			defer close(done[u])
			for _, later := range units {
				if slices.Contains(later.cfg.After, u.cfg.Name) {
					<-done[later]
				}
			}
			if err := do(u); err != nil {
				errs[i] = fmt.Errorf("stop %s: %w", u.cfg.Name, err)
			}
		}()
	}
	for _, d := range done {
		<-d
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
		u.forget()
		m.mu.Unlock()
		if r != nil {
			<-r.done
		}
		u.op <- struct{}{} // after a stop under way
		u.driver.close()
		u.release()
	}
	m.bus.close()
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
