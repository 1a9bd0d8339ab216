// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/packet"
)

// Schedule is when the rounds of an announcement are sent, counted from
// Announce: at once, again while a lost frame still costs little, and late
// enough for a switch that was just rebooting or a port that was still blocked.
var Schedule = [...]time.Duration{0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second}

// MaxPerRound bounds the addresses announced in one round, so that a large
// identity does not flood the LAN. The first address leads every round, because
// one frame moves the switches' entry; the others take turns, round after round, and
// so the six rounds reach 1 + 6×63 = 379 addresses.
const MaxPerRound = 64

// Target is an identity as it is announced.
type Target struct {
	Identity string
	IfName   string // its device, through which the frames leave
	MAC      [6]byte
	Addrs    []netip.Addr // IPv4 and IPv6; need not be on the device
}

// Sender sends whole Ethernet frames through one device.
type Sender interface {
	Send(frame []byte) error
	Close() error
}

// Timer starts a timer; stop releases it.
type Timer func(d time.Duration) (expired <-chan time.Time, stop func())

// Option changes how an Announcer meets the world; for tests.
type Option func(*Announcer)

// WithTimer replaces the system's timers.
func WithTimer(t Timer) Option { return func(a *Announcer) { a.timer = t } }

// WithOpen replaces the packet socket.
func WithOpen(open func(ifname string) (Sender, error)) Option {
	return func(a *Announcer) { a.open = open }
}

// ErrStale says that a later generation of the identity has been announced here.
var ErrStale = errors.New("a later generation has been announced")

// Announcer sends announcements. Its methods may be called from several goroutines; those
// that may open a socket do so in the calling thread's network namespace.
type Announcer struct {
	log   *slog.Logger
	timer Timer
	open  func(ifname string) (Sender, error)

	mu      sync.Mutex
	closed  bool
	senders map[string]Sender // by device name
	running map[string]*run   // by identity
	wg      sync.WaitGroup
}

// run is one announcement on its way.
type run struct {
	gen    uint64
	cancel context.CancelFunc
}

// New makes an Announcer. It opens nothing yet.
func New(log *slog.Logger, options ...Option) *Announcer {
	a := &Announcer{log: log, timer: systemTimer, open: openPacket, senders: make(map[string]Sender), running: make(map[string]*run)}
	for _, o := range options {
		o(a)
	}
	return a
}

// Prepare opens the device's socket ahead, so that First need not. Repeat it
// when the device was made anew.
func (a *Announcer) Prepare(ifname string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.reopen(ifname)
	return err
}

// First sends the first address's frames before it returns.
func (a *Announcer) First(t Target) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.check(t); err != nil {
		return err
	}
	return a.first(t)
}

// Announce sends the first address's frames before it returns and the rest by
// the Schedule, until that is through, ctx ends, Stop, or a later Announce of the
// same identity. One of an earlier generation than the last is refused (ErrStale).
// Failures after the first frame are logged; the rounds go on, as a link may come back.
func (a *Announcer) Announce(ctx context.Context, t Target, gen uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.check(t); err != nil {
		return err
	}
	if last := a.running[t.Identity]; last != nil {
		if gen < last.gen {
			return fmt.Errorf("announce identity %s at generation %d: %w: %d", t.Identity, gen, ErrStale, last.gen)
		}
		last.cancel()
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("announce identity %s: %w", t.Identity, err)
	}
	firstErr := a.first(t)
	ctx, cancel := context.WithCancel(ctx)
	a.running[t.Identity] = &run{gen: gen, cancel: cancel}
	a.wg.Go(func() {
		defer cancel()
		a.rounds(ctx, t, firstErr != nil)
	})
	return firstErr
}

// Stop ends the identity's announcement: after it returns, no frame is sent.
func (a *Announcer) Stop(identity string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.running[identity]; r != nil {
		r.cancel()
	}
}

// Close stops all announcements and closes the sockets.
func (a *Announcer) Close() error {
	a.mu.Lock()
	a.closed = true
	for _, r := range a.running {
		r.cancel()
	}
	a.mu.Unlock()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for ifname, s := range a.senders {
		if err := s.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close packet socket on %s: %w", ifname, err))
		}
	}
	clear(a.senders)
	return errors.Join(errs...)
}

// check refuses what cannot be announced at all. The caller holds mu.
func (a *Announcer) check(t Target) error {
	if a.closed {
		return fmt.Errorf("announce identity %s: %w", t.Identity, net.ErrClosed)
	}
	if len(t.Addrs) == 0 {
		return fmt.Errorf("announce identity %s: it has no addresses", t.Identity)
	}
	return nil
}

// first sends the first address's frames, through a new socket if the old one's
// device is gone. The caller holds mu.
func (a *Announcer) first(t Target) error {
	s, opened := a.senders[t.IfName]
	if opened {
		if err := send(s, t.MAC, t.Addrs[:1]); err == nil {
			return nil
		}
	}
	s, err := a.reopen(t.IfName)
	if err == nil {
		err = send(s, t.MAC, t.Addrs[:1])
	}
	if err != nil {
		return fmt.Errorf("announce identity %s: %w", t.Identity, err)
	}
	return nil
}

// reopen opens the device's socket in place of the one there was. The caller holds mu.
func (a *Announcer) reopen(ifname string) (Sender, error) {
	if a.closed {
		return nil, net.ErrClosed
	}
	s, err := a.open(ifname)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", ifname, err)
	}
	if old := a.senders[ifname]; old != nil {
		if err := old.Close(); err != nil {
			a.log.Warn("packet socket not closed", "device", ifname, "err", err)
		}
	}
	a.senders[ifname] = s
	return s, nil
}

// rounds follows the Schedule. The first address of the first round is sent already.
func (a *Announcer) rounds(ctx context.Context, t Target, failed bool) {
	turn := 0 // of the addresses after the first
	for i, at := range Schedule {
		if i > 0 {
			expired, stop := a.timer(at - Schedule[i-1])
			select {
			case <-ctx.Done():
				stop()
				return
			case <-expired:
			}
		}
		var list []netip.Addr
		list, turn = roundAddrs(t.Addrs, turn)
		if i == 0 && !failed {
			list = list[1:]
		}
		if err := a.round(ctx, t, list); err != nil && !failed {
			failed = true
			a.log.Warn("announcement not sent", "identity", t.Identity, "device", t.IfName, "round", i, "err", err)
		}
	}
}

// roundAddrs picks one round's addresses and says whose turn is next.
func roundAddrs(all []netip.Addr, turn int) (list []netip.Addr, next int) {
	list = append(list, all[0])
	rest := all[1:]
	for range min(len(rest), MaxPerRound-1) {
		list = append(list, rest[turn])
		turn = (turn + 1) % len(rest)
	}
	return list, turn
}

// round sends one round, or what of it there is time for before ctx ends.
func (a *Announcer) round(ctx context.Context, t Target, list []netip.Addr) error {
	for _, addr := range list {
		if err := a.one(ctx, t, addr); err != nil {
			return err
		}
	}
	return nil
}

// one sends one address's frames. It looks at ctx under mu, which Stop takes to
// cancel it: nothing leaves after Stop has returned.
func (a *Announcer) one(ctx context.Context, t Target, addr netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.senders[t.IfName]
	if ctx.Err() != nil {
		return nil
	}
	if s == nil {
		return fmt.Errorf("no packet socket on %s", t.IfName)
	}
	return send(s, t.MAC, []netip.Addr{addr})
}

func send(s Sender, mac [6]byte, list []netip.Addr) error {
	for _, addr := range list {
		all, err := frames(mac, addr)
		if err != nil {
			return err
		}
		for _, f := range all {
			if err := s.Send(f); err != nil {
				return fmt.Errorf("send announcement of %s: %w", addr, err)
			}
		}
	}
	return nil
}

func systemTimer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// packetSender is a packet socket bound to one device.
type packetSender struct{ conn *packet.Conn }

// openPacket binds a socket that receives nothing (protocol 0).
func openPacket(ifname string) (Sender, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return nil, err
	}
	return packetSender{conn}, nil
}

// Send sends one frame; its own header says where to.
func (p packetSender) Send(frame []byte) error {
	_, err := p.conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	return err
}

func (p packetSender) Close() error { return p.conn.Close() }
