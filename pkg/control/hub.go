// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed ends the readers of a closed hub.
var ErrClosed = errors.New("event hub closed")

// Hub keeps the last events and lets any number of readers follow at their own
// pace: each holds a place in the ring and nothing else, so that a slow reader
// costs the publisher nothing and is told what it missed.
type Hub struct {
	mu     sync.Mutex
	ring   []Event
	last   uint64        // number of the newest event; its place is (last-1) % len(ring)
	grown  chan struct{} // closed at the next event
	closed bool
}

// NewHub returns a hub that keeps size events.
func NewHub(size int) *Hub {
	return &Hub{ring: make([]Event, max(size, 1)), grown: make(chan struct{})}
}

// Publish numbers the event, keeps it and returns its number. It never blocks.
// The event's Fields must not be changed afterwards.
func (h *Hub) Publish(e Event) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0
	}
	h.last++
	e.Seq = h.last
	h.ring[(h.last-1)%uint64(len(h.ring))] = e
	close(h.grown)
	h.grown = make(chan struct{})
	return e.Seq
}

// Close ends every reader once it has read what there is.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.grown)
	}
}

// Reader reads a hub from one place on. It is for one goroutine.
type Reader struct {
	hub  *Hub
	next uint64
}

// Read returns a reader of the events after number since. A since beyond the
// newest is of an earlier run of the daemon: such a reader gets all there is.
func (h *Hub) Read(since uint64) *Reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since > h.last {
		since = 0
	}
	r := &Reader{hub: h, next: since + 1}
	if since == 0 { // who asks for all misses nothing of what is gone already
		r.next = h.oldest()
	}
	return r
}

// oldest is the number of the oldest event in the ring.
func (h *Hub) oldest() uint64 {
	if n := uint64(len(h.ring)); h.last > n {
		return h.last - n + 1
	}
	return 1
}

// Ready returns the events that are there, and how many before them were lost
// to this reader. It does not wait.
func (r *Reader) Ready() (events []Event, missed uint64) {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	return r.ready()
}

func (r *Reader) ready() (events []Event, missed uint64) {
	h := r.hub
	if oldest := h.oldest(); r.next < oldest {
		missed = oldest - r.next
		r.next = oldest
	}
	for ; r.next <= h.last; r.next++ {
		events = append(events, h.ring[(r.next-1)%uint64(len(h.ring))])
	}
	return events, missed
}

// Next waits for at least one event. It returns ctx's error, or ErrClosed.
func (r *Reader) Next(ctx context.Context) (events []Event, missed uint64, err error) {
	for {
		r.hub.mu.Lock()
		events, missed = r.ready()
		grown, closed := r.hub.grown, r.hub.closed
		r.hub.mu.Unlock()
		if len(events) > 0 {
			return events, missed, nil
		}
		if closed {
			return nil, 0, ErrClosed
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}
