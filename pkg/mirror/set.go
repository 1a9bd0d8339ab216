// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// State is what is known of a set on this node.
type State struct {
	Set        string
	Role       Role
	Generation uint64 // of the role
	// Lag is the age of the last complete copy's start, sent or received; Known: since the daemon's
	// start there was one.
	Lag   time.Duration
	Known bool
	// Running is a run that is under way, by Link ("crossover" or "lan"), since Since.
	Running  bool
	Link     string
	Since    time.Time
	Progress Progress // of a sender's run
	Last     Stats    // of the last complete copy that this node sent
	Runs     uint64   // that ended well, since the daemon's start
	Failures uint64   // and that did not
	Sent     uint64   // bytes on the wire
	Error    string   // why the last run failed; empty: it did not
	// WholeAt is the generation that the data is all of, by ownership or by a complete copy; Whole: it
	// is the highest that is known, and the other node has not said since the daemon's start that its data is newer.
	WholeAt uint64
	Whole   bool
	Unseen  string // why changes wait for the interval, at least in part
}

// set is one mirror set on this node.
type set struct {
	m      *Manager
	cfg    *config.Mirror
	orders chan order

	following sync.Mutex // a change of role, or a sender's admission, one at a time

	mu       sync.Mutex // guards what follows
	state    State
	complete time.Time // the last complete copy's start
	failing  bool      // as it was told last
	stop     context.CancelCauseFunc
	stopped  chan struct{} // the sender's goroutine has ended
	wake     chan struct{} // one place: try again at once
	inbound  *session
	theirs   past                 // of the other node's data, as it said last
	arrived  map[string]directory // paths of a copy that is not complete yet
}

// order is a run that somebody waits for.
type order struct {
	ctx  context.Context
	kind kind
	done chan<- result
}

type result struct {
	stats Stats
	err   error
}

func newSet(m *Manager, cfg *config.Mirror) *set {
	return &set{m: m, cfg: cfg, orders: make(chan order), wake: make(chan struct{}, 1), state: State{Set: cfg.Name}}
}

// identity is the one that the set belongs to.
func (s *set) identity() string {
	for _, id := range s.m.Config.Identities {
		if slices.Contains(id.Mirror, s.cfg.Name) {
			return id.Name
		}
	}
	return ""
}

func (s *set) view() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.state
	if v.Known = !s.complete.IsZero(); v.Known {
		v.Lag = time.Since(s.complete)
	}
	v.WholeAt = s.m.memory.whole(s.cfg.Name)
	v.Whole = v.WholeAt == s.m.memory.generation(s.cfg.Name) && !s.m.memory.past(s.cfg.Name).behind(s.theirs)
	return v
}

// change changes what view shows.
func (s *set) change(f func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
}

// told notes what the other node's data has gone through.
func (s *set) told(p past) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.theirs = p
}

// alone is Manager.Alone.
func (s *set) alone(generation uint64) error {
	err := s.m.memory.alone(s.cfg.Name, generation) // in force without the disk, too
	s.nudge()
	return err
}

var errRoleEnded = errors.New("the node's role has changed")

// follow takes a role at a generation; see Manager.Follow.
func (s *set) follow(generation uint64, role Role) error {
	s.following.Lock()
	defer s.following.Unlock()
	if s.m.ended.Load() {
		role = None
	}
	if seen := s.m.memory.generation(s.cfg.Name); generation < seen && role != None {
		return fmt.Errorf("%w: %d, this is %d", ErrStale, seen, generation)
	}
	s.mu.Lock()
	same := s.state.Role == role && s.state.Generation == generation
	s.mu.Unlock()
	if same {
		s.nudge()
		return nil
	}
	err := s.stopSending(errRoleEnded)
	if in := s.receiving(); in != nil && (role != Standby || in.generation < generation) {
		err = errors.Join(err, in.end(errRoleEnded))
	}
	err = errors.Join(err, s.m.memory.raise(s.cfg.Name, generation)) // in force without the disk, too
	s.change(func(v *State) { v.Role, v.Generation, v.Error, s.failing = role, generation, "", false })
	if role == Owner { // what was said of the data before is no word on what is served from here on
		err = errors.Join(err, usedUp(s.overwrite()), s.m.memory.own(s.cfg.Name, generation))
		s.startSending(generation)
	}
	return err
}

func (s *set) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *set) receiving() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inbound
}

func (s *set) startSending(generation uint64) {
	ctx, stop := context.WithCancelCause(context.Background())
	ended := make(chan struct{})
	s.mu.Lock()
	s.stop, s.stopped = stop, ended
	s.mu.Unlock()
	go func() {
		defer close(ended)
		newSender(s, generation).run(ctx)
	}()
}

// stopSending ends the sender and waits for its processes' end. They only read: one that hangs is left to itself.
func (s *set) stopSending(why error) error {
	s.mu.Lock()
	stop, ended := s.stop, s.stopped
	s.stop, s.stopped = nil, nil
	s.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop(why)
	select {
	case <-ended:
		return nil
	case <-time.After(endTime):
		return errors.New("a run that was sent does not end: look for a process rsync that hangs")
	}
}

func (s *set) order(ctx context.Context, k kind) (Stats, error) {
	s.mu.Lock()
	ended := s.stopped
	s.mu.Unlock()
	if ended == nil {
		return Stats{}, fmt.Errorf("%s does not own it: ask the owner", s.m.self())
	}
	done := make(chan result, 1)
	select {
	case s.orders <- order{ctx, k, done}:
	case <-ctx.Done():
		return Stats{}, context.Cause(ctx)
	case <-ended:
		return Stats{}, errRoleEnded
	}
	r := <-done // a run ends with its context
	return r.stats, r.err
}
