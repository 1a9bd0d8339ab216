// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"time"
)

// How long a failed run waits to be tried again, doubled each time.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// longestPause is how long a change may wait in a set where most changes are of nothing that is copied.
const longestPause = 5 * time.Second

// sender copies a set to the other node for as long as this node owns it at one generation. It runs
// in a goroutine of its own, one run at a time.
type sender struct {
	*set
	generation uint64
	watcher    *watcher      // nil: changes wait for the interval
	unwatch    func()        // ends it
	pending    changes       // that no run has copied yet
	dueAt      time.Time     // of the next comparison of all
	notBefore  time.Time     // what changes meanwhile is looked at together
	futile     time.Duration // the pause after runs that copied nothing
	retry      time.Duration
}

func newSender(s *set, generation uint64) *sender {
	return &sender{set: s, generation: generation, pending: changes{all: true}, unwatch: func() {}}
}

func (s *sender) run(ctx context.Context) {
	s.keepWatching(ctx)
	defer func() { s.unwatch() }()
	for {
		o, ok := s.next(ctx)
		if !ok {
			return
		}
		if o == nil {
			s.copy(ctx)
			continue
		}
		run, stop := joined(ctx, o.ctx)
		stats, err := s.once(run, o.kind, nil)
		stop()
		if err == nil && o.kind == kindFull {
			s.pending.all = false
			s.settled(stats)
		}
		o.done <- result{stats, err}
	}
}

// joined is a context that ends with either.
func joined(a, b context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(a)
	stop := context.AfterFunc(b, func() { cancel(context.Cause(b)) })
	return ctx, func() { stop(); cancel(nil) }
}

// keepWatching is before the first run, so that nothing falls between, and with each one that is due: it
// begins to watch, and tries again what could not be watched.
func (s *sender) keepWatching(ctx context.Context) {
	switch {
	case !s.cfg.OnChange:
	case s.watcher == nil:
		s.startWatching(ctx)
	case s.watcher.trouble() != nil:
		s.watcher.retry()
	}
}

func (s *sender) startWatching(ctx context.Context) {
	w, err := watch(s.cfg.Paths, s.m.Log)
	if err != nil {
		s.change(func(v *State) { v.Unseen = err.Error() })
		return
	}
	s.watcher = w
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
	s.unwatch = func() {
		cancel()
		<-ended
	}
}

// next waits until something is to be done: an order, or nil if it is time to copy.
func (s *sender) next(ctx context.Context) (o *order, ok bool) {
	var woken <-chan struct{}
	if s.watcher != nil {
		woken = s.watcher.woken
	}
	timer := time.NewTimer(s.wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case o := <-s.orders:
			return &o, true
		case <-timer.C:
			return nil, true
		case <-s.wake:
			if s.retry > 0 || s.behind() {
				s.retry = 0 // what failed then says nothing of now
				return nil, true
			}
		case <-woken:
			woken = nil
			if s.retry == 0 { // else it is among what is tried again
				timer.Reset(max(settle, time.Until(s.notBefore)))
			}
		}
	}
}

// wait is how long nothing is due.
func (s *sender) wait() time.Duration {
	switch {
	case s.retry > 0:
		return s.retry
	case s.pending.any() || s.behind():
		return 0
	}
	return max(0, time.Until(s.dueAt))
}

// behind reports that the other node has had no complete copy of the present term. Until then a part of the changes
// would leave it with data that it does not know to be all of the term.
func (s *sender) behind() bool { return !s.m.memory.past(s.cfg.Name).last().Both }

// copy copies what is due: what has changed, or everything.
func (s *sender) copy(ctx context.Context) {
	if !time.Now().Before(s.dueAt) || s.behind() {
		s.pending = changes{all: true}
		s.keepWatching(ctx)
	}
	if s.watcher != nil {
		s.pending.join(s.watcher.take())
		s.change(func(v *State) { v.Unseen = errorText(s.watcher.trouble()) })
	}
	if !s.pending.any() {
		return
	}
	todo, k := s.pending, kindChanges
	if todo.all {
		k = kindFull
	}
	s.pending = changes{}
	stats, err := s.once(ctx, k, todo.under)
	s.notBefore = time.Now().Add(s.pause(stats, err, k))
	if err == nil && k == kindFull {
		s.settled(stats)
	}
	if s.retry = s.after(err); err != nil {
		s.pending.join(todo)
	}
}

// pause is how long changes are left alone after a run: half of the time at most goes to runs, and
// ever less where changes are of nothing that is copied, as below an excluded directory.
func (s *sender) pause(stats Stats, err error, k kind) time.Duration {
	switch {
	case k != kindChanges || err != nil || stats.Copied+stats.Created+stats.Deleted > 0:
		s.futile = 0
	default:
		s.futile = min(max(settle, 2*s.futile), longestPause)
	}
	return max(stats.Took, s.futile)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// settled is after everything was compared.
func (s *sender) settled(stats Stats) {
	s.dueAt = time.Now().Add(s.cfg.Every)
	s.change(func(v *State) { v.Last = stats })
}

// after is the time to the next try.
func (s *sender) after(err error) time.Duration {
	switch {
	case err == nil:
		return 0
	case isRefused(err, refusedStale), s.retry >= lastRetry/2: // stale: Follow ends it, or it is a mistake that must stay visible
		return lastRetry
	}
	return max(firstRetry, 2*s.retry)
}

// join adds other changes.
func (c *changes) join(o changes) {
	if c.all || o.all {
		*c = changes{all: true}
		return
	}
	for top, dirs := range o.under {
		if c.under == nil {
			c.under = map[string]map[string]bool{}
		}
		if c.under[top] == nil {
			c.under[top] = map[string]bool{}
		}
		for d := range dirs {
			c.under[top][d] = true
		}
	}
}
