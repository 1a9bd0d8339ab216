// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// packet is one row: a frame meets a node, and this comes of it. The node is
// at work (see atWork) but for what given changes. What is not named does not move.
type packet struct {
	name    string
	out     bool // egress
	nic     int
	frame   []byte
	given   func(*truth)
	verdict uint32
	reply   []byte // what becomes of the frame; nil: it stays as it was
	counted string // "link reason"
	words   []uint64
	told    []bpf.XdphaXdEventKind
	then    func(*testing.T, bpf.XdphaXdState)
}

const (
	eventPeerWord  = bpf.XdphaXdEventKindEVENT_PEER_WORD
	eventAnnounced = bpf.XdphaXdEventKindEVENT_ANNOUNCED
	eventTaken     = bpf.XdphaXdEventKindEVENT_TAKEN
	eventClosed    = bpf.XdphaXdEventKindEVENT_CLOSED
	eventConflict  = bpf.XdphaXdEventKindEVENT_ADDRESS_CONFLICT
	eventStood     = bpf.XdphaXdEventKindEVENT_STOOD_DOWN
)

func TestPackets(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for _, rows := range [][]packet{
		heartbeats(t), refusals(t), freshness(t), ownership(t), arpRows(), ndRows(t), gateIn(), gateOut(),
	} {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) { row.check(t, n) })
		}
	}
}

func (p packet) check(t *testing.T, n *node) {
	v := n.atWork()
	if p.given != nil {
		p.given(v)
	}
	n.put(v)
	n.told()
	before := n.counters()

	run := n.receive
	if p.out {
		run = n.send
	}
	from := now()
	verdict, out := run(p.nic, p.frame)

	if verdict != p.verdict {
		t.Errorf("verdict %d, want %d", verdict, p.verdict)
	}
	want := p.frame
	if p.reply != nil {
		want = p.reply
		if sent, ok := sentAt(out); ok {
			want = sentThen(t, want, sent)
			if sent < from || sent > now() {
				t.Errorf("the reply says that it left at %d, not after %d", sent, from)
			}
		}
	}
	if diff := cmp.Diff(hex.Dump(want), hex.Dump(out)); diff != "" {
		t.Errorf("the frame became (-want +got)\n%s", diff)
	}
	if moved := n.moved(before); moved != p.counted {
		t.Errorf("counted %q, want %q", moved, p.counted)
	}
	words := v.words[:]
	if p.words != nil {
		words = p.words
	}
	if got := n.words(); !slices.Equal(got[:], words) {
		t.Errorf("words %x, want %x", got, words)
	}
	if told := n.told(); !slices.Equal(told, p.told) {
		t.Errorf("told %v, want %v", told, p.told)
	}
	if p.then != nil {
		p.then(t, n.state())
	}
}

// offsetSent is where a heartbeat says when it left.
const offsetSent = wire.OffsetMagic + 48

// sentAt reads when a heartbeat says that it left.
func sentAt(b []byte) (uint64, bool) {
	if len(b) < wire.OffsetWords || b[12] != 8 || b[13] != 0 || b[23] != 17 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[offsetSent:]), true
}

// sentThen is a heartbeat that left at that time.
func sentThen(t *testing.T, b []byte, at uint64) []byte {
	t.Helper()
	b = slices.Clone(b)
	binary.LittleEndian.PutUint64(b[offsetSent:], at)
	if err := wire.Seal(b, map[byte]wire.Key{signing.ID: signing, retiring.ID: retiring}[b[wire.OffsetKeyID]]); err != nil {
		t.Fatal(err)
	}
	return b
}

func heartbeats(t *testing.T) []packet {
	answer := func(f wire.Frame, self wire.Frame) []byte { return signed(t, f.Answer(self), signing) }
	var rows []packet
	for link, name := range []string{"crossover", "lan", "spare"} {
		rows = append(rows, packet{
			name: "a probe on the " + name + " is answered", nic: link, frame: signed(t, probeOn(link), signing),
			verdict: xdpTX, reply: answer(probeOn(link), selfSays()), counted: name + " hb-probe-answered",
			then: func(t *testing.T, s bpf.XdphaXdState) {
				l := s.Links[link]
				if l.HeardNs == 0 || l.ProbeSeq != 44 || l.PeerMac != mac64(nodeMAC[1][link]) || l.ReplySeq != 0 {
					t.Errorf("link: heard %d, seq %d, MAC %x", l.HeardNs, l.ProbeSeq, l.PeerMac)
				}
				if s.PeerAgeUs != 4321 || s.PeerFlags != 66 || s.PeerDigest != digest || s.PeerNonce != peerNonce {
					t.Errorf("peer: %+v", s)
				}
			},
		}, packet{
			name: "a reply on the " + name + " is taken and never answered", nic: link, frame: signed(t, replyOn(link), signing),
			verdict: xdpDrop, counted: name + " hb-reply-accepted",
			then: func(t *testing.T, s bpf.XdphaXdState) {
				l := s.Links[link]
				if l.HeardNs == 0 || l.ReplySeq != 99 || l.RttNs != l.HeardNs-77 || l.RttMaxNs != l.RttNs || l.ProbeSeq != 0 {
					t.Errorf("link: heard %d, seq %d, RTT %d", l.HeardNs, l.ReplySeq, l.RttNs)
				}
			},
		})
	}
	later := now() + hour // by another processor, which was not held up
	rows = append(rows, packet{
		name: "a stamp that is newer stays", nic: lan, frame: signed(t, probeOn(lan), signing),
		given:   func(v *truth) { v.state.HeardNs, v.state.Links[lan].HeardNs = later, later },
		verdict: xdpTX, reply: answer(probeOn(lan), selfSays()), counted: "lan hb-probe-answered",
		then: func(t *testing.T, s bpf.XdphaXdState) {
			if s.HeardNs != later || s.Links[lan].HeardNs != later {
				t.Errorf("stamped %d and %d, not %d", s.HeardNs, s.Links[lan].HeardNs, later)
			}
		},
	})
	toAll := with(probeOn(lan), func(f *wire.Frame) { f.DstMAC = wire.Broadcast })
	self := selfSays()
	self.SrcMAC = nodeMAC[0][lan]
	never := selfSays()
	never.AgeUS = ^uint32(0)
	none := with(probeOn(lan), func(f *wire.Frame) { f.Words = nil })
	short := selfSays()
	short.Words = nil
	many := with(probeOn(lan), func(f *wire.Frame) { f.Words = make([]uint64, wire.MaxIdentities) })
	long := selfSays()
	long.Words = append(long.Words, make([]uint64, wire.MaxIdentities-identities)...)
	p, one, turned := probeOn(lan), selfSays(), selfSays()
	one.Flags &^= twoKeys
	turned.KeyID = retiring.ID
	old := with(probeOn(lan), func(f *wire.Frame) { f.KeyID = retiring.ID })
	return append(rows,
		packet{name: "a probe to all is answered from the NIC's MAC", nic: lan, frame: signed(t, toAll, signing),
			verdict: xdpTX, reply: answer(toAll, self), counted: "lan hb-probe-answered"},
		packet{name: "an answer says that the supervisor never came", nic: lan, frame: signed(t, probeOn(lan), signing),
			given:   func(v *truth) { v.control.RenewedNs = 0 },
			verdict: xdpTX, reply: answer(probeOn(lan), never), counted: "lan hb-probe-answered"},
		packet{name: "a probe of the retiring key is answered with the new one", nic: lan, frame: signed(t, old, retiring),
			verdict: xdpTX, reply: answer(old, selfSays()), counted: "lan hb-probe-answered",
			then: func(t *testing.T, s bpf.XdphaXdState) {
				if s.PeerKey != uint64(retiring.ID) {
					t.Errorf("the peer is said to sign with key %d", s.PeerKey)
				}
			}},
		packet{name: "with one key only a reply says so", nic: lan, frame: signed(t, p, signing),
			given:   func(v *truth) { v.control.Keys = inForce(signing, signing) },
			verdict: xdpTX, reply: answer(p, one), counted: "lan hb-probe-answered"},
		packet{name: "keys that change places sign the next answer", nic: lan, frame: signed(t, p, signing),
			given:   func(v *truth) { v.control.Keys = inForce(retiring, signing) },
			verdict: xdpTX, reply: signed(t, p.Answer(turned), retiring), counted: "lan hb-probe-answered"},
		packet{name: "a probe without words is life", nic: lan, frame: signed(t, none, signing),
			verdict: xdpTX, reply: answer(none, short), counted: "lan hb-probe-answered"},
		packet{name: "a probe of more words than ours is life", nic: lan, frame: signed(t, many, signing),
			verdict: xdpTX, reply: answer(many, long), counted: "lan hb-probe-answered"},
	)
}

// refusals are frames that are wrong in one way. All are dropped, none is believed.
func refusals(t *testing.T) []packet {
	p := probeOn(lan)
	whole := signed(t, p, signing)
	other := wire.Key{ID: signing.ID, K0: 9, K1: 9}
	spoil := func(at int, v byte) []byte { return spoiled(t, p, at, v) }
	rows := []packet{
		{name: "bad magic", frame: spoil(wire.OffsetMagic, 0), counted: "lan hb-bad-magic"},
		{name: "bad version", frame: spoil(wire.OffsetVersion, 1), counted: "lan hb-bad-version"},
		{name: "a direction that is none", frame: spoil(wire.OffsetDirection, 2), counted: "lan hb-bad-shape"},
		{name: "more words than fit", frame: spoil(wire.OffsetIdentities, 17), counted: "lan hb-bad-shape"},
		{name: "all words", frame: spoil(wire.OffsetIdentities, 255), counted: "lan hb-bad-shape"},
		{name: "more words than are there", frame: spoil(wire.OffsetIdentities, 3), counted: "lan hb-truncated"},
		{name: "fewer words than are there", frame: spoil(wire.OffsetIdentities, 1), counted: "lan hb-oversized"},
		{name: "IPv4 length", frame: spoil(17, 1), counted: "lan hb-bad-shape"},
		{name: "UDP length", frame: spoil(39, 1), counted: "lan hb-bad-shape"},
		{name: "a first fragment", frame: spoil(20, 0x20), counted: "lan hb-bad-shape"},
		{name: "a later fragment", frame: spoil(21, 1), counted: "lan hb-bad-shape"},
		{name: "TTL of a routed frame", frame: spoil(wire.OffsetTTL, 254), counted: "lan hb-bad-ttl"},
		{name: "another cluster", frame: spoil(wire.OffsetCluster, 0), counted: "lan hb-foreign-cluster"},
		{name: "another link", frame: spoil(wire.OffsetLink, crossover), counted: "lan hb-wrong-link"},
		{name: "a link that is none", frame: spoil(wire.OffsetLink, 3), counted: "lan hb-wrong-link"},
		{name: "ourselves as sender", frame: spoil(wire.OffsetSender, 0), counted: "lan hb-bad-sender"},
		{name: "a third sender", frame: spoil(wire.OffsetSender, 2), counted: "lan hb-bad-sender"},
		{name: "an unknown key", frame: spoil(wire.OffsetKeyID, 9), counted: "lan hb-unknown-key"},
		{name: "a key that was taken out", frame: signed(t, p, retiring), given: func(v *truth) { v.control.Keys = inForce(signing, signing) },
			counted: "lan hb-unknown-key"},
		{name: "any key before one is in force", frame: signed(t, p, signing), given: func(v *truth) { v.control.Keys = 0 },
			counted: "lan hb-unknown-key"},
		{name: "a key of zeros before one is in force", frame: signed(t, p, wire.Key{}), given: func(v *truth) { v.control.Keys = 0 },
			counted: "lan hb-unknown-key"},
		{name: "a wrong key under a right number", frame: signed(t, p, other), counted: "lan hb-bad-tag"},
		{name: "our own probe come back", frame: signed(t, with(p, func(f *wire.Frame) { f.Sender = 0 }), signing), counted: "lan hb-bad-sender"},
		{name: "one byte too many", frame: append(slices.Clone(whole), 0), counted: "lan hb-oversized"},
		{name: "a kilobyte too many", frame: append(slices.Clone(whole), make([]byte, 1024)...), counted: "lan hb-oversized"},
	}
	for i := range rows {
		rows[i].name = "refused: " + rows[i].name
		rows[i].nic, rows[i].verdict, rows[i].then = lan, xdpDrop, unheard
	}
	const headers = 42
	for size := 14; size < len(whole); size++ {
		row := packet{name: fmt.Sprintf("truncated to %d bytes", size), nic: lan, frame: whole[:size],
			verdict: xdpDrop, counted: "lan hb-truncated", then: unheard}
		if size < headers { // not yet a heartbeat
			row.verdict, row.counted = xdpPass, "lan not-ours"
		}
		rows = append(rows, row)
	}
	strange := func(name string, nic int, link string, frame []byte) packet {
		return packet{name: "not a heartbeat: " + name, nic: nic, frame: frame, verdict: xdpPass, counted: link + " not-ours", then: unheard}
	}
	return append(rows,
		strange("another port", lan, "lan", spoil(37, 1)),
		strange("TCP", lan, "lan", spoil(23, 6)),
		strange("IPv4 options", lan, "lan", spoil(14, 0x46)),
		strange("to another address", lan, "lan", spoil(33, 77)),
		strange("on a NIC without a role", none, "-", whole),
		strange("in a VLAN", lan, "lan", tagged(whole)),
	)
}

func unheard(t *testing.T, s bpf.XdphaXdState) {
	for i, l := range s.Links {
		if l.HeardNs != 0 || l.ProbeSeq != 0 || l.ReplySeq != 0 || l.PeerMac != 0 {
			t.Errorf("link %d: the frame was believed: %+v", i, l)
		}
	}
	if s.PeerBoot != peerBoot || s.PeerNonce != peerNonce || s.Candidate != [3]uint64{} || s.PeerAgeUs != 0 || s.Nonce != selfNonce {
		t.Errorf("the frame was believed: %+v", s)
	}
}

func freshness(t *testing.T) []packet {
	drop := func(name string, f wire.Frame, reason string, given func(*truth), then func(*testing.T, bpf.XdphaXdState)) packet {
		return packet{name: name, nic: lan, frame: signed(t, f, signing), given: given, verdict: xdpDrop, counted: "lan " + reason, then: then}
	}
	candidate := func(want uint64) func(*testing.T, bpf.XdphaXdState) {
		return func(t *testing.T, s bpf.XdphaXdState) {
			if s.Candidate[lan] != want || s.Links[lan].HeardNs != 0 || s.PeerBoot != peerBoot {
				t.Errorf("candidate %x, want %x; heard %d", s.Candidate[lan], want, s.Links[lan].HeardNs)
			}
		}
	}
	stale := with(probeOn(lan), func(f *wire.Frame) { f.Echo = 0x0bad })
	booted := with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Nonce, f.Seq, f.Words = 0xb2, 0xa2, 1, []uint64{5, 5} })
	before := with(probeOn(lan), func(f *wire.Frame) { f.Echo = 0x0b })
	heard := func(v *truth) { v.state.Links[lan].ProbeSeq = 44 }
	return []packet{
		drop("a probe comes a second time", probeOn(lan), "hb-replayed", heard, nil),
		drop("a probe comes after a later one", with(probeOn(lan), func(f *wire.Frame) { f.Seq = 43 }), "hb-replayed", heard, nil),
		drop("a reply comes a second time", replyOn(lan), "hb-replayed", func(v *truth) { v.state.Links[lan].ReplySeq = 99 }, nil),
		drop("a reply to a probe that we have not sent", with(replyOn(lan), func(f *wire.Frame) { f.Seq = 101 }), "hb-replayed", nil, unheard),
		drop("an unknown echo while the peer is up", stale, "hb-unproven", nil, unheard),
		drop("an unknown echo while the peer is suspected", stale, "hb-unproven", func(v *truth) { v.state.PeerState = 2 }, unheard),
		drop("an unknown echo while the peer is dead", stale, "hb-unproven", func(v *truth) { v.state.PeerState = 3 }, candidate(peerNonce)),
		drop("an unknown echo while nobody is known", stale, "hb-unproven", func(v *truth) { v.state.PeerState = 0 }, candidate(peerNonce)),
		drop("a new boot's reply to a probe that we have not sent",
			with(replyOn(lan), func(f *wire.Frame) { f.BootID, f.Seq = 0xb2, 101 }), "hb-replayed", nil, unheard),
		drop("a replay of an old boot, which echoes an old nonce",
			with(booted, func(f *wire.Frame) { f.Echo = 0x0b }), "hb-unproven", func(v *truth) { v.state.NonceBefore = 0x0b }, unheard),
		{name: "the boot of now may echo the nonce before, for frames cross", nic: lan, frame: signed(t, before, signing),
			given:   func(v *truth) { v.state.NonceBefore = 0x0b },
			verdict: xdpTX, counted: "lan hb-probe-answered", reply: signed(t, before.Answer(selfSays()), signing)},
		drop("but not twice", before, "hb-replayed", func(v *truth) { v.state.NonceBefore = 0x0b; heard(v) }, nil),
		drop("no echo while there is no nonce yet", with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Echo = 0xb2, 0 }), "hb-unproven",
			func(v *truth) { v.state.PeerState, v.state.Nonce = 0, 0 }, candidate(peerNonce)),
		drop("no echo is no nonce before", with(probeOn(lan), func(f *wire.Frame) { f.Echo = 0 }), "hb-unproven", nil, unheard),
	}
}

func ownership(t *testing.T) []packet {
	word := func(i int, w uint64) wire.Frame {
		return with(replyOn(lan), func(f *wire.Frame) { f.Words[i] = w })
	}
	row := func(name string, f wire.Frame, mine, want uint64, told ...bpf.XdphaXdEventKind) packet {
		return packet{name: name, nic: lan, frame: signed(t, f, signing), given: func(v *truth) { v.words[0] = mine },
			verdict: xdpDrop, counted: "lan hb-reply-accepted", words: []uint64{want, 5}, told: told}
	}
	also := func(p packet, given ...func(*truth)) packet {
		first := p.given
		p.given = func(v *truth) {
			first(v)
			for _, g := range given {
				g(v)
			}
		}
		return p
	}
	floored := func(v *truth) { v.control.Floor[0] = 10 }
	lapsed := func(v *truth) { v.control.LeaseUntilNs = 1 }
	carriedElsewhere := func(v *truth) { v.config.Identities[0].Carrier++ }
	second := func(v *truth) { v.config.Self = 1 }
	fromFirst := func(w uint64) wire.Frame {
		return with(word(0, w), func(f *wire.Frame) { f.Sender = 0 })
	}
	elsewhere := with(word(0, owner|6), func(f *wire.Frame) { f.Digest++ })
	fewer := with(replyOn(lan), func(f *wire.Frame) { f.Words = []uint64{owner | 6} })
	rows := []packet{
		row("a higher generation closes the owner", word(0, owner|6), owner|5, 6, eventPeerWord, eventClosed),
		row("a higher generation without owner closes the owner too", word(0, 6), owner|5, 6, eventPeerWord, eventClosed),
		row("a higher generation disarms", word(0, owner|6), ready|5, 6, eventPeerWord),
		row("a lower generation moves nothing", word(0, owner|4), owner|5, owner|5),
		row("a lower generation of a peer that was dead moves nothing", word(0, owner|4), owner|6, owner|6),
		also(row("released to us while armed: taken", word(0, yield|5), ready|5, owner|6, eventPeerWord, eventTaken), carriedElsewhere),
		also(row("the first node takes even generations", word(0, yield|6), ready|6, owner|8, eventPeerWord, eventTaken), carriedElsewhere),
		also(row("the second node takes odd generations", fromFirst(yield|6), ready|6, owner|7, eventPeerWord, eventTaken), second, carriedElsewhere),
		also(row("taken above what this node may have owned before it booted", word(0, yield|5), ready|5, owner|12, eventPeerWord, eventTaken), carriedElsewhere, floored),
		also(row("released to us while armed and staged: taken", word(0, yield|5), ready|staged|5, owner|6, eventPeerWord, eventTaken), carriedElsewhere),
		row("released to us while unarmed: left", word(0, yield|5), 5, 5, eventPeerWord),
		also(row("released to us without a supervisor: left", word(0, yield|5), ready|5, ready|5, eventPeerWord), lapsed),
		row("demanded by an armed peer: released", word(0, ready|demand|5), owner|5, yield|5, eventPeerWord, eventStood),
		row("demanded by a peer that is not armed: kept", word(0, demand|5), owner|5, owner|5, eventPeerWord),
		row("demanded at a lower generation: kept", word(0, ready|demand|4), owner|5, owner|5),
		row("demanded of who does not own it: left", word(0, ready|demand|5), ready|5, ready|5, eventPeerWord),
		row("about to be released: left", word(0, owner|yield|5), ready|5, ready|5, eventPeerWord),
		row("released at a lower generation: left", word(0, yield|4), ready|5, ready|5),
		row("another configuration is life but moves nothing", elsewhere, owner|5, owner|5),
		row("fewer identities are life but move nothing", fewer, owner|5, owner|5),
	}
	taken := []bpf.XdphaXdEventKind{eventPeerWord, eventTaken, eventAnnounced}
	here := row("released to us by the NIC that carries it: the frame leaves as the announcement", word(0, yield|5), ready|5, owner|6, taken...)
	here.verdict, here.counted = xdpTX, "lan hb-announced"
	here.reply = append(announcement(filesIP, filesMAC, 1), make([]byte, 18)...)
	here.then = func(t *testing.T, s bpf.XdphaXdState) {
		if s.ToAnnounce != 1<<16 {
			t.Errorf("to announce %b: not the other forms alone", s.ToAnnounce)
		}
	}
	rows = append(rows, here,
		also(here, func(v *truth) { v.config.ServeNs, v.state.ServeUntilNs = serveFor, 1 }))
	dark := &rows[len(rows)-1]
	dark.name, dark.verdict, dark.counted = "released to us without the right to serve: nothing is announced", xdpDrop, "lan hb-reply-accepted"
	dark.reply, dark.told = nil, taken[:2]
	dark.then = func(t *testing.T, s bpf.XdphaXdState) {
		if s.ToAnnounce != 1 {
			t.Errorf("to announce %b: not all of it", s.ToAnnounce)
		}
	}
	rows[4] = also(rows[4], func(v *truth) { v.state.PeerState = 3; v.state.PeerWords[0] = 5 })
	rows[4].told = []bpf.XdphaXdEventKind{eventPeerWord}
	for i, r := range rows {
		if r.name != "another configuration is life but moves nothing" && r.name != "fewer identities are life but move nothing" {
			continue
		}
		rows[i].then = func(t *testing.T, s bpf.XdphaXdState) {
			if s.Links[lan].HeardNs == 0 || s.PeerWords[0] != 5 {
				t.Errorf("heard %d, word %x", s.Links[lan].HeardNs, s.PeerWords[0])
			}
		}
	}
	return rows
}

// States in which the gate of files is closed, on a node whose lan NIC carries it.
var closed = map[string]func(*truth){
	"not the owner":                       func(v *truth) { v.words[0] = 5 },
	"armed only":                          func(v *truth) { v.words[0] = ready | staged | 5 },
	"released":                            func(v *truth) { v.words[0] = yield | 5 },
	"the lease ran out":                   func(v *truth) { v.control.LeaseUntilNs = 1 },
	"no lease yet":                        func(v *truth) { v.control.LeaseUntilNs = 0 },
	"no lease, the peer suspected":        func(v *truth) { v.control.LeaseUntilNs = 1; v.state.PeerState = 2 },
	"no right to serve yet":               func(v *truth) { v.config.ServeNs = 4e6 },
	"the right to serve ran out":          func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = now() - 1 },
	"the right ran out, the peer dead":    func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = 1; v.state.PeerState = 3 },
	"its key was held until a moment ago": func(v *truth) { arbitrated(v); v.control.LeaveNs[0] = now() - 1 },
	"the key of another one is held":      func(v *truth) { arbitrated(v); v.control.LeaveNs[1] = now() + hour },
	"a key is held that nobody asks for": func(v *truth) {
		arbitrated(v)
		v.config.Verdict, v.control.LeaveNs[0] = bpf.XdphaXdVerdictVERDICT_KERNEL, now()+hour
	},
	"its key is held, but no lease":      func(v *truth) { arbitrated(v); v.control.LeaveNs[0], v.control.LeaseUntilNs = now()+hour, 1 },
	"no lease, peer dead, not kept solo": func(v *truth) { v.control.LeaseUntilNs = 1; v.state.PeerState = 3; v.config.SoloKeep = 0 },
}

// States in which it is open.
var open = map[string]func(*truth){
	"the owner":                nil,
	"the right to serve lasts": func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = now() + hour },
	"its key is held":          func(v *truth) { arbitrated(v); v.control.LeaveNs[0] = now() + hour },
	"granted, without its key": func(v *truth) { arbitrated(v); v.state.ServeUntilNs = now() + hour },
	"supervisor lost, peer dead, the arbiter's leave lasts": func(v *truth) {
		v.config.ServeNs, v.state.ServeUntilNs, v.state.PeerState, v.control.LeaseUntilNs = 4e6, now()+hour, 3, 1
	},
	"about to release":            func(v *truth) { v.words[0] = owner | yield | 5 },
	"no lease, peer dead, solo":   func(v *truth) { v.control.LeaseUntilNs = 1; v.state.PeerState = 3 },
	"the peer is suspected":       func(v *truth) { v.state.PeerState = 2 },
	"the other identity has left": func(v *truth) { v.words[1] = 9 },
}

func arpRows() []packet {
	asked := whoHas(filesIP, clientIP, client)
	answered := isAt(filesIP, filesMAC, client, clientIP)
	probe := whoHas(filesIP, addr("0.0.0.0"), client)
	stranger := wire.MAC{2, 0xbb}
	askedByMail := whoHas(filesIP, mailIP, mailMAC)
	rows := []packet{
		{name: "ARP probe of a newcomer is answered", frame: probe, verdict: xdpTX,
			reply: isAt(filesIP, filesMAC, client, addr("0.0.0.0")), counted: "lan arp-answered",
			told: []bpf.XdphaXdEventKind{eventConflict}, then: claimed(0)},
		{name: "ARP padded to Ethernet's least frame is answered", frame: append(slices.Clone(asked), make([]byte, 18)...), verdict: xdpTX,
			reply: append(slices.Clone(answered), make([]byte, 18)...), counted: "lan arp-answered"},
		{name: "ARP on the spare for what the lan carries", nic: spare, frame: asked, verdict: xdpDrop, counted: "spare arp-wrong-nic"},
		{name: "ARP on a NIC without a role", nic: none, frame: asked, verdict: xdpDrop, counted: "- arp-wrong-nic"},
		{name: "ARP on the spare for an identity that it carries", nic: spare, frame: whoHas(mailIP, clientIP, client), verdict: xdpTX,
			given: func(v *truth) { v.words[1] = owner | 7 }, reply: isAt(mailIP, mailMAC, client, clientIP), counted: "spare arp-answered"},
		{name: "ARP for the node's own address on the spare", nic: spare, frame: whoHas(nodeIP[0][lan], clientIP, client),
			verdict: xdpDrop, counted: "spare arp-own-on-spare"},
		{name: "ARP for the node's own address on the lan", frame: whoHas(nodeIP[0][lan], clientIP, client), verdict: xdpPass, counted: "lan not-ours"},
		{name: "ARP for a stranger", frame: whoHas(hosts[0], clientIP, client), verdict: xdpPass, counted: "lan not-ours"},
		{name: "ARP cut short", frame: asked[:41], verdict: xdpPass, counted: "lan not-ours"},
		{name: "ARP with a priority is answered without one", frame: inVLAN(asked, 0), verdict: xdpTX, reply: answered, counted: "lan arp-answered"},
		{name: "ARP with a priority, gate closed", frame: inVLAN(asked, 0), reply: asked, given: closed["not the owner"], verdict: xdpDrop, counted: "lan arp-gate-closed"},
		{name: "ARP by IEEE 802's type of hardware, gate closed", frame: ieee802(asked), given: closed["not the owner"], verdict: xdpDrop, counted: "lan arp-gate-closed"},
		{name: "ARP by IEEE 802's type of hardware is answered by it", frame: ieee802(asked), verdict: xdpTX, reply: ieee802(answered), counted: "lan arp-answered"},
		{name: "ARP in a VLAN", frame: tagged(asked), verdict: xdpPass, counted: "lan not-ours"},
		{name: "ARP from the other node's identity is answered", frame: askedByMail, verdict: xdpTX,
			reply: isAt(filesIP, filesMAC, mailMAC, mailIP), counted: "lan arp-answered"},
		{name: "conflict: an announcement", frame: announcement(filesIP, stranger, 1), verdict: xdpDrop, counted: "lan arp-conflict",
			told: []bpf.XdphaXdEventKind{eventConflict}, then: claimed(1)},
		{name: "conflict: an answer", nic: spare, frame: isAt(filesIP, stranger, client, clientIP), verdict: xdpDrop, counted: "spare arp-conflict",
			told: []bpf.XdphaXdEventKind{eventConflict}, then: claimed(1)},
		{name: "conflict: told once in a while only", frame: announcement(filesIP, stranger, 2), verdict: xdpDrop, counted: "lan arp-conflict",
			given: func(v *truth) { v.state.ConflictToldNs[0] = now() + hour }, then: claimed(1)},
		{name: "no conflict: our own announcement on the other NIC", nic: spare, frame: announcement(filesIP, filesMAC, 1), verdict: xdpPass, counted: "spare not-ours"},
		{name: "no conflict: the other node's announcement", frame: announcement(mailIP, mailMAC, 2), verdict: xdpPass, counted: "lan not-ours"},
		{name: "no conflict: an answer to us", frame: isAt(hosts[0], client, filesMAC, filesIP), verdict: xdpPass, counted: "lan in-open"},
		{name: "an answer to us behind a closed gate", frame: isAt(hosts[0], client, filesMAC, filesIP), given: closed["not the owner"],
			verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "an answer of a listed host counts as reach", nic: spare, frame: isAt(hosts[1], client, nodeMAC[0][spare], nodeIP[0][spare]),
			given:   func(v *truth) { v.config.N_reach = 3 },
			verdict: xdpPass, counted: "spare not-ours", then: func(t *testing.T, s bpf.XdphaXdState) {
				for h, links := range s.ReachNs {
					for l, at := range links {
						if (at != 0) != (h == 1 && l == spare) {
							t.Errorf("host %d by link %d at %d", h, l, at)
						}
					}
				}
			}},
	}
	for name, given := range closed {
		rows = append(rows, packet{name: "ARP, gate closed: " + name, frame: asked, given: given, verdict: xdpDrop, counted: "lan arp-gate-closed"})
	}
	for name, given := range open {
		rows = append(rows, packet{name: "ARP, gate open: " + name, frame: asked, given: given, verdict: xdpTX, reply: answered, counted: "lan arp-answered"})
	}
	return onLANUnless(rows)
}

// onLANUnless puts rows that name no NIC (the crossover's number is 0) on the lan.
func onLANUnless(rows []packet) []packet {
	for i := range rows {
		if rows[i].nic == crossover {
			rows[i].nic = lan
		}
	}
	return rows
}

func gateIn() []packet {
	v4, v6 := ping(filesMAC, client, clientIP, filesIP), ping(filesMAC, client, client6, filesIP6)
	host := nodeMAC[0][lan]
	rows := []packet{
		{name: "in: to the MAC on a NIC that does not carry it", nic: spare, frame: v4, verdict: xdpDrop, counted: "spare in-wrong-nic"},
		{name: "in: to the host", frame: ping(host, client, clientIP, nodeIP[0][lan]), verdict: xdpPass, counted: "lan not-ours"},
		{name: "in: to the host by IPv6", frame: ping(host, client, client6, addr("2001:db8::11")), verdict: xdpPass, counted: "lan not-ours"},
		{name: "in: to the address at the host's MAC, open", frame: ping(host, client, clientIP, filesIP), verdict: xdpPass, counted: "lan in-open"},
		{name: "in: to the address at the host's MAC, closed", frame: ping(host, client, clientIP, filesIP), given: closed["not the owner"],
			verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: to the address at the host's MAC by IPv6, closed", frame: ping(host, client, client6, filesIP6), given: closed["not the owner"],
			verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: a VLAN's frame to the address is not ours", frame: tagged(ping(host, client, clientIP, filesIP)), given: closed["not the owner"],
			verdict: xdpPass, counted: "lan not-ours"},
		{name: "in: a priority's tag hides no address from a closed gate", frame: inVLAN(ping(host, client, clientIP, filesIP), 0),
			given: closed["not the owner"], reply: ping(host, client, clientIP, filesIP), verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: a priority's tag is taken off", frame: inVLAN(v4, 0), reply: v4, verdict: xdpPass, counted: "lan in-open"},
		{name: "in: one priority behind another is not looked behind", frame: inVLAN(inVLAN(ping(host, client, clientIP, filesIP), 0), 0),
			verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: a VLAN behind a priority is not ours", frame: inVLAN(tagged(ping(host, client, clientIP, filesIP)), 0), reply: tagged(ping(host, client, clientIP, filesIP)),
			verdict: xdpPass, counted: "lan not-ours"},
		{name: "in: one identity's MAC does not open another one's gate", frame: ping(filesMAC, client, clientIP, mailIP), verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: one identity's MAC with the address of another that is here too", frame: ping(filesMAC, client, clientIP, mailIP),
			given: func(v *truth) { v.words[1] = owner | 7 }, verdict: xdpPass, counted: "lan in-open"},
		{name: "in: an IPv4 address in IPv6's form is nobody's", frame: ping(host, client, client6, netip.AddrFrom16(filesIP.As16())), given: closed["not the owner"],
			verdict: xdpPass, counted: "lan not-ours"},
		{name: "in: a VLAN's frame to the MAC, closed", frame: tagged(v4), given: closed["not the owner"], verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: another protocol to the MAC, closed", frame: eth(filesMAC, client, 0x88cc, make([]byte, 46)), given: closed["not the owner"],
			verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "in: an Ethernet header alone", frame: eth(host, client, 0x0800, nil), verdict: xdpPass, counted: "lan not-ours"},
	}
	for name, given := range closed {
		rows = append(rows,
			packet{name: "in by IPv4, closed: " + name, frame: v4, given: given, verdict: xdpDrop, counted: "lan in-gate-closed"},
			packet{name: "in by IPv6, closed: " + name, frame: v6, given: given, verdict: xdpDrop, counted: "lan in-gate-closed"})
	}
	for name, given := range open {
		rows = append(rows,
			packet{name: "in by IPv4, open: " + name, frame: v4, given: given, verdict: xdpPass, counted: "lan in-open"},
			packet{name: "in by IPv6, open: " + name, frame: v6, given: given, verdict: xdpPass, counted: "lan in-open"})
	}
	return onLANUnless(rows)
}

func gateOut() []packet {
	v4, v6 := ping(client, filesMAC, filesIP, clientIP), ping(client, filesMAC, filesIP6, client6)
	ask, announce := whoHas(clientIP, filesIP, filesMAC), announcement(filesIP, filesMAC, 2)
	host := nodeMAC[0][lan]
	rows := []packet{
		{name: "out: on a NIC that does not carry it", nic: spare, frame: v4, verdict: tcShot, counted: "spare out-wrong-nic"},
		{name: "out: the host's own", frame: ping(client, host, nodeIP[0][lan], clientIP), verdict: tcUnspec, counted: "lan not-ours"},
		{name: "out: the host's own by IPv6", frame: ping(client, host, addr("2001:db8::11"), client6), verdict: tcUnspec, counted: "lan not-ours"},
		{name: "out: the host's own ARP", frame: whoHas(clientIP, nodeIP[0][lan], host), verdict: tcUnspec, counted: "lan not-ours"},
		{name: "out: the address from the host's MAC", frame: ping(client, host, filesIP, clientIP), verdict: tcShot, counted: "lan out-wrong-mac"},
		{name: "out: the address from the host's MAC by IPv6", frame: ping(client, host, filesIP6, client6), verdict: tcShot, counted: "lan out-wrong-mac"},
		{name: "out: the address in the host's ARP", frame: whoHas(clientIP, filesIP, host), verdict: tcShot, counted: "lan out-wrong-mac"},
		{name: "out: the MAC with the host's address", frame: ping(client, filesMAC, nodeIP[0][lan], clientIP), verdict: tcShot, counted: "lan out-foreign-source"},
		{name: "out: the MAC with another identity's address", frame: ping(client, filesMAC, mailIP, clientIP), verdict: tcShot, counted: "lan out-foreign-source"},
		{name: "out: the MAC with a stranger's ARP", frame: whoHas(clientIP, nodeIP[0][lan], filesMAC), verdict: tcShot, counted: "lan out-foreign-source"},
		{name: "out: an ARP probe from the MAC", frame: whoHas(filesIP, addr("0.0.0.0"), filesMAC), verdict: tcUnspec, counted: "lan out-open"},
		{name: "out: an ARP probe from the MAC, closed", frame: whoHas(filesIP, addr("0.0.0.0"), filesMAC), given: closed["not the owner"],
			verdict: tcShot, counted: "lan out-gate-closed"},
		{name: "out: a VLAN's frame from the host", frame: tagged(ping(client, host, nodeIP[0][lan], clientIP)), verdict: tcUnspec, counted: "lan not-ours"},
		{name: "out: a VLAN's frame from the address is not ours", frame: tagged(ping(client, host, filesIP, clientIP)), given: closed["not the owner"],
			verdict: tcUnspec, counted: "lan not-ours"},
		{name: "out: a VLAN's frame from the MAC", frame: tagged(v4), verdict: tcShot, counted: "lan out-foreign-source"},
		{name: "out: shorter than an IPv6 header", frame: ping(client, filesMAC, filesIP, clientIP)[:14+20], verdict: tcUnspec, counted: "lan out-open"},
	}
	for name, given := range closed {
		for kind, frame := range map[string][]byte{"IPv4": v4, "IPv6": v6, "ARP": ask, "announcement": announce} {
			rows = append(rows, packet{name: "out by " + kind + ", closed: " + name, frame: frame, given: given, verdict: tcShot, counted: "lan out-gate-closed"})
		}
	}
	for name, given := range open {
		for kind, frame := range map[string][]byte{"IPv4": v4, "IPv6": v6, "ARP": ask, "announcement": announce} {
			rows = append(rows, packet{name: "out by " + kind + ", open: " + name, frame: frame, given: given, verdict: tcUnspec, counted: "lan out-open"})
		}
	}
	for i := range rows {
		rows[i].out = true
	}
	return onLANUnless(rows)
}

// No frame with one bit turned is believed or answered: not under the tag, not in the tag.
func TestNoTurnedBitIsBelieved(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	n.put(v)
	whole := signed(t, with(probeOn(lan), func(f *wire.Frame) { f.Words[0] = owner | 6 }), signing)
	const covered = 42
	for bit := 8 * covered; bit < 8*len(whole); bit++ {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if verdict, _ := n.receive(lan, b); verdict != xdpDrop {
			t.Errorf("bit %d turned: verdict %d", bit, verdict)
		}
	}
	unheard(t, n.state())
	if n.words() != v.words {
		t.Errorf("words %x", n.words())
	}
}

func TestNoRandomFrameIsBelieved(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	n.put(v)
	r := rand.New(rand.NewPCG(19, 99))
	whole := signed(t, probeOn(lan), signing)
	for i := range 3000 {
		b := slices.Clone(whole[:42+r.IntN(len(whole)-42)])
		b = append(b, make([]byte, r.IntN(300))...)
		from := []int{14, 42, wire.OffsetIdentities, wire.OffsetWords}[i%4] // more and more of it is right
		for j := min(from, len(b)); j < len(b); j++ {
			b[j] = byte(r.Uint32())
		}
		if bytes.Equal(b, whole) {
			continue
		}
		if verdict, _ := n.receive(lan, b); verdict != xdpDrop && verdict != xdpPass {
			t.Errorf("frame %d: verdict %d\n%s", i, verdict, hex.Dump(b))
		}
	}
	unheard(t, n.state())
	if n.words() != v.words {
		t.Errorf("words %x", n.words())
	}
}
