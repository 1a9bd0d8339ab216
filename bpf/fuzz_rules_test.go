// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	p := m.other(j.cfg)
	knocked := p.KnockedNs != 0 && !after(t, p.KnockedNs+j.cfg.HoldNs)
	return after(m.control.LeaseUntilNs, t) || j.cfg.SoloKeep != 0 && p.State == dead && !knocked
}

func (j *judgement) carried(id int) bool {
	return j.cfg.Identities[id].Carrier == uint32(j.nic())
}

func (j *judgement) nic() int { return j.gun.nic[0][j.shot.nic] }

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
	self := wire.Frame{SrcMAC: j.cfg.Links[j.link].Mac, Sender: j.cfg.Self, KeyID: signing.ID, BootID: j.state.BootId, Nonce: j.peers[1-j.cfg.Self].MyNonce,
		Digest: j.cfg.Digest, Flags: uint32(j.control.Flags), Words: make([]uint64, len(f.Words))}
	copy(self.Words, j.words[:identities])
	for i := range min(identities, len(self.Words)) {
		if j.control.Running[i]<<1 != 0 {
			self.Words[i] |= servicesRun
		}
	}
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
	if j.peers[1-j.cfg.Self].State == dead {
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

// near and far are the NICs, at this node and at the peer, of the path that a frame names.
func (j *judgement) near(f wire.Frame) int { return ends(int(f.Link))[j.cfg.Self] }
func (j *judgement) far(f wire.Frame) int  { return ends(int(f.Link))[1-j.cfg.Self] }

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
		binary.BigEndian.PutUint16(b[24:], internetSum(b[14:34]))
		f, err = wire.Parse(b, keys...)
	}
	sound = err == nil && j.link < none && f.ClusterID == cluster && f.Link < paths && j.near(f) == j.link && f.Sender == 1-j.cfg.Self &&
		be(f.DstIP) == j.cfg.Links[j.link].LocalBe
	return f, true, sound
}

// fresh reads a heartbeat of the peer that is of now: it echoes a nonce of mine, and its number is
// higher than any that came this way.
func (j *judgement) fresh() (wire.Frame, bool) {
	f, _, sound := j.heartbeat()
	st, p := &j.before.state, j.before.other(j.cfg)
	if !sound {
		return f, false
	}
	same := f.BootID == p.Boot
	if !(p.MyNonce != 0 && f.Echo == p.MyNonce) && !(same && p.MyNonceBefore != 0 && f.Echo == p.MyNonceBefore) {
		return f, false
	}
	if f.Direction == wire.Reply {
		behind := st.Seq - f.Seq
		return f, f.Seq <= st.Seq && (!same || behind < 64 && f.Seq > p.Paths[f.Link].ReplySeq)
	}
	for _, l := range p.Paths {
		if same && l.ProbeSeq >= f.Seq+64 {
			return f, false
		}
	}
	return f, !same || f.Seq > p.Paths[f.Link].ProbeSeq
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
