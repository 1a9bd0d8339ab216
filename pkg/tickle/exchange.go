// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
)

const (
	every = time.Second // that the connections are listed, if that takes not long
	share = 20          // of the time that listing took, that is left alone afterwards
	keep  = 5 * time.Minute
	again = 700 * time.Millisecond // a client answers the first segment of any half second only (tcp_invalid_ratelimit)
)

// Options are what New needs.
type Options struct {
	Config *config.Config
	Line   *line.Line
	Log    *slog.Logger
	// Owned is the generation at which this node owns an identity, if it does.
	Owned func(identity int) (generation uint64, yes bool)
	// Owns reports whether another node owns an identity at a generation, for all that is known here.
	Owns func(node, identity int, generation uint64) bool
	// Heard reports whether a node's daemon can be talked to.
	Heard func(node int) bool
}

// Exchange tells the other nodes of the connections of what this node owns, and keeps what they tell.
type Exchange struct {
	Options

	mu     sync.Mutex // guards what follows
	own    []int      // by identity: how many connections there are of what is owned here
	held   []told     // by identity: what its owner told last
	sent   []uint64   // by identity: segments, but for repeated ones
	failed map[int]bool
}

// told is a list as a node told it, or was told it.
type told struct {
	generation uint64
	list       []Connection
	at         time.Time // zero: nothing was told
}

// New returns an exchange; what other nodes tell comes by the line.
func New(o Options) *Exchange {
	n := len(o.Config.Identities)
	e := &Exchange{Options: o, own: make([]int, n), held: make([]told, n), sent: make([]uint64, n), failed: map[int]bool{}}
	o.Line.Handle(protocol, e.hear)
	return e
}

// Run tells the other nodes what changes until ctx ends.
func (e *Exchange) Run(ctx context.Context) {
	known := make([][]told, len(e.Config.Nodes)) // by node and identity: what it was told last
	for i := range known {
		known[i] = make([]told, len(e.Config.Identities))
	}
	for failing := false; ; {
		begin := time.Now()
		now, err := e.look()
		took := time.Since(begin)
		if err == nil {
			e.tellAll(ctx, now, known)
		} else if !failing {
			e.Log.Warn("clients' connections are not known", "err", err)
		}
		failing = err != nil
		e.forget()
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(every, share*took)):
		}
	}
}

// look lists the connections of what this node owns, by identity.
func (e *Exchange) look() ([]told, error) {
	now := make([]told, len(e.Config.Identities))
	owned := false
	for i, id := range e.Config.Identities {
		if generation, yes := e.Owned(i); yes && !id.NoTickle {
			now[i], owned = told{generation: generation, at: time.Now()}, true
		}
	}
	if owned {
		identityOf := func(a netip.Addr) int {
			return slices.IndexFunc(e.Config.Identities, func(id config.Identity) bool { return id.Has(a) })
		}
		all, err := List(func(a netip.Addr) bool { i := identityOf(a); return i >= 0 && !now[i].at.IsZero() })
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			of := &now[identityOf(c.Local.Addr())]
			of.list = append(of.list, c)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range now {
		e.own[i] = len(now[i].list)
	}
	return now, nil
}

// forget drops what nobody has repeated for long: its owner is gone, and nobody has taken over.
func (e *Exchange) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, h := range e.held {
		if time.Since(h.at) > keep {
			e.held[i] = told{}
		}
	}
}

// State is what is known of an identity.
type State struct {
	Known int    // connections: there are, of what is owned here, or its owner has told of
	Sent  uint64 // segments since the daemon's start, one a client
}

// State returns an identity's.
func (e *Exchange) State(identity int) State {
	_, owned := e.Owned(identity)
	e.mu.Lock()
	defer e.mu.Unlock()
	s := State{len(e.held[identity].list), e.sent[identity]}
	if owned {
		s.Known = e.own[identity]
	}
	return s
}

// Tickle sends the clients whose connections ended with an earlier owner a segment each, if the port can be
// connected to again; each once. It returns how many clients there were and to how many it was sent. For
// what may get lost it is sent once more, later.
func (e *Exchange) Tickle(ctx context.Context, identity int, ready func(port uint16) bool) (clients, sent int, err error) {
	list := e.take(identity, ready)
	if len(list) == 0 {
		return 0, 0, nil
	}
	sent, err = Send(list)
	e.mu.Lock()
	e.sent[identity] += uint64(sent)
	e.mu.Unlock()
	go func() {
		select {
		case <-ctx.Done():
		case <-time.After(again):
			_, _ = Send(list) // what fails has been told
		}
	}()
	return len(list), sent, err
}

// take removes what Tickle sends from what is kept.
func (e *Exchange) take(identity int, ready func(port uint16) bool) (list []Connection) {
	generation, owned := e.Owned(identity)
	e.mu.Lock()
	defer e.mu.Unlock()
	h := &e.held[identity]
	if !owned || h.generation >= generation {
		return nil
	}
	var wait []Connection
	for _, c := range h.list {
		if ready(c.Local.Port()) {
			list = append(list, c)
		} else {
			wait = append(wait, c)
		}
	}
	h.list = wait
	return list
}

// accept keeps what a node tells of an identity, if it is the owner's word.
func (e *Exchange) accept(node int, o offer, list []Connection) error {
	i := slices.IndexFunc(e.Config.Identities, func(id config.Identity) bool { return id.Name == o.Identity })
	if i < 0 || e.Config.Identities[i].NoTickle {
		return fmt.Errorf("connections of %q are not kept: copy the configuration", o.Identity)
	}
	for _, c := range list {
		if !e.Config.Identities[i].Has(c.Local.Addr()) {
			return fmt.Errorf("%v is no connection of %s: copy the configuration", c, o.Identity)
		}
	}
	if !e.Owns(node, i, o.Generation) {
		return fmt.Errorf("%s is not known to own %s at generation %d", e.Config.Nodes[node].Name, o.Identity, o.Generation)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held[i] = told{o.Generation, list, time.Now()}
	return nil
}
