// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"unsafe"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// judge holds what a frame did against the rules. They are written down from what is promised, not
// from the programs, and are of four kinds: what may pass, what may be answered and how, what may
// be written by whom, and that exactly one reason is counted (see count).
func (g *gun) judge(cfg *bpf.XdphaXdConfig, before *moment, s shot, r result) error {
	j := &judgement{cfg: cfg, before: before, gun: g, shot: s, result: r, link: none, bare: untagged(s.frame)}
	for i, l := range cfg.Links {
		if s.to != ticked && l.Ifindex == uint32(j.nic()) {
			j.link = i
		}
	}
	if j.row != j.link {
		return fmt.Errorf("counted for link %d", j.row)
	}
	if reasonNames[j.reason] == "internal" {
		return errors.New("the program says that what cannot happen happened")
	}
	if *g.control != before.control {
		return errors.New("a frame changed what user space says")
	}
	switch s.to {
	case ingress:
		return cmpErr(j.in(), j.wroteIn())
	case egress:
		return cmpErr(j.egress(), j.wroteOut())
	default:
		return cmpErr(j.tick(), j.wroteTick())
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// judgement is one frame and what it did.
type judgement struct {
	*gun
	shot
	result
	cfg    *bpf.XdphaXdConfig
	before *moment
	link   int
	bare   []byte // the frame without tags of a priority
}

var idOfMAC = map[wire.MAC]int{filesMAC: 0, mailMAC: 1}

var idOfIP = map[netip.Addr]int{filesIP: 0, filesIP6: 0, mailIP: 1}

// open tells whether an identity's gate was surely open while the frame was there, and closed
// whether it was surely shut: both false if it changed in between.
func (j *judgement) open(m *moment, id int) (open, closed bool) {
	a, b := j.openAt(m, id, j.began), j.openAt(m, id, j.ended)
	return a && b, !a && !b
}

func (j *judgement) openAt(m *moment, id int, t uint64) bool {
	after := func(a, b uint64) bool { return int64(a-b) > 0 }
	if m.words[id]&owner == 0 || j.cfg.ServeNs != 0 && !after(m.state.ServeUntilNs, t) {
		return false
	}
	knocked := m.state.KnockedNs != 0 && !after(t, m.state.KnockedNs+j.cfg.HoldNs)
	return after(m.control.LeaseUntilNs, t) || j.cfg.SoloKeep != 0 && m.state.PeerState == dead && !knocked
}

func (j *judgement) carried(id int) bool {
	return j.cfg.Identities[id].Carrier == uint32(j.nic())
}

func (j *judgement) nic() int { return j.gun.nic[0][j.shot.nic] }

// untagged is a frame as the stack will see it: who stands in no VLAN may still give a priority.
func untagged(b []byte) []byte {
	for len(b) >= 18 && (b[12] == 0x81 && b[13] == 0 || b[12] == 0x88 && b[13] == 0xa8) && b[14]&0xf == 0 && b[15] == 0 {
		b = slices.Delete(slices.Clone(b), 12, 16)
	}
	return b
}

// addresses are those in an IP header, or an invalid one where there are none.
func addresses(b []byte) (src, dst netip.Addr) {
	switch {
	case len(b) >= 34 && b[12] == 8 && b[13] == 0:
		return netip.AddrFrom4([4]byte(b[26:])), netip.AddrFrom4([4]byte(b[30:]))
	case len(b) >= 54 && b[12] == 0x86 && b[13] == 0xdd:
		return netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[38:]))
	}
	return src, dst
}

// arpFields are those of a whole ARP packet for IPv4.
type arpFields struct {
	operation            uint16
	senderMAC, targetMAC wire.MAC
	sender, target       netip.Addr
}

// asARP reads what a host would take for ARP: Linux heeds two hardware types on Ethernet.
func asARP(b []byte) (f arpFields, ok bool) {
	if len(b) < 42 || b[12] != 8 || b[13] != 6 || b[14] != 0 || b[15] != 1 && b[15] != 6 || !bytes.Equal(b[16:20], []byte{8, 0, 6, 4}) {
		return f, false
	}
	return arpFields{binary.BigEndian.Uint16(b[20:]), wire.MAC(b[22:28]), wire.MAC(b[32:38]), netip.AddrFrom4([4]byte(b[28:])), netip.AddrFrom4([4]byte(b[38:]))}, true
}

// solicits is the address that a neighbour solicitation right behind its IPv6 header asks for.
func solicits(b []byte) (target netip.Addr, ok bool) {
	if len(b) < 78 || b[12] != 0x86 || b[13] != 0xdd || b[14]>>4 != 6 || b[20] != 58 || b[54] != neighborSolicitation {
		return target, false
	}
	return netip.AddrFrom16([16]byte(b[62:])), true
}

// in judges what passed and what was answered.
func (j *judgement) in() error {
	switch j.verdict {
	case xdpTX:
		return j.answered()
	case xdpPass:
		// The stack takes the tag of a priority off: what passes may be without it.
		if !bytes.Equal(untagged(j.result.out), j.bare) {
			return fmt.Errorf("what passed was changed:\n%s", hex.Dump(j.result.out))
		}
		return j.passed(j.bare)
	case xdpDrop:
		return nil
	}
	return fmt.Errorf("verdict %d", j.verdict)
}

// passed: nothing of an identity comes in by a closed gate, and the stack is asked for none of their
// addresses.
func (j *judgement) passed(b []byte) error {
	byMAC, toMAC := idOfMAC[wire.MAC(b)]
	_, dst := addresses(b)
	byIP, toIP := idOfIP[dst]
	for _, to := range []struct {
		id        int
		concerned bool
	}{{byMAC, toMAC}, {byIP, toIP}} {
		if _, closed := j.open(j.before, to.id); to.concerned && closed {
			return fmt.Errorf("traffic of identity %d passed its closed gate", to.id)
		}
	}
	if toMAC && !j.carried(byMAC) {
		return fmt.Errorf("traffic to the MAC of identity %d came in by a NIC that does not carry it", byMAC)
	}
	if f, ok := asARP(b); ok && f.operation == 1 && f.sender != f.target {
		if id, ours := idOfIP[f.target]; ours {
			return fmt.Errorf("the stack was asked for the address of identity %d", id)
		}
	}
	if target, ok := solicits(b); ok {
		if id, ours := idOfIP[target]; ours {
			return fmt.Errorf("the stack was asked for the address of identity %d", id)
		}
	}
	return nil
}

// answered: an answer is to a question, byte for byte what the standards want, and from an owner.
func (j *judgement) answered() error {
	b := j.bare
	if f, ok := asARP(b); ok {
		return j.answeredFor(f.target, func(mac wire.MAC) ([]byte, error) {
			if f.operation != 1 || f.sender == f.target {
				return nil, errors.New("no question was answered")
			}
			want := arp(wire.MAC(b[6:12]), mac, 2, mac, f.target, f.senderMAC, f.sender)
			want[15] = b[15]
			return append(want, b[42:]...), nil
		})
	}
	if target, ok := solicits(b); ok {
		return j.answeredFor(target, func(mac wire.MAC) ([]byte, error) {
			if sum := icmp6Sum(b); b[21] != 255 || b[55] != 0 || sum != 0 {
				return nil, fmt.Errorf("a solicitation that no host heeds was answered: checksum %#x", sum)
			}
			f := tells()
			f.from, f.src, f.target, f.options = mac, target, target, option(targetMAC, mac[:])
			if src, _ := addresses(b); src == unspecified {
				f.to, f.dst, f.flags = allNodesMAC, allNodes, override
			} else {
				f.to, f.dst = wire.MAC(b[6:12]), src
			}
			return f.bytes(), nil
		})
	}
	return j.answeredPeer()
}

func (j *judgement) answeredFor(target netip.Addr, answer func(wire.MAC) ([]byte, error)) error {
	id, ours := idOfIP[target]
	if !ours {
		return fmt.Errorf("answered for %v, which is nobody's", target)
	}
	if _, closed := j.open(j.before, id); closed || !j.carried(id) {
		return fmt.Errorf("answered for identity %d behind a closed gate, or by a NIC that does not carry it", id)
	}
	want, err := answer(j.cfg.Identities[id].Mac)
	if err == nil && !bytes.Equal(want, j.result.out) {
		err = fmt.Errorf("answered\n%swant\n%s", hex.Dump(j.result.out), hex.Dump(want))
	}
	return err
}

// icmp6Sum is 0 if the checksum of an ICMPv6 message is right.
func icmp6Sum(b []byte) uint16 {
	length := int(binary.BigEndian.Uint16(b[18:]))
	if len(b) < 54+length || length < 24 {
		return 0xffff
	}
	src, dst := addresses(b)
	return checksum6(src, dst, length, b[54:54+length])
}

// answeredPeer: only the peer's fresh probe is answered, or an identity that its frame brought is
// announced. A reply never is answered.
func (j *judgement) answeredPeer() error {
	f, fresh := j.fresh()
	if !fresh {
		return errors.New("a frame that is no fresh heartbeat of the peer was answered")
	}
	if ours, ok := asARP(j.result.out); ok {
		return j.announced(ours)
	}
	if f.Direction != wire.Probe {
		return errors.New("a reply was answered")
	}
	self := wire.Frame{SrcMAC: j.cfg.Links[j.link].Mac, Sender: j.cfg.Self, KeyID: signing.ID, BootID: j.state.BootId, Nonce: j.state.Nonce,
		Digest: j.cfg.Digest, Flags: uint32(j.control.Flags), Words: make([]uint64, len(f.Words))}
	copy(self.Words, j.words[:identities])
	if len(j.keys()) > 1 {
		self.Flags |= twoKeys
	}
	if j.control.RenewedNs == 0 {
		self.AgeUS = ^uint32(0)
	}
	if len(j.result.out) == len(j.bare) {
		self.SentNS = binary.LittleEndian.Uint64(j.result.out[offsetSent:])
		self.Flags |= binary.LittleEndian.Uint32(j.result.out[wire.OffsetMagic+64:]) & 4 // serving alone is judged elsewhere
	}
	answer := f.Answer(self)
	if j.state.PeerState == dead {
		answer.GrantNS = 0
	}
	signedAnswer, err := answer.Marshal(signing)
	if err != nil {
		return err
	}
	want := append(slices.Clone(j.bare[:wire.OffsetMagic]), signedAnswer[wire.OffsetMagic:]...)
	copy(want, signedAnswer[:12])
	copy(want[26:34], signedAnswer[26:34])
	if !bytes.Equal(want, j.result.out) || self.SentNS < j.began || self.SentNS > j.ended {
		return fmt.Errorf("answered\n%swant\n%s", hex.Dump(j.result.out), hex.Dump(want))
	}
	return nil
}

func (j *judgement) announced(f arpFields) error {
	id, ours := idOfMAC[f.senderMAC]
	after := j.moment()
	if _, closed := j.open(&after, id); !ours || closed || !j.carried(id) {
		return fmt.Errorf("%v was announced by who does not own it here", f.senderMAC)
	}
	want := append(announcement(f.sender, f.senderMAC, 1), make([]byte, 18)...)
	if !bytes.Equal(want, j.result.out) || idOfIP[f.sender] != id {
		return fmt.Errorf("announced\n%s", hex.Dump(j.result.out))
	}
	return nil
}

// keys are those that this node accepts.
func (j *judgement) keys() []wire.Key {
	if j.control.Keys == inForce(signing, retiring) {
		return []wire.Key{signing, retiring}
	}
	return []wire.Key{signing}
}

// heartbeat reads a frame that is signed with a key of this node, whatever else is wrong with it.
func (j *judgement) heartbeat() (f wire.Frame, authentic, sound bool) {
	b := j.bare
	if len(j.frame)-len(b) > 4 || // nobody sends two such tags
		len(b) < wire.OffsetMagic+16 || b[12] != 8 || b[13] != 0 || b[23] != 17 {
		return f, false, false
	}
	keys := j.keys()
	for _, k := range keys {
		again := slices.Clone(b)
		if wire.Seal(again, k) == nil && bytes.Equal(again, b) {
			authentic = true
		}
	}
	if !authentic {
		return f, false, false
	}
	f, err := wire.Parse(b, keys...)
	if errors.Is(err, wire.ErrBadChecksum) { // who forwards a frame without IP may leave it wrong
		b = slices.Clone(b)
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], headerSum(b[14:34]))
		f, err = wire.Parse(b, keys...)
	}
	sound = err == nil && j.link < none && f.ClusterID == cluster && int(f.Link) == j.link && f.Sender == 1-j.cfg.Self &&
		be(f.DstIP) == j.cfg.Links[j.link].LocalBe
	return f, true, sound
}

func headerSum(b []byte) uint16 {
	sum := 0
	for i := 0; i < len(b); i += 2 {
		sum += int(b[i])<<8 | int(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// fresh reads a heartbeat of the peer that is of now: it echoes a nonce of mine, and its number is
// higher than any that came this way.
func (j *judgement) fresh() (wire.Frame, bool) {
	f, _, sound := j.heartbeat()
	st := &j.before.state
	if !sound {
		return f, false
	}
	same := f.BootID == st.PeerBoot
	if !(st.Nonce != 0 && f.Echo == st.Nonce) && !(same && st.NonceBefore != 0 && f.Echo == st.NonceBefore) {
		return f, false
	}
	if f.Direction == wire.Reply {
		behind := st.Seq - f.Seq
		return f, f.Seq <= st.Seq && (!same || behind < 64 && f.Seq > st.Links[j.link].ReplySeq)
	}
	for _, l := range st.Links {
		if same && l.ProbeSeq >= f.Seq+64 {
			return f, false
		}
	}
	return f, !same || f.Seq > st.Links[j.link].ProbeSeq
}

// egress: nothing of an identity leaves but from its owner, by its NIC, with its MAC and address.
func (j *judgement) egress() error {
	if !bytes.Equal(j.result.out, j.frame) {
		return errors.New("the frame was changed")
	}
	if j.verdict == tcShot {
		return nil
	}
	if j.verdict != tcUnspec {
		return fmt.Errorf("verdict %d", j.verdict)
	}
	b := j.frame
	src, _ := addresses(b)
	byMAC, ofMAC := idOfMAC[wire.MAC(b[6:])]
	byIP, ofIP := idOfIP[src]
	if len(b) >= 42 && b[12] == 8 && b[13] == 6 {
		sender := netip.AddrFrom4([4]byte(b[28:]))
		byIP, ofIP = idOfIP[sender]
		if sender == addr("0.0.0.0") { // an ARP probe
			byIP, ofIP = byMAC, ofMAC
		}
	}
	if !ofMAC && !ofIP {
		return nil
	}
	if ofMAC != ofIP || byMAC != byIP {
		return errors.New("a MAC left with an address that is not its own")
	}
	if _, closed := j.open(j.before, byMAC); closed || !j.carried(byMAC) {
		return fmt.Errorf("traffic of identity %d left by a closed gate, or by a NIC that does not carry it", byMAC)
	}
	return nil
}

func (j *judgement) tick() error {
	if j.verdict == tcShot || j.verdict == tcRedirect && j.control.Pace != bpf.XdphaXdPacePACE_THREAD && j.frame[5] == 0x70 {
		return nil
	}
	return fmt.Errorf("verdict %d", j.verdict)
}

// ledger is what a frame may write: all else must be as before.
type ledger struct {
	*judgement
	want moment
	now  moment
}

func (j *judgement) ledger() *ledger { return &ledger{j, *j.before, j.moment()} }

// settle tells what was written that may not be.
func (l *ledger) settle(who string) error {
	if l.want.words != l.now.words {
		return fmt.Errorf("%s made the words %x of %x", who, l.now.words[:identities], l.before.words[:identities])
	}
	if l.want.timelines != l.now.timelines {
		return fmt.Errorf("%s wrote the timelines %+v over %+v", who, l.now.timelines[:identities], l.before.timelines[:identities])
	}
	want, got := fields(&l.want.state), fields(&l.now.state)
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%s made %s %#x of %#x", who, fieldName(i), got[i], want[i])
		}
	}
	return nil
}

// stamped lets a time be set to that of the frame.
func (l *ledger) stamped(want *uint64, got uint64) {
	if got >= l.began && got <= l.ended {
		*want = got
	}
}

// first lets the first packets of an open identity be noted.
func (l *ledger) first(m *moment) {
	for id := range identities {
		if _, closed := l.open(m, id); closed {
			continue
		}
		want, got := &l.want.timelines[id], &l.now.timelines[id]
		for _, t := range []struct {
			want *uint64
			got  uint64
		}{{&want.AnsweredNs, got.AnsweredNs}, {&want.InNs, got.InNs}, {&want.OutNs, got.OutNs}} {
			if *t.want == 0 {
				l.stamped(t.want, t.got)
			}
		}
	}
}

// claimed: a claim is counted, and told once in a while; one that must be denied is kept if there is room.
func (l *ledger) claimed(kept bool) {
	want, now, b := &l.want.state, &l.now.state, l.bare
	address := netip.AddrFrom16([16]byte(append(slices.Clone(b), make([]byte, 64)...)[62:]))
	if f, ok := asARP(b); ok {
		if address = f.sender; !kept {
			address = f.target
		}
	}
	id, ok := idOfIP[address]
	if !ok || now.Conflicts[id] == want.Conflicts[id] && !kept {
		return
	}
	want.Conflicts[id]++
	l.stamped(&want.ConflictToldNs[id], now.ConflictToldNs[id])
	if n := want.Claimed; kept && n-want.Denied < 64 {
		first, second := halves(address)
		want.Claims[n%64] = bpf.XdphaXdClaim{Identity: uint64(id) + 1, First: first, Second: second}
		want.Claimed++
	}
}

func (j *judgement) wroteIn() error {
	l := j.ledger()
	f, authentic, _ := j.heartbeat()
	if authentic {
		if f, fresh := j.fresh(); fresh {
			return l.peerWrote(f)
		}
		if err := l.knocked(f); err != nil {
			return err
		}
	}
	l.strangerWrote()
	who := "a frame without the key"
	if authentic {
		who = "a frame that is not fresh, or not for this link,"
	}
	return l.settle(who)
}

// knocked: who has the key but is not proven is noted while no peer is up.
func (l *ledger) knocked(f wire.Frame) error {
	if reasonNames[l.reason] != "hb-unproven" {
		return nil
	}
	if s := l.before.state.PeerState; s == unknown || s == dead {
		l.want.state.Candidate[l.link] = f.Nonce
		l.stamped(&l.want.state.KnockedNs, l.now.state.KnockedNs)
	}
	return nil
}

// strangerWrote: somebody without the key can leave no more behind than that he was there, that he
// claimed an address, and what a listed host can say, whose answers are ARP's.
func (l *ledger) strangerWrote() {
	b := l.bare
	want, now := &l.want.state, &l.now.state
	if l.link == crossover && len(b) >= 42 && b[23] == 17 {
		l.stamped(&want.StrangerNs, now.StrangerNs)
		if want.StrangerNs == now.StrangerNs && now.StrangerNs != l.before.state.StrangerNs && len(b) > 44 {
			want.StrangerVersion = uint64(b[44])
		}
	}
	switch reasonNames[l.reason] {
	case "arp-conflict", "nd-conflict":
		l.claimed(true)
	case "arp-answered", "nd-answered": // the question may be a wish for the address
		l.claimed(false)
	}
	l.first(l.before)
	f, ok := asARP(b)
	host := slices.Index(hosts[:l.cfg.N_reach], f.sender)
	if !ok || host < 0 || l.link == none {
		return
	}
	l.stamped(&want.ReachNs[host][l.link], now.ReachNs[host][l.link])
	if mac := now.ReachMac[host]; mac == mac64(f.senderMAC) || mac == 0 {
		want.ReachMac[host] = mac
	}
	l.reached()
}

// reached: a majority's answers prolong a right that there is, while the peer is silent.
func (l *ledger) reached() {
	was, want, now := &l.before.state, &l.want.state, &l.now.state
	answered := 0
	for _, at := range now.ReachNs {
		if int64(at[lan]-was.ReachSentNs) > 0 || int64(at[spare]-was.ReachSentNs) > 0 {
			answered++
		}
	}
	if was.ReachSentNs == 0 || 2*answered <= int(l.cfg.N_reach) {
		return
	}
	if now.ReachOkNs == was.ReachSentNs && int64(was.ReachSentNs-was.ReachOkNs) > 0 {
		want.ReachOkNs = now.ReachOkNs
	}
	silent := int64(l.ended-was.HeardNs) > int64(l.cfg.ProbeNs)
	serving := l.cfg.ServeNs != 0 && int64(was.ServeUntilNs-l.began) > 0
	if until := was.ReachSentNs + l.cfg.ServeNs; silent && serving && now.ServeUntilNs == until && until > was.ServeUntilNs {
		want.ServeUntilNs = until
	}
}

// peerWrote: what a fresh frame of the peer changes. What it says is taken as it says; ownership
// and the right to serve are changed by rules of their own.
func (l *ledger) peerWrote(f wire.Frame) error {
	was, want, now := &l.before.state, &l.want.state, &l.now.state
	want.PeerBoot, want.PeerNonce, want.PeerAgeUs = f.BootID, f.Nonce, uint64(f.AgeUS)
	want.PeerFlags, want.PeerDigest, want.PeerKey = uint64(f.Flags), uint64(f.Digest), uint64(f.KeyID)
	l.stamped(&want.PeerAgeAtNs, now.PeerAgeAtNs)
	l.stamped(&want.HeardNs, now.HeardNs)
	link, got := &want.Links[l.link], &now.Links[l.link]
	link.PeerMac = mac64(f.SrcMAC)
	booted := f.BootID != was.PeerBoot
	if booted {
		if want.NonceBefore = was.Nonce; now.Nonce != was.Nonce && now.Nonce != 0 {
			want.Nonce = now.Nonce
		}
		for i := range want.Links {
			want.Links[i].ProbeSeq = 0
		}
		want.PeerWords = [16]uint64{}
	}
	if f.Direction == wire.Probe {
		link.ProbeSeq = f.Seq
	} else {
		link.ReplySeq = f.Seq
	}
	l.stamped(&link.HeardNs, got.HeardNs)
	if link.HeardNs != got.HeardNs {
		return errors.New("a fresh frame of the peer was not taken for life")
	}
	// How long it took and was silent is for people to read.
	link.RttNs, link.RttMaxNs, link.RttHist, link.GapMaxNs, link.GapHist = got.RttNs, got.RttMaxNs, got.RttHist, got.GapMaxNs, got.GapHist
	want.GapMaxNs, want.GapHist, want.Minutes = now.GapMaxNs, now.GapHist, now.Minutes
	// Of the peer's clock, never of mine.
	want.PeerSentNs, want.PeerSoloNs, want.PeerSoloSentNs = now.PeerSentNs, now.PeerSoloNs, now.PeerSoloSentNs
	if err := l.granted(f, booted); err != nil {
		return err
	}
	if err := l.owned(f); err != nil {
		return err
	}
	return l.settle("a fresh frame of the peer")
}

// granted: nobody serves for longer than the peer lets him by a frame that he sent.
func (l *ledger) granted(f wire.Frame, booted bool) error {
	was, now, serve := &l.before.state, &l.now.state, l.cfg.ServeNs
	valid := serve != 0 && f.GrantNS != 0 && int64(l.ended-f.GrantNS) >= 0
	switch got := now.GrantedNs; {
	case got == was.GrantedNs && !booted, got == 0 && booted, valid && got == f.GrantNS:
		l.want.state.GrantedNs = got
	}
	switch got := now.ServeUntilNs; {
	case got == was.ServeUntilNs:
	case valid && got == f.GrantNS+serve && int64(got-was.ServeUntilNs) > 0:
	case int64(got-was.ServeUntilNs) < 0 && got == now.GrantedNs+serve: // the arbiter's leave is given back
	default:
		return fmt.Errorf("a frame that grants %d made the right to serve last until %d, not %d", f.GrantNS, got, was.ServeUntilNs)
	}
	l.want.state.ServeUntilNs = now.ServeUntilNs
	return nil
}

// owned: a frame gives what its sender has released to who waits for it, and closes what is older
// or what the other node may demand. It does nothing else to ownership.
func (l *ledger) owned(f wire.Frame) error {
	heeded := f.Digest == l.cfg.Digest && len(f.Words) == identities
	for i := range identities {
		was, got := l.before.words[i], l.now.words[i]
		said := l.now.state.PeerWords[i]
		if heeded && (said == f.Words[i] || said == l.want.state.PeerWords[i]) {
			l.want.state.PeerWords[i] = said
		}
		if was == got {
			continue
		}
		theirs := uint64(0)
		if heeded {
			theirs = f.Words[i]
		}
		if !heeded || !l.mayBecome(i, was, got, theirs) {
			return fmt.Errorf("a frame that says %x made the word %x of %x", f.Words, got, was)
		}
		l.want.words[i] = got
		if got&owner != 0 {
			l.want.timelines[i] = l.now.timelines[i]
			l.want.state.ToAnnounce |= 1 << i
		}
	}
	if reasonNames[l.reason] == "hb-announced" { // one form has left, the others wait
		id := idOfMAC[wire.MAC(l.result.out[6:])]
		l.want.state.ToAnnounce = l.want.state.ToAnnounce&^(1<<id) | 1<<(16+id)
		if l.want.timelines[id].AnnouncedNs == 0 {
			l.stamped(&l.want.timelines[id].AnnouncedNs, l.now.timelines[id].AnnouncedNs)
		}
	}
	return nil
}

// mayBecome tells whether a word of identity i may become another one when the peer says theirs.
func (l *ledger) mayBecome(i int, was, got, theirs uint64) bool {
	const gen = 1<<56 - 1
	lease := int64(l.control.LeaseUntilNs-l.began) > 0
	switch {
	case theirs&gen > was&gen:
		return got == theirs&gen
	case theirs&gen < was&gen:
		return false
	case was&owner != 0:
		return theirs&(ready|demand) == ready|demand && got == yield|was&gen
	default:
		next := got &^ owner // of this node's parity, above what it may have owned
		return was&ready != 0 && theirs&(owner|yield) == yield && lease && got&owner != 0 && next&^gen == 0 &&
			next > was&gen && next > l.control.Floor[i] && next%2 == uint64(l.cfg.Self)
	}
}

func (j *judgement) wroteOut() error {
	l := j.ledger()
	l.first(j.before)
	return l.settle("a frame that leaves")
}

// wroteTick: the pacer keeps its own books, and says what there is to say.
func (j *judgement) wroteTick() error {
	l := j.ledger()
	want, now := &l.want.state, &l.now.state
	want.Seq, want.Ticks, want.TickGapMaxNs = now.Seq, now.Ticks, now.TickGapMaxNs
	want.TokenNs, want.TokenStrikes, want.TokenDueNs, want.Hurry = now.TokenNs, now.TokenStrikes, now.TokenDueNs, now.Hurry
	want.ReachSentNs, want.ReachWaitNs, want.ToAnnounce = now.ReachSentNs, now.ReachWaitNs, now.ToAnnounce
	if now.Seq-j.before.state.Seq > 1 {
		return fmt.Errorf("one tick sent %d probes", now.Seq-j.before.state.Seq)
	}
	for i := range identities {
		if want := &l.want.timelines[i].AnnouncedNs; *want == 0 {
			l.stamped(want, l.now.timelines[i].AnnouncedNs)
		}
	}
	if err := l.denied(); err != nil {
		return err
	}
	return l.settle("a tick")
}

// denied: a tick is done with a few claims, in their order, and no more of them in a while than is right.
func (l *ledger) denied() error {
	want, now := &l.want.state, &l.now.state
	l.stamped(&want.DenialsSinceNs, now.DenialsSinceNs)
	if want.DenialsSinceNs != l.before.state.DenialsSinceNs {
		want.Denials = 0
	}
	done := now.Denied - want.Denied
	if done > 4 || done > want.Claimed-want.Denied {
		return fmt.Errorf("one tick was done with %d claims of %d", done, want.Claimed-want.Denied)
	}
	for range done {
		want.Claims[want.Denied%64].Identity = 0
		want.Denied++
		want.Denials++
	}
	if want.Denials > 16 {
		return fmt.Errorf("%d claims were denied in a while", want.Denials)
	}
	return nil
}

// fields is a state as the numbers that it consists of.
func fields(s *bpf.XdphaXdState) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(s)), unsafe.Sizeof(*s)/8)
}

// fieldName names one of them.
func fieldName(i int) string {
	t, at, name := reflect.TypeFor[bpf.XdphaXdState](), uintptr(8*i), "state"
	for {
		switch t.Kind() {
		case reflect.Struct:
			for f := range t.NumField() {
				if field := t.Field(f); field.Type.Size() > 0 && at >= field.Offset && at < field.Offset+field.Type.Size() {
					name, t, at = name+"."+field.Name, field.Type, at-field.Offset
					break
				}
			}
		case reflect.Array:
			n := at / t.Elem().Size()
			name, at, t = fmt.Sprintf("%s[%d]", name, n), at%t.Elem().Size(), t.Elem()
		default:
			return name
		}
	}
}
