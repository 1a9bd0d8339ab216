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
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

var (
	offender = wire.MAC{2, 0xbb}
	conflict = []bpf.XdphaXdEventKind{eventConflict}
	nonce    = option(14, []byte{1, 2, 3, 4, 5, 6}) // RFC 3971, 5.3.2
)

func ndRows(t *testing.T) []packet {
	return onLANUnless(slices.Concat(ndAnswered(), ndRefused(), ndNotOurs(), ndClaims()))
}

func ndAnswered() []packet {
	question, answer := asks().bytes(), tells().bytes()
	row := func(name string, f nd) packet {
		return packet{name: "ND answered: " + name, frame: f.bytes(), verdict: xdpTX, reply: answer, counted: "lan nd-answered"}
	}
	dad := func(name string, f nd) packet {
		p := row(name, f)
		p.reply, p.told = tellsAll().bytes(), conflict
		return p
	}
	rows := []packet{
		row("a question with the asker's MAC", asks()),
		row("without", asks().but(func(f *nd) { f.options = nil })),
		row("to the address, to see whether it is still there", asks().but(func(f *nd) { f.to, f.dst = filesMAC, filesIP6 })),
		row("to all", asks().but(func(f *nd) { f.to, f.dst = allNodesMAC, allNodes })),
		row("with a nonce", asks().but(func(f *nd) { f.options = slices.Concat(f.options, nonce) })),
		row("with an option that nobody knows, before", asks().but(func(f *nd) { f.options = slices.Concat(option(253, make([]byte, 30)), f.options) })),
		row("with as many options as are looked at", asks().but(func(f *nd) { f.options = slices.Repeat(f.options, 13) })),
		row("with one option as long as that", asks().but(func(f *nd) { f.options = option(253, make([]byte, 102)) })),
		row("with reserved bits", asks().but(func(f *nd) { f.flags = 0xff })),
		row("padded", asks().but(func(f *nd) { f.padding = []byte("pad") })),
		row("padded to Ethernet's longest frame", asks().but(func(f *nd) { f.padding = make([]byte, 1514-86) })),
		{name: "ND answered: what else a question's header says", frame: flowing(question), verdict: xdpTX, reply: answer, counted: "lan nd-answered"},
		dad("a host that wants the address", wants()),
		dad("a host that wants the address, with a nonce", wants().but(func(f *nd) { f.options = nonce })),
		dad("a host that wants the address, padded", wants().but(func(f *nd) { f.padding = make([]byte, 99) })),
	}
	often := dad("a host that wants the address, told once in a while only", wants())
	often.given, often.told = func(v *truth) { v.state.ConflictToldNs[0] = now() + hour }, nil
	own := dad("our own wish come back is no conflict", wants().but(func(f *nd) { f.from = filesMAC }))
	own.told = nil
	rows = append(rows, often, own)
	for name, given := range open {
		rows = append(rows, packet{name: "ND, gate open: " + name, frame: question, given: given, verdict: xdpTX, reply: answer, counted: "lan nd-answered"})
	}
	return rows
}

// flowing gives a packet a traffic class and a flow label.
func flowing(b []byte) []byte {
	b = slices.Clone(b)
	copy(b[14:], []byte{0x6e, 0x01, 0x23, 0x45})
	return b
}

// ndRefused are questions for our address that nobody answers: neither we nor the stack.
func ndRefused() []packet {
	row := func(name string, frame []byte) packet {
		return packet{name: "ND refused: " + name, frame: frame, verdict: xdpDrop, counted: "lan nd-bad"}
	}
	bad := func(name string, change func(*nd)) packet { return row(name, asks().but(change).bytes()) }
	badWish := func(name string, change func(*nd)) packet { return row(name, wants().but(change).bytes()) }
	sum := asks().bytes()
	sum[14+40+2] ^= 1
	rows := []packet{
		bad("has crossed a router", func(f *nd) { f.hops = 254 }),
		bad("a code", func(f *nd) { f.code = 1 }),
		row("a wrong checksum", sum),
		bad("from a group", func(f *nd) { f.src = allNodes }),
		bad("an option of no length", func(f *nd) { f.options = make([]byte, 8) }),
		bad("an option of no length behind another", func(f *nd) { f.options = append(f.options, make([]byte, 8)...) }),
		bad("an option beyond the end", func(f *nd) { f.options[1] = 2 }),
		bad("an option far beyond the end", func(f *nd) { f.options[1] = 255 }),
		bad("an option beyond the end behind another", func(f *nd) { f.options = append(f.options, 14, 2, 0, 0, 0, 0, 0, 0) }),
		bad("an option beyond the end, in the padding", func(f *nd) { f.options[1], f.padding = 2, make([]byte, 8) }),
		bad("half an option", func(f *nd) { f.options = f.options[:4] }),
		bad("an option and a byte", func(f *nd) { f.options = append(f.options, 0) }),
		bad("more options than are looked at", func(f *nd) { f.options = slices.Repeat(f.options, 14) }),
		bad("an option as long as a frame", func(f *nd) { f.options = option(253, make([]byte, 1514-86)) }),
		bad("no length", func(f *nd) { f.more = -32 }),
		bad("shorter than a question", func(f *nd) { f.more = -16 }),
		bad("shorter than the frame, within an option", func(f *nd) { f.more = -4 }),
		bad("longer than the frame", func(f *nd) { f.more = 8 }),
		bad("longer than the frame, without options", func(f *nd) { f.options, f.more = nil, 8 }),
		bad("as long as a length can say", func(f *nd) { f.more = 0xfff8 - 32 }),
		badWish("who wants the address asks it", func(f *nd) { f.to, f.dst = filesMAC, filesIP6 }),
		badWish("who wants the address asks all", func(f *nd) { f.to, f.dst = allNodesMAC, allNodes }),
		badWish("who wants the address asks another kind of group", func(f *nd) { f.dst = addr("ff02::1:fe00:21") }),
		badWish("who wants the address says where it is", func(f *nd) { f.options = option(sourceMAC, client[:]) }),
		badWish("who wants the address says where it is behind a nonce", func(f *nd) { f.options = slices.Concat(nonce, option(sourceMAC, client[:])) }),
		{name: "ND on the spare for what the lan carries", nic: spare, frame: asks().bytes(), verdict: xdpDrop, counted: "spare nd-wrong-nic"},
		{name: "ND on a NIC without a role", nic: none, frame: asks().bytes(), verdict: xdpDrop, counted: "- nd-wrong-nic"},
		{name: "ND, gate closed, bad", frame: sum, given: closed["not the owner"], verdict: xdpDrop, counted: "lan nd-gate-closed"},
		{name: "ND, gate closed, a host that wants the address", frame: wants().bytes(), given: closed["not the owner"], verdict: xdpDrop,
			counted: "lan nd-gate-closed"},
	}
	for name, given := range closed {
		rows = append(rows, packet{name: "ND, gate closed: " + name, frame: asks().bytes(), given: given, verdict: xdpDrop, counted: "lan nd-gate-closed"})
	}
	return rows
}

// ndNotOurs are frames that look like a question for our address, or nearly.
func ndNotOurs() []packet {
	row := func(name string, frame []byte) packet {
		return packet{name: "not ours to answer: " + name, frame: frame, verdict: xdpPass, counted: "lan not-ours"}
	}
	other := func(name string, change func(*nd)) packet { return row(name, asks().but(change).bytes()) }
	message := asks().bytes()[14+40:]
	behind := func(next byte, header ...byte) []byte {
		return ipv6(filesGroupMAC, client, client6, filesGroup, len(header)+len(message), next, 255, append(header, message...))
	}
	version := asks().bytes()
	version[14] = 0x40
	rows := []packet{
		other("a question for a stranger", func(f *nd) { f.target = addr("2001:db8::1:21") }),
		other("a question for a group", func(f *nd) { f.target = filesGroup }),
		other("a question for nobody", func(f *nd) { f.target = unspecified }),
		other("a router's question", func(f *nd) { f.kind = 133 }),
		other("a router's advertisement", func(f *nd) { f.kind = 134 }),
		other("a redirect", func(f *nd) { f.kind = 137 }),
		row("UDP", ipv6(filesGroupMAC, client, client6, filesGroup, len(message), 17, 255, message)),
		row("behind hop-by-hop options", behind(0, 58, 0, 1, 4, 0, 0, 0, 0)),
		row("behind destination options", behind(60, 58, 0, 1, 4, 0, 0, 0, 0)),
		row("behind a fragment header, whole", behind(44, 58, 0, 0, 0, 0, 0, 0, 1)),
		row("behind a fragment header, the first", behind(44, 58, 0, 0, 1, 0, 0, 0, 1)),
		row("of another version", version),
		row("in a VLAN", tagged(asks().bytes())),
		row("an IPv6 frame of the greatest length", ipv6(nodeMAC[0][lan], client, client6, addr("2001:db8::11"), 1460, 58, 64, append([]byte{128}, make([]byte, 1459)...))),
		row("an IPv6 frame without a payload", ipv6(nodeMAC[0][lan], client, client6, addr("2001:db8::11"), 0, 59, 64, nil)),
		{name: "a neighbour's answer to us", frame: neighbour().bytes(), verdict: xdpPass, counted: "lan in-open"},
		{name: "a neighbour's answer to us, closed", frame: neighbour().bytes(), given: closed["not the owner"], verdict: xdpDrop, counted: "lan in-gate-closed"},
		{name: "a neighbour asks us of another", frame: asks().but(func(f *nd) { f.to, f.dst, f.target = filesMAC, filesIP6, client6 }).bytes(),
			given: closed["not the owner"], verdict: xdpDrop, counted: "lan in-gate-closed"},
	}
	for size := 14; size < 14+40+24; size++ {
		rows = append(rows, row(fmt.Sprintf("cut to %d bytes", size), asks().bytes()[:size]))
	}
	return rows
}

// neighbour is the client's answer to a question of files.
func neighbour() nd {
	return nd{to: filesMAC, from: client, src: client6, dst: filesIP6, hops: 255,
		kind: neighborAdvertisement, flags: solicited, target: client6, options: option(targetMAC, client[:])}
}

func ndClaims() []packet {
	claim := tellsAll().but(func(f *nd) { f.from, f.options = offender, option(targetMAC, offender[:]) })
	of := func(name string, f nd) packet {
		return packet{name: "conflict: " + name, frame: f.bytes(), verdict: xdpDrop, counted: "lan nd-conflict", told: conflict}
	}
	peace := func(name string, f nd) packet {
		return packet{name: "no conflict: " + name, frame: f.bytes(), verdict: xdpPass, counted: "lan not-ours"}
	}
	bad := func(name string, change func(*nd)) packet {
		return packet{name: "no conflict: not believed: " + name, frame: claim.but(change).bytes(), verdict: xdpDrop, counted: "lan nd-bad"}
	}
	onSpare := of("an advertisement on the NIC that does not carry it", claim)
	onSpare.nic, onSpare.counted = spare, "spare nd-conflict"
	often := of("told once in a while only", claim)
	often.given, often.told = func(v *truth) { v.state.ConflictToldNs[0] = now() + hour }, nil
	ownOnSpare := peace("our own advertisement on the other NIC", tellsAll())
	ownOnSpare.nic, ownOnSpare.counted = spare, "spare not-ours"
	rows := []packet{
		of("an advertisement", claim),
		of("an answer", claim.but(func(f *nd) { f.to, f.dst, f.flags = client, client6, solicited|override })),
		of("by the Ethernet source alone", claim.but(func(f *nd) { f.options = nil })),
		of("by the option alone", claim.but(func(f *nd) { f.from = filesMAC })),
		of("by an option behind another", claim.but(func(f *nd) { f.options = slices.Concat(nonce, f.options) })),
		of("by the first option", claim.but(func(f *nd) { f.options = slices.Concat(f.options, option(targetMAC, filesMAC[:])) })),
		of("by the Ethernet source, where the option holds no MAC", claim.but(func(f *nd) {
			f.options = option(targetMAC, append(slices.Clone(filesMAC[:]), make([]byte, 8)...))
		})),
		onSpare, often, ownOnSpare,
		peace("our own advertisement", tellsAll()),
		peace("our own answer, told by somebody else", tells().but(func(f *nd) { f.from = offender })),
		peace("our own MAC as source, no option", tellsAll().but(func(f *nd) { f.options = nil })),
		peace("an advertisement of a stranger's address", claim.but(func(f *nd) { f.target = client6 })),
		bad("has crossed a router", func(f *nd) { f.hops = 254 }),
		bad("an option of no length", func(f *nd) { f.options = make([]byte, 8) }),
		bad("longer than the frame", func(f *nd) { f.more = 8 }),
		bad("an answer to all", func(f *nd) { f.flags = solicited }),
	}
	for name, given := range closed {
		p := peace("the gate is closed: "+name, claim)
		p.given = given
		rows = append(rows, p)
	}
	return rows
}

func TestAnAddressConflictNamesTheOffender(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	claim := tellsAll().but(func(f *nd) { f.from, f.options = offender, option(targetMAC, client[:]) })
	for name, c := range map[string]struct {
		frame nd
		mac   wire.MAC
	}{
		"by an advertisement's option": {claim, client},
		"by an advertisement's frame":  {claim.but(func(f *nd) { f.options = nil }), offender},
		"by the frame of who wants it": {wants().but(func(f *nd) { f.from = offender }), offender},
	} {
		n.put(n.atWork())
		for range 3 { // two within 100 ms of the one that is told
			n.receive(lan, c.frame.bytes())
		}
		var raw ringbuf.Record
		n.events.SetDeadline(time.Now().Add(patience))
		n.must(n.events.ReadInto(&raw))
		if e := event(raw); e.Kind != eventConflict || e.Identity != 0 || e.A != mac64(c.mac) || addressOf(e.First, e.Second) != filesIP6 {
			t.Errorf("%s: told %+v, want %v", name, e, c.mac)
		}
		if stamp := n.state().ConflictToldNs[0]; now()-stamp < uint64(100*time.Millisecond) { // else a busy machine took its time
			if more := n.told(); len(more) != 0 {
				t.Errorf("%s: told %d times more", name, len(more))
			}
		}
	}
}

// No frame is answered but what RFC 4861, 7.1.1, lets be answered, and all of that is.
func TestQuestionsAreAnsweredAsTheRFCSays(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	n.put(n.atWork())
	r := rand.New(rand.NewPCG(48, 61))
	answered := 0
	for i, b := range spoiledQuestions(r) {
		want, reply := xdpDrop, b
		switch {
		case !asksForFiles(b):
			want = xdpPass
		case mayAnswer(b):
			answered++
			want, reply = xdpTX, answerTo(b)
		}
		if verdict, out := n.receive(lan, b); verdict != uint32(want) || !bytes.Equal(out, reply) {
			t.Fatalf("frame %d: verdict %d, want %d\n%sbecame\n%s", i, verdict, want, hex.Dump(b), hex.Dump(out))
		}
	}
	if answered < 1000 {
		t.Errorf("only %d frames were to be answered: this proves little", answered)
	}
}

// spoiledQuestions are questions with each of their bits turned, and questions of
// random options with random bytes changed, most with a right checksum.
func spoiledQuestions(r *rand.Rand) (frames [][]byte) {
	whole := [][]byte{asks().bytes(), wants().bytes()}
	for _, b := range whole {
		for bit := 8 * 14; bit < 8*len(b); bit++ {
			b := slices.Clone(b)
			b[bit/8] ^= 1 << (bit % 8)
			frames = append(frames, b)
		}
	}
	for range 6000 {
		f := []nd{asks(), wants()}[r.IntN(2)]
		f.options = nil
		for range r.IntN(5) {
			f.options = append(f.options, option([]byte{1, 2, 14, 200}[r.IntN(4)], make([]byte, 6+r.IntN(20)))...)
		}
		f.padding = make([]byte, r.IntN(3)*r.IntN(40))
		f.more = []int{0, 0, 0, 0, 0, 8, -8, r.IntN(17) - 8}[r.IntN(8)]
		if len(f.options) > 0 && r.IntN(3) == 0 {
			f.options[r.IntN(len(f.options))] = byte(r.IntN(6))
		}
		b := f.bytes()
		if r.IntN(6) == 0 {
			b[14+r.IntN(len(b)-14)] ^= 1 << r.IntN(8)
		}
		frames = append(frames, b)
	}
	return frames
}

func asksForFiles(b []byte) bool {
	return b[14]>>4 == 6 && b[20] == 58 && b[54] == neighborSolicitation && netip.AddrFrom16([16]byte(b[62:])) == filesIP6
}

// mayAnswer reads RFC 4861, 7.1.1, line by line.
func mayAnswer(b []byte) bool {
	src, dst := netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[38:]))
	hops, length, m := b[21], int(binary.BigEndian.Uint16(b[18:])), slices.Clone(b[54:])
	if length > len(m) || length < 24 || length > 128 { // the last is the program's own limit
		return false
	}
	m = m[:length]
	sum := binary.BigEndian.Uint16(m[2:])
	m[2], m[3] = 0, 0
	if hops != 255 || checksum6(src, dst, length, m) != sum || m[1] != 0 || src.IsMulticast() {
		return false
	}
	saysWhere := false
	for o := m[24:]; len(o) > 0; o = o[8*int(o[1]):] {
		if len(o) < 2 || o[1] == 0 || 8*int(o[1]) > len(o) {
			return false
		}
		saysWhere = saysWhere || o[0] == sourceMAC
	}
	group := netip.MustParsePrefix("ff02::1:ff00:0/104")
	return src != unspecified || group.Contains(dst) && !saysWhere
}

func answerTo(b []byte) []byte {
	src := netip.AddrFrom16([16]byte(b[22:]))
	if src == unspecified {
		return tellsAll().bytes()
	}
	return tells().but(func(f *nd) { f.dst = src }).bytes()
}
