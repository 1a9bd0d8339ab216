// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	busRetry   = time.Second // between attempts to reach a bus that was lost
	busAnswer  = 5 * time.Second
	busBacklog = 1024 // changes of units that wait to be looked at
)

// bus follows units by systemd's signals. It connects when it is needed first, and again when the
// connection is lost.
type bus struct {
	log  *slog.Logger
	dial func(...dbus.ConnOption) (*dbus.Conn, error)
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	connecting sync.Mutex // held while a connection is made

	mu     sync.Mutex // guards what follows, and the units' states
	conn   *connection
	units  []*busUnit
	closed bool
}

// connection is one to systemd; lost is closed when it has ended.
type connection struct {
	*systemd.Conn
	lost <-chan struct{}
}

// busUnit is what is known of one unit.
type busUnit struct {
	bus     *bus
	name    string        // as configured
	changed chan struct{} // has a value after a change

	// guarded by bus.mu
	id    string // what systemd calls it: name may be an alias
	state unitState
	known bool
}

// unitState is in the words of org.freedesktop.systemd1(5).
type unitState struct{ load, active, sub string }

func newBus(log *slog.Logger) *bus {
	b := &bus{log: log, dial: dbus.ConnectSystemBus}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

func (b *bus) unit(name string) *busUnit {
	u := &busUnit{bus: b, name: name, changed: make(chan struct{}, 1)}
	b.units = append(b.units, u)
	return u
}

// connected returns the connection, making one if there is none.
func (b *bus) connected(ctx context.Context) (*connection, error) {
	type result struct {
		c   *connection
		err error
	}
	made := make(chan result, 1)
	go func() { // a bus that does not answer must not hold up who gives up
		c, err := b.ensure()
		made <- result{c, err}
	}()
	select {
	case r := <-made:
		return r.c, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("reach systemd over D-Bus: %w", context.Cause(ctx))
	}
}

func (b *bus) ensure() (*connection, error) {
	b.connecting.Lock()
	defer b.connecting.Unlock()
	b.mu.Lock()
	c, closed := b.conn, b.closed
	b.mu.Unlock()
	switch {
	case c != nil:
		return c, nil
	case closed:
		return nil, ErrClosed
	}
	c, updates, overrun, err := b.connect()
	if err != nil {
		return nil, fmt.Errorf("reach systemd over D-Bus: %w: is dbus running on this host, with systemd as its first process?", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		c.Close()
		return nil, ErrClosed
	}
	b.conn = c
	b.wg.Go(func() {
		b.refresh(b.ctx, c) // from here on no change is missed; what they are now has to be asked
		b.follow(c, updates, overrun)
	})
	return c, nil
}

func (b *bus) connect() (*connection, <-chan *systemd.PropertiesUpdate, <-chan error, error) {
	lost, end := context.WithCancel(b.ctx)
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) { // it makes two: for calls, and for signals
		raw, err := b.dial(dbus.WithContext(b.ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
		if err == nil {
			context.AfterFunc(raw.Context(), end)
		}
		return raw, err
	})
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	updates, overrun := make(chan *systemd.PropertiesUpdate, busBacklog), make(chan error, 1)
	conn.SetPropertiesSubscriber(updates, overrun)
	if err := conn.Subscribe(); err != nil {
		conn.Close()
		return nil, nil, nil, err
	}
	return &connection{conn, lost.Done()}, updates, overrun, nil
}

// follow takes what systemd says of units until the connection is lost.
func (b *bus) follow(c *connection, updates <-chan *systemd.PropertiesUpdate, overrun <-chan error) {
	for {
		select {
		case u := <-updates:
			b.take(u)
		case <-overrun: // some change was dropped
			b.refresh(b.ctx, c)
		case <-c.lost:
			c.Close()
			b.forget()
			if b.ctx.Err() == nil {
				b.log.Warn("the connection to systemd is lost: units are not watched until it is back")
				b.wg.Go(b.reconnect)
			}
			return
		}
	}
}

func (b *bus) reconnect() {
	for pause(b.ctx, busRetry) {
		if _, err := b.connected(b.ctx); err == nil {
			b.log.Info("the connection to systemd is back")
			return
		}
	}
}

// forget makes all states unknown.
func (b *bus) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = nil
	for _, u := range b.units {
		u.known = false
	}
}

func (b *bus) take(update *systemd.PropertiesUpdate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.units {
		if !u.known || u.id != update.UnitName {
			continue
		}
		s := u.state
		for name, field := range map[string]*string{"LoadState": &s.load, "ActiveState": &s.active, "SubState": &s.sub} {
			if v, ok := update.Changed[name].Value().(string); ok {
				*field = v
			}
		}
		u.put(s)
	}
}

// put keeps a state and wakes who waits for a change. The caller holds bus.mu.
func (u *busUnit) put(s unitState) {
	if u.known && u.state == s {
		return
	}
	u.state, u.known = s, true
	select {
	case u.changed <- struct{}{}:
	default: // it will look anyway
	}
}

// refresh asks for the states of all units.
func (b *bus) refresh(ctx context.Context, c *connection) {
	for _, u := range b.units {
		if err := u.ask(ctx, c); err != nil {
			b.log.Debug("unit not looked at", "unit", u.name, "error", err)
		}
	}
}

// ask asks for the unit's state.
func (u *busUnit) ask(ctx context.Context, c *connection) error {
	ctx, cancel := context.WithTimeout(ctx, busAnswer)
	defer cancel()
	p, err := c.GetUnitPropertiesContext(ctx, u.name)
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", u.name, err)
	}
	word := func(name string) string { s, _ := p[name].(string); return s }
	u.bus.mu.Lock()
	defer u.bus.mu.Unlock()
	u.id = word("Id")
	u.put(unitState{load: word("LoadState"), active: word("ActiveState"), sub: word("SubState")})
	return nil
}

// now is the state as it is known.
func (u *busUnit) now() (s unitState, known bool) {
	u.bus.mu.Lock()
	defer u.bus.mu.Unlock()
	return u.state, u.known
}

func (b *bus) close() {
	b.mu.Lock()
	b.closed = true
	c := b.conn
	b.mu.Unlock()
	b.stop()
	if c != nil {
		c.Close()
	}
	b.wg.Wait()
}
