// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/xdpha/xdpha/bpf"
)

// EventKind is what the kernel tells of.
type EventKind uint32

// The kinds, as numbered in bpf/abi.h; there it says what A and B hold.
const (
	PeerUp          = EventKind(bpf.XdphaXdEventKindEVENT_PEER_UP)
	PeerSuspect     = EventKind(bpf.XdphaXdEventKindEVENT_PEER_SUSPECT)
	PeerRefuted     = EventKind(bpf.XdphaXdEventKindEVENT_PEER_REFUTED)
	PeerDead        = EventKind(bpf.XdphaXdEventKindEVENT_PEER_DEAD)
	PeerBoot        = EventKind(bpf.XdphaXdEventKindEVENT_PEER_BOOT)
	PeerWord        = EventKind(bpf.XdphaXdEventKindEVENT_PEER_WORD)
	TakenOver       = EventKind(bpf.XdphaXdEventKindEVENT_TAKEOVER)
	Taken           = EventKind(bpf.XdphaXdEventKindEVENT_TAKEN)
	Lapsed          = EventKind(bpf.XdphaXdEventKindEVENT_LAPSED)
	Closed          = EventKind(bpf.XdphaXdEventKindEVENT_CLOSED)
	Isolated        = EventKind(bpf.XdphaXdEventKindEVENT_ISOLATED)
	Rejoined        = EventKind(bpf.XdphaXdEventKindEVENT_REJOINED)
	AddressConflict = EventKind(bpf.XdphaXdEventKindEVENT_ADDRESS_CONFLICT)
	SelfStall       = EventKind(bpf.XdphaXdEventKindEVENT_SELF_STALL)
	Announced       = EventKind(bpf.XdphaXdEventKindEVENT_ANNOUNCED)
	StoodDown       = EventKind(bpf.XdphaXdEventKindEVENT_STOOD_DOWN)
)

var eventNames = map[EventKind]string{
	PeerUp: "kernel-peer-up", PeerSuspect: "suspect", PeerRefuted: "refuted", PeerDead: "dead", PeerBoot: "peer-boot",
	PeerWord: "peer-word", TakenOver: "flip", Taken: "taken", Lapsed: "lapsed", Closed: "closed", Isolated: "cut-off",
	Rejoined: "rejoined", AddressConflict: "address-conflict", SelfStall: "self-stall", Announced: "kernel-announced",
	StoodDown: "stood-down",
}

func (k EventKind) String() string {
	if n, ok := eventNames[k]; ok {
		return n
	}
	return fmt.Sprintf("event %d", uint32(k))
}

// Event is a hint from the kernel: something happened, the maps say what holds.
type Event struct {
	AtNS     int64 // CLOCK_BOOTTIME
	Kind     EventKind
	Identity int // -1: none
	Node     int // whose doing it is; -1: nobody's
	A, B     uint64
	Address  netip.Addr // of AddressConflict
}

// Events reads the kernel's hints.
type Events struct{ r *ringbuf.Reader }

// Events opens the ring buffer. One reader at a time gets each event once.
func (d *Datapath) Events() (*Events, error) {
	r, err := ringbuf.NewReader(d.objs.Events)
	if err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	return &Events{r}, nil
}

// Next waits for an event; os.ErrClosed after Close.
func (e *Events) Next() (Event, error) {
	rec, err := e.r.Read()
	if errors.Is(err, ringbuf.ErrClosed) {
		return Event{}, os.ErrClosed
	}
	if err != nil {
		return Event{}, fmt.Errorf("read ring buffer: %w", err)
	}
	return parseEvent(rec.RawSample)
}

// Close ends Next.
func (e *Events) Close() error { return e.r.Close() }

func parseEvent(b []byte) (Event, error) {
	if len(b) != 48 {
		return Event{}, fmt.Errorf("parse event: %d bytes, want 48", len(b))
	}
	le := binary.LittleEndian
	return Event{
		AtNS: int64(le.Uint64(b)), Kind: EventKind(le.Uint32(b[8:])), Identity: int(int16(le.Uint16(b[12:]))), Node: int(int16(le.Uint16(b[14:]))),
		A: le.Uint64(b[16:]), B: le.Uint64(b[24:]), Address: netip.AddrFrom16([16]byte(b[32:])).Unmap(),
	}, nil
}
