// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// againAfter is how soon a daemon that left its reader is asked again.
const againAfter = 50 * time.Millisecond

// Events are those of both nodes, over all restarts of their daemons.
type Events struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	seen map[key]bool
	all  []control.Event
}

type key struct {
	node string
	seq  uint64
	ns   int64
}

// Follow gathers events until Stop.
func Follow(ctx context.Context, l *lab.Lab) *Events {
	ctx, cancel := context.WithCancel(ctx)
	e := &Events{cancel: cancel, seen: map[key]bool{}}
	for _, n := range l.Nodes {
		e.wg.Go(func() { e.follow(ctx, n) })
	}
	return e
}

func (e *Events) follow(ctx context.Context, n *lab.Node) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	for Pause(ctx, againAfter) == nil {
		// An end is no news: the daemon may be down because the benchmark took it down.
		_ = c.Events(ctx, 0, true, func(v control.Event) error { e.note(v); return nil })
	}
}

func (e *Events) note(v control.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := (key{v.Node, v.Seq, v.TimeNS}); !e.seen[k] {
		e.seen[k] = true
		e.all = append(e.all, v)
	}
}

// Stop returns all of them by their time.
func (e *Events) Stop() []control.Event {
	e.cancel()
	e.wg.Wait()
	slices.SortStableFunc(e.all, func(a, b control.Event) int { return cmp.Compare(a.TimeNS, b.TimeNS) })
	return e.all
}

// From returns those that are known by now and happened from a time on, by their time.
func (e *Events) From(ns int64) (out []control.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.all {
		if v.TimeNS >= ns {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b control.Event) int { return cmp.Compare(a.TimeNS, b.TimeNS) })
	return out
}

// Count is how many of a kind are known to have happened from one time to another.
func (e *Events) Count(kind string, from, to int64) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.all {
		if v.Kind == kind && v.TimeNS >= from && v.TimeNS < to {
			n++
		}
	}
	return n
}
