// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// watchSettled is after how long a subscription that fails counts as the first one to do so again.
	watchSettled = 10 * time.Second
	// watchBackoff is the wait after the first failure; it doubles with each further one, up to watchBackoffMost.
	watchBackoff     = 5 * time.Millisecond
	watchBackoffMost = time.Second
	// watchQueue is how many messages of one kind wait for the callback in user space.
	watchQueue = 256
)

// EventKind says what changed.
type EventKind int

// The kinds of events.
const (
	// EventLink gives a watched device's present state; changed or read again.
	EventLink EventKind = iota + 1
	// EventLinkGone says that a watched device does not exist (any more).
	EventLinkGone
	// EventAddr and EventAddrGone tell of an address on a watched device.
	EventAddr
	EventAddrGone
	// EventRouteGone says that a route of ours was removed, perhaps by ourselves: Verify.
	EventRouteGone
	// EventRoutes says that the main table's routes of a watched device changed: Prepare follows them.
	EventRoutes
	// EventResync says that everything was read again, at the start and after
	// messages were lost: Verify what must hold. The state of each watched
	// device came just before it.
	EventResync
)

func (k EventKind) String() string {
	names := [...]string{"link", "link-gone", "addr", "addr-gone", "route-gone", "routes", "resync"}
	if i := int(k) - 1; i >= 0 && i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is one change on this host. Events are hints of what to read again;
// after EventResync nothing has been missed.
type Event struct {
	Kind EventKind
	Link Link         // of the device; only Name and Index with EventLinkGone and of addresses and routes; no Driver
	Addr netip.Prefix // EventAddr, EventAddrGone
	Err  error        // EventResync: why it was needed; nil at the start
}

// Watch calls fn for every change of the named devices, and of those of our mark,
// from one goroutine, until ctx ends (nil) or the thread is in another namespace. It first gives
// each named device's state. Where the kernel cannot be subscribed to, as without a file descriptor
// left, it goes on trying: each try that succeeds reads everything.
func (h *Host) Watch(ctx context.Context, names []string, fn func(Event)) error {
	// Each subscription opens sockets in this thread's namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := h.checkNS(); err != nil {
		return err
	}
	var cause error
	for wait := watchBackoff; ; wait = min(2*wait, watchBackoffMost) {
		began := time.Now()
		err := h.watchOnce(ctx, names, fn, cause)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > watchSettled {
			wait = watchBackoff
		}
		h.log.Warn("link messages lost, reading all again", "err", err, "in", wait)
		cause = err
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// watcher is one subscription.
type watcher struct {
	host   *Host
	names  []string
	fn     func(Event)
	known  map[int]string // watched devices' names by index
	failed chan error
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
}

// watchOnce subscribes, reads everything, and passes changes on until a message is lost.
// It subscribes before it reads, so that nothing falls between the two.
func (h *Host) watchOnce(ctx context.Context, names []string, fn func(Event), cause error) error {
	w := &watcher{host: h, names: names, fn: fn, known: make(map[int]string), failed: make(chan error, 1)}
	done := make(chan struct{})
	defer w.drain()
	defer close(done)
	if err := w.subscribe(done); err != nil {
		return err
	}
	if err := w.resync(cause); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.failed:
			return err
		case u, ok := <-w.links:
			if !ok {
				return w.failure()
			}
			w.link(u)
		case u, ok := <-w.addrs:
			if !ok {
				return w.failure()
			}
			w.addr(u)
		case u, ok := <-w.routes:
			if !ok {
				return w.failure()
			}
			w.route(u)
		}
	}
}

// failure is why a channel was closed.
func (w *watcher) failure() error {
	select {
	case err := <-w.failed:
		return err
	default:
		return errors.New("subscription ended")
	}
}

func (w *watcher) subscribe(done chan struct{}) error {
	fail := func(err error) {
		select {
		case w.failed <- err:
		default: // the first one is enough to start again
		}
	}
	links := make(chan netlink.LinkUpdate, watchQueue)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: fail, ReceiveBufferSize: w.host.rcv}); err != nil {
		return fmt.Errorf("subscribe to links: %w", err)
	}
	w.links = links
	addrs := make(chan netlink.AddrUpdate, watchQueue)
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: fail, ReceiveBufferSize: w.host.rcv}); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	w.addrs = addrs
	routes := make(chan netlink.RouteUpdate, watchQueue)
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: fail, ReceiveBufferSize: w.host.rcv}); err != nil {
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	w.routes = routes
	return nil
}

// drain lets the subscriptions' goroutines end: they may be waiting to hand over a message.
func (w *watcher) drain() {
	if w.links != nil {
		for range w.links {
		}
	}
	if w.addrs != nil {
		for range w.addrs {
		}
	}
	if w.routes != nil {
		for range w.routes {
		}
	}
}

// resync gives every watched device's state.
func (w *watcher) resync(cause error) error {
	links, err := dump(w.host.nl.LinkList)
	if err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	present := make(map[string]bool)
	for _, l := range links {
		if !w.watched(l) {
			continue
		}
		present[l.Attrs().Name] = true
		w.known[l.Attrs().Index] = l.Attrs().Name
		w.fn(Event{Kind: EventLink, Link: linkOf(l)})
	}
	for _, name := range w.names {
		if !present[name] {
			w.fn(Event{Kind: EventLinkGone, Link: Link{Name: name}})
		}
	}
	w.fn(Event{Kind: EventResync, Err: cause})
	return nil
}

func (w *watcher) watched(l netlink.Link) bool {
	return l.Attrs().Alias == w.host.mark || slices.Contains(w.names, l.Attrs().Name)
}

func (w *watcher) link(u netlink.LinkUpdate) {
	// A bridge's messages about its ports (AF_BRIDGE) come on the same group; a
	// port that leaves a bridge looks deleted there.
	if u.Family != unix.AF_UNSPEC {
		return
	}
	index := int(u.Index)
	name, known := w.known[index]
	gone := u.Header.Type == unix.RTM_DELLINK
	// A device that was renamed away is gone under its name.
	if known && (gone || !w.watched(u.Link)) {
		delete(w.known, index)
		w.fn(Event{Kind: EventLinkGone, Link: Link{Name: name, Index: index}})
		return
	}
	if !gone && w.watched(u.Link) {
		w.known[index] = u.Link.Attrs().Name
		w.fn(Event{Kind: EventLink, Link: linkOf(u.Link)})
	}
}

func (w *watcher) addr(u netlink.AddrUpdate) {
	name, known := w.known[u.LinkIndex]
	if !known {
		return
	}
	e := Event{Kind: EventAddr, Link: Link{Name: name, Index: u.LinkIndex}, Addr: prefixOf(&u.LinkAddress, u.LinkAddress.IP.To4() == nil)}
	if !u.NewAddr {
		e.Kind = EventAddrGone
	}
	w.fn(e)
}

func (w *watcher) route(u netlink.RouteUpdate) {
	name, known := w.known[u.LinkIndex]
	switch {
	case !known:
	case u.Table == unix.RT_TABLE_MAIN:
		w.fn(Event{Kind: EventRoutes, Link: Link{Name: name, Index: u.LinkIndex}})
	case u.Protocol == Protocol && u.Table != unix.RT_TABLE_LOCAL && u.Type == unix.RTM_DELROUTE:
		w.fn(Event{Kind: EventRouteGone, Link: Link{Name: name, Index: u.LinkIndex}})
	}
}
