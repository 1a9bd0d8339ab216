// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
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
	then    func(*testing.T, view)
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

// States in which the gate of files is closed, on a node whose lan NIC carries it.
var closed = map[string]func(*truth){
	"not the owner":                       func(v *truth) { v.words[0] = 5 },
	"armed only":                          func(v *truth) { v.words[0] = ready | staged | 5 },
	"released":                            func(v *truth) { v.words[0] = yield | 5 },
	"the lease ran out":                   func(v *truth) { v.control.LeaseUntilNs = 1 },
	"no lease yet":                        func(v *truth) { v.control.LeaseUntilNs = 0 },
	"no lease, the peer suspected":        func(v *truth) { v.control.LeaseUntilNs = 1; v.peer.State = 2 },
	"no right to serve yet":               func(v *truth) { v.config.ServeNs = 4e6 },
	"the right to serve ran out":          func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = now() - 1 },
	"the right ran out, the peer dead":    func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = 1; v.peer.State = 3 },
	"its key was held until a moment ago": func(v *truth) { arbitrated(v); v.control.LeaveNs[0] = now() - 1 },
	"the key of another one is held":      func(v *truth) { arbitrated(v); v.control.LeaveNs[1] = now() + hour },
	"a key is held that nobody asks for": func(v *truth) {
		arbitrated(v)
		v.config.Verdict, v.control.LeaveNs[0] = bpf.XdphaXdVerdictVERDICT_KERNEL, now()+hour
	},
	"its key is held, but no lease":      func(v *truth) { arbitrated(v); v.control.LeaveNs[0], v.control.LeaseUntilNs = now()+hour, 1 },
	"no lease, peer dead, not kept solo": func(v *truth) { v.control.LeaseUntilNs = 1; v.peer.State = 3; v.config.SoloKeep = 0 },
}

// States in which it is open.
var open = map[string]func(*truth){
	"the owner":                nil,
	"the right to serve lasts": func(v *truth) { v.config.ServeNs = 4e6; v.state.ServeUntilNs = now() + hour },
	"its key is held":          func(v *truth) { arbitrated(v); v.control.LeaveNs[0] = now() + hour },
	"granted, without its key": func(v *truth) { arbitrated(v); v.state.ServeUntilNs = now() + hour },
	"supervisor lost, peer dead, the arbiter's leave lasts": func(v *truth) {
		v.config.ServeNs, v.state.ServeUntilNs, v.peer.State, v.control.LeaseUntilNs = 4e6, now()+hour, 3, 1
	},
	"about to release":            func(v *truth) { v.words[0] = owner | yield | 5 },
	"no lease, peer dead, solo":   func(v *truth) { v.control.LeaseUntilNs = 1; v.peer.State = 3 },
	"the peer is suspected":       func(v *truth) { v.peer.State = 2 },
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
			verdict: xdpPass, counted: "spare not-ours", then: func(t *testing.T, s view) {
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
