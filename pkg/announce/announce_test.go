// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
)

// wire records what is sent; its clock goes on when a test says so.
type wire struct {
	mu     sync.Mutex
	frames [][]byte
	fail   error
	opened int

	waits chan time.Duration // the rounds' waits, as they begin
	ticks chan time.Time
}

func newWire() *wire {
	return &wire{waits: make(chan time.Duration), ticks: make(chan time.Time)}
}

func (w *wire) Send(f []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	w.frames = append(w.frames, slices.Clone(f))
	return nil
}

func (w *wire) Close() error { return nil }

func (w *wire) open(string) (Sender, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	return w, nil
}

func (w *wire) timer(d time.Duration) (<-chan time.Time, func()) {
	w.waits <- d
	return w.ticks, func() {}
}

// take returns the frames sent since the last take.
func (w *wire) take() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.frames
	w.frames = nil
	return f
}

func (w *wire) announcer(t *testing.T) *Announcer {
	t.Helper()
	a := New(slog.New(slog.DiscardHandler), WithOpen(w.open), WithTimer(w.timer))
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

var virtual = [6]byte{0x02, 0, 0, 0, 0, 0x21}

func target(n int) Target {
	t := Target{Identity: "files", IfName: "xd-files", MAC: virtual}
	a := netip.MustParseAddr("192.0.2.1")
	for range n {
		t.Addrs = append(t.Addrs, a)
		a = a.Next()
	}
	return t
}

// senders are the ARP sender addresses of frames, and all frames must be ARP from the virtual MAC.
func senders(t *testing.T, list [][]byte) []string {
	t.Helper()
	var got []string
	for _, f := range list {
		if len(f) < 60 || f[12] != 8 || f[13] != 6 || [6]byte(f[6:12]) != virtual {
			t.Fatalf("frame % x is not ARP from the virtual MAC", f)
		}
		var p arp.Packet
		if err := p.UnmarshalBinary(f[14:]); err != nil {
			t.Fatal(err)
		}
		got = append(got, p.SenderIP.String())
	}
	return got
}

func TestRoundsFollowTheSchedule(t *testing.T) {
	w := newWire()
	a := w.announcer(t)
	if err := a.Announce(t.Context(), target(2), 7); err != nil {
		t.Fatal(err)
	}
	want := []time.Duration{time.Millisecond, 9 * time.Millisecond, 90 * time.Millisecond, 900 * time.Millisecond, 4 * time.Second}
	one := []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"}
	for i, d := range want {
		if got := <-w.waits; got != d {
			t.Errorf("wait %d is %s, want %s", i, got, d)
		}
		if got := senders(t, w.take()); !slices.Equal(got, one) {
			t.Errorf("round %d announced %v, want %v", i, got, one)
		}
		w.ticks <- time.Time{}
	}
	a.wg.Wait()
	if got := senders(t, w.take()); !slices.Equal(got, one) {
		t.Errorf("last round announced %v, want %v", got, one)
	}
}

func TestTheFirstAddressIsSentBeforeAnnounceReturns(t *testing.T) {
	w := newWire()
	a := w.announcer(t)
	if err := a.First(target(200)); err != nil {
		t.Fatal(err)
	}
	if got := senders(t, w.take()); !slices.Equal(got, []string{"192.0.2.1", "192.0.2.1"}) {
		t.Errorf("First announced %v", got)
	}
}

func TestARoundIsBoundedAndTheOthersTakeTurns(t *testing.T) {
	all := target(379).Addrs
	reached := make(map[netip.Addr]bool)
	turn := 0
	for range Schedule {
		var list []netip.Addr
		list, turn = roundAddrs(all, turn)
		if len(list) != MaxPerRound {
			t.Fatalf("a round has %d addresses, want %d", len(list), MaxPerRound)
		}
		if list[0] != all[0] {
			t.Errorf("a round begins with %s, want the first address", list[0])
		}
		for _, a := range list {
			reached[a] = true
		}
	}
	if len(reached) != len(all) {
		t.Errorf("%d of %d addresses announced", len(reached), len(all))
	}
}

func TestStopEndsTheAnnouncement(t *testing.T) {
	for name, stop := range map[string]func(*Announcer, context.CancelFunc){
		"by Stop":    func(a *Announcer, _ context.CancelFunc) { a.Stop("files") },
		"by context": func(_ *Announcer, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire()
			a := w.announcer(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if err := a.Announce(ctx, target(1), 1); err != nil {
				t.Fatal(err)
			}
			<-w.waits
			w.take()
			stop(a, cancel)
			a.wg.Wait()
			if got := w.take(); len(got) != 0 {
				t.Errorf("%d frames after the end", len(got))
			}
		})
	}
}

func TestALaterGenerationReplacesAnEarlierOneAndNotTheReverse(t *testing.T) {
	w := newWire()
	a := w.announcer(t)
	if err := a.Announce(t.Context(), target(1), 4); err != nil {
		t.Fatal(err)
	}
	<-w.waits
	if err := a.Announce(t.Context(), target(1), 5); err != nil {
		t.Fatal(err)
	}
	<-w.waits
	a.Stop("files")
	if err := a.Announce(t.Context(), target(1), 4); !errors.Is(err, ErrStale) {
		t.Errorf("announcing generation 4 after 5: %v, want ErrStale", err)
	}
}

func TestARefusedSocketIsOpenedAnewAndTheRoundsGoOn(t *testing.T) {
	w := newWire()
	a := w.announcer(t)
	if err := a.Prepare("xd-files"); err != nil {
		t.Fatal(err)
	}
	w.fail = errors.New("no such device")
	if err := a.Announce(t.Context(), target(1), 1); err == nil {
		t.Fatal("a frame that could not be sent was reported as sent")
	}
	if w.opened != 2 {
		t.Errorf("socket opened %d times, want 2", w.opened)
	}
	<-w.waits
	w.mu.Lock()
	w.fail = nil
	w.mu.Unlock()
	w.ticks <- time.Time{}
	<-w.waits
	if got := senders(t, w.take()); len(got) != 2 {
		t.Errorf("the round after the failure announced %v", got)
	}
}

func TestAnnounceRefusesWhatItCannotSend(t *testing.T) {
	w := newWire()
	a := w.announcer(t)
	if err := a.Announce(t.Context(), Target{Identity: "files", IfName: "xd-files"}, 1); err == nil {
		t.Error("an identity without addresses was announced")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Announce(t.Context(), target(1), 2); !errors.Is(err, net.ErrClosed) {
		t.Errorf("announce after Close: %v, want net.ErrClosed", err)
	}
}

func TestNeighbourAdvertisementIsAsRFC4861Says(t *testing.T) {
	list, err := frames(virtual, netip.MustParseAddr("2001:db8::21"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("%d frames, want 1", len(list))
	}
	want := []byte{
		0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x21, 0x86, 0xdd,
		0x60, 0, 0, 0, 0, 32, 58, 255,
		0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21,
		0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
		136, 0, 0x00, 0x00, 0x20, 0, 0, 0,
		0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x21,
		2, 1, 2, 0, 0, 0, 0, 0x21,
	}
	got := slices.Clone(list[0])
	// The one's complement sum over pseudo-header and message, checksum included, is all ones.
	sum := uint32(32 + 58)
	for i := 14 + 8; i < len(got); i += 2 {
		sum += uint32(got[i])<<8 | uint32(got[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("checksum does not add up: %#x", sum)
	}
	got[14+40+2], got[14+40+3] = 0, 0
	if !slices.Equal(got, want) {
		t.Errorf("got  % x\nwant % x", got, want)
	}
}
