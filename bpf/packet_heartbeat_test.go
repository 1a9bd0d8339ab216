// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

func heartbeats(t *testing.T) []packet {
	answer := func(f wire.Frame, self wire.Frame) []byte { return signed(t, f.Answer(self), signing) }
	var rows []packet
	for path, nic := range []int{crossover, lan, spare, lowerLan: lan, lowerSpare: spare} {
		link, name := []string{"crossover", "lan", "spare"}[nic], []string{"crossover", "lan", "spare", "path from spare to lan", "path from lan to spare"}[path]
		rows = append(rows, packet{
			name: "a probe on the " + name + " is answered", nic: nic, frame: signed(t, probeOn(path), signing),
			verdict: xdpTX, reply: answer(probeOn(path), selfSays()), counted: link + " hb-probe-answered",
			then: func(t *testing.T, s view) {
				l, mac := s.Peer.Paths[path], [3]uint64{}
				mac[ends(path)[1]] = mac64(nodeMAC[1][ends(path)[1]])
				if l.HeardNs == 0 || l.ProbeSeq != 44 || s.Peer.Macs != mac || l.ReplySeq != 0 {
					t.Errorf("heard %d, seq %d, MACs %x", l.HeardNs, l.ProbeSeq, s.Peer.Macs)
				}
				if s.Peer.AgeUs != 4321 || s.Peer.Flags != 66 || s.Peer.Digest != digest || s.Peer.Nonce != peerNonce {
					t.Errorf("peer: %+v", s)
				}
			},
		}, packet{
			name: "a reply on the " + name + " is taken and never answered", nic: nic, frame: signed(t, replyOn(path), signing),
			verdict: xdpDrop, counted: link + " hb-reply-accepted",
			then: func(t *testing.T, s view) {
				l := s.Peer.Paths[path]
				if l.HeardNs == 0 || l.ReplySeq != 99 || l.RttNs != l.HeardNs-77 || l.RttMaxNs != l.RttNs || l.ProbeSeq != 0 {
					t.Errorf("heard %d, seq %d, RTT %d", l.HeardNs, l.ReplySeq, l.RttNs)
				}
			},
		})
	}
	later := now() + hour // by another processor, which was not held up
	rows = append(rows, packet{
		name: "a stamp that is newer stays", nic: lan, frame: signed(t, probeOn(lan), signing),
		given:   func(v *truth) { v.peer.HeardNs, v.peer.Paths[lan].HeardNs = later, later },
		verdict: xdpTX, reply: answer(probeOn(lan), selfSays()), counted: "lan hb-probe-answered",
		then: func(t *testing.T, s view) {
			if s.Peer.HeardNs != later || s.Peer.Paths[lan].HeardNs != later {
				t.Errorf("stamped %d and %d, not %d", s.Peer.HeardNs, s.Peer.Paths[lan].HeardNs, later)
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
			then: func(t *testing.T, s view) {
				if s.Peer.Key != uint64(retiring.ID) {
					t.Errorf("the peer is said to sign with key %d", s.Peer.Key)
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
		{name: "a path that is none", frame: spoil(wire.OffsetLink, paths), counted: "lan hb-wrong-link"},
		{name: "the cross path of the other NIC", frame: spoil(wire.OffsetLink, lowerSpare), counted: "lan hb-wrong-link"},
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

func unheard(t *testing.T, s view) {
	for i, l := range s.Peer.Paths {
		if l.HeardNs != 0 || l.ProbeSeq != 0 || l.ReplySeq != 0 || l.Unproven != 0 {
			t.Errorf("link %d: the frame was believed: %+v", i, l)
		}
	}
	if s.Peer.Boot != peerBoot || s.Peer.Nonce != peerNonce || s.Peer.Macs != [3]uint64{} || s.Peer.AgeUs != 0 || s.Peer.MyNonce != selfNonce {
		t.Errorf("the frame was believed: %+v", s)
	}
}

func freshness(t *testing.T) []packet {
	drop := func(name string, f wire.Frame, reason string, given func(*truth), then func(*testing.T, view)) packet {
		return packet{name: name, nic: lan, frame: signed(t, f, signing), given: given, verdict: xdpDrop, counted: "lan " + reason, then: then}
	}
	candidate := func(want uint64) func(*testing.T, view) {
		return func(t *testing.T, s view) {
			if s.Peer.Paths[lan].Unproven != want || s.Peer.Paths[lan].HeardNs != 0 || s.Peer.Boot != peerBoot {
				t.Errorf("candidate %x, want %x; heard %d", s.Peer.Paths[lan].Unproven, want, s.Peer.Paths[lan].HeardNs)
			}
		}
	}
	stale := with(probeOn(lan), func(f *wire.Frame) { f.Echo = 0x0bad })
	booted := with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Nonce, f.Seq, f.Words = 0xb2, 0xa2, 1, []uint64{5, 5} })
	before := with(probeOn(lan), func(f *wire.Frame) { f.Echo = 0x0b })
	heard := func(v *truth) { v.peer.Paths[lan].ProbeSeq = 44 }
	return []packet{
		drop("a probe comes a second time", probeOn(lan), "hb-replayed", heard, nil),
		drop("a probe comes after a later one", with(probeOn(lan), func(f *wire.Frame) { f.Seq = 43 }), "hb-replayed", heard, nil),
		drop("a reply comes a second time", replyOn(lan), "hb-replayed", func(v *truth) { v.peer.Paths[lan].ReplySeq = 99 }, nil),
		drop("a reply to a probe that we have not sent", with(replyOn(lan), func(f *wire.Frame) { f.Seq = 101 }), "hb-replayed", nil, unheard),
		drop("an unknown echo while the peer is up", stale, "hb-unproven", nil, unheard),
		drop("an unknown echo while the peer is suspected", stale, "hb-unproven", func(v *truth) { v.peer.State = 2 }, unheard),
		drop("an unknown echo while the peer is dead", stale, "hb-unproven", func(v *truth) { v.peer.State = 3 }, candidate(peerNonce)),
		drop("an unknown echo while nobody is known", stale, "hb-unproven", func(v *truth) { v.peer.State = 0 }, candidate(peerNonce)),
		drop("a new boot's reply to a probe that we have not sent",
			with(replyOn(lan), func(f *wire.Frame) { f.BootID, f.Seq = 0xb2, 101 }), "hb-replayed", nil, unheard),
		drop("a replay of an old boot, which echoes an old nonce",
			with(booted, func(f *wire.Frame) { f.Echo = 0x0b }), "hb-unproven", func(v *truth) { v.peer.MyNonceBefore = 0x0b }, unheard),
		{name: "the boot of now may echo the nonce before, for frames cross", nic: lan, frame: signed(t, before, signing),
			given:   func(v *truth) { v.peer.MyNonceBefore = 0x0b },
			verdict: xdpTX, counted: "lan hb-probe-answered", reply: signed(t, before.Answer(selfSays()), signing)},
		drop("but not twice", before, "hb-replayed", func(v *truth) { v.peer.MyNonceBefore = 0x0b; heard(v) }, nil),
		drop("no echo while there is no nonce yet", with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Echo = 0xb2, 0 }), "hb-unproven",
			func(v *truth) { v.peer.State, v.peer.MyNonce = 0, 0 }, candidate(peerNonce)),
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
	here.then = func(t *testing.T, s view) {
		if s.ToAnnounce != 1<<16 {
			t.Errorf("to announce %b: not the other forms alone", s.ToAnnounce)
		}
	}
	rows = append(rows, here,
		also(here, func(v *truth) { v.config.ServeNs, v.state.ServeUntilNs = serveFor, 1 }))
	dark := &rows[len(rows)-1]
	dark.name, dark.verdict, dark.counted = "released to us without the right to serve: nothing is announced", xdpDrop, "lan hb-reply-accepted"
	dark.reply, dark.told = nil, taken[:2]
	dark.then = func(t *testing.T, s view) {
		if s.ToAnnounce != 1 {
			t.Errorf("to announce %b: not all of it", s.ToAnnounce)
		}
	}
	rows[4] = also(rows[4], func(v *truth) { v.peer.State = 3; v.peer.Words[0] = 5 })
	rows[4].told = []bpf.XdphaXdEventKind{eventPeerWord}
	for i, r := range rows {
		if r.name != "another configuration is life but moves nothing" && r.name != "fewer identities are life but move nothing" {
			continue
		}
		rows[i].then = func(t *testing.T, s view) {
			if s.Peer.Paths[lan].HeardNs == 0 || s.Peer.Words[0] != 5 {
				t.Errorf("heard %d, word %x", s.Peer.Paths[lan].HeardNs, s.Peer.Words[0])
			}
		}
	}
	return rows
}
