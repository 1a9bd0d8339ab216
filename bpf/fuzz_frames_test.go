// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

var wrongKey = wire.Key{ID: signing.ID, K0: 0x5555, K1: 0x6666}

// oneOf picks; what shall come more often stands there more often.
func oneOf[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// scene is a node in some state. No time in it is near: nothing runs out while frames meet it.
func (g *gun) scene(r *rand.Rand) *truth {
	t := now()
	v := g.atWork()
	g.sceneConfig(r, &v.config)
	v.control.Keys = oneOf(r, inForce(signing, retiring), inForce(signing, signing))
	v.control.LeaseUntilNs = oneOf(r, 0, 1, t+hour, t+hour, t+hour)
	v.control.RenewedNs = oneOf(r, 0, t+hour)
	v.control.Pace = oneOf(r, bpf.XdphaXdPacePACE_THREAD, bpf.XdphaXdPacePACE_TBF, bpf.XdphaXdPacePACE_FQ)
	v.control.RingIfindex, v.control.LapNs = uint32(g.nic[0][none]), oneOf(r, uint64(1e6), 8*hour)
	v.control.Running[0], v.control.Running[1] = oneOf[uint64](r, 0, 5), oneOf[uint64](r, 0, 1, 1<<63)
	v.control.Floor[0], v.control.Floor[1] = oneOf[uint64](r, 0, 0, 9), oneOf[uint64](r, 0, 5)
	v.words = [identities]uint64{oneOf(r, owner|5, someWord(r)), oneOf(r, owner|5, someWord(r))}
	s, p := &v.state, &v.peer
	p.State = oneOf[uint64](r, unknown, up, up, up, suspect, dead)
	p.Boot, p.MyNonceBefore = oneOf[uint64](r, 0, peerBoot, peerBoot, peerBoot), oneOf[uint64](r, 0, 0x0b)
	if r.IntN(16) == 0 {
		p.MyNonce = 0 // the detector has not been started
	}
	s.Seq = oneOf[uint64](r, 0, 100, 100, 100)
	p.KnockedNs = oneOf(r, 0, 1, t-1e6)
	s.ServeUntilNs = oneOf(r, 0, 1, t+hour, t+hour, t+4*hour)
	p.GrantedNs = oneOf(r, 0, t-1e6, t-hour)
	p.HeardNs = oneOf(r, 0, t-4*hour, t+hour)
	p.CrossedNs = oneOf(r, 0, t-hour, t+hour)
	p.SoloNs, p.SoloSentNs = oneOf(r, 0, t-1e6), oneOf(r, 0, t)
	s.ConflictToldNs[0], s.ConflictToldNs[1] = oneOf(r, 0, t+hour), oneOf(r, 0, t+hour)
	s.Denied = r.Uint64N(100)
	s.Claimed = s.Denied + oneOf[uint64](r, 0, 1, 63, 64)
	for n := s.Denied; n < s.Claimed; n++ {
		first, second := halves(oneOf(r, filesIP, filesIP6))
		s.Claims[n%64] = bpf.XdphaXdClaim{Mark: oneOf(r, 0, n<<8|1, n<<8|1, n<<8|1), First: first, Second: second}
	}
	s.ReachSentNs = oneOf(r, 0, t-1e6)
	s.ToAnnounce = oneOf[uint64](r, 0, 0, 1, 1<<16|1, 3)
	for i := range p.Macs {
		p.Macs[i] = oneOf(r, 0, mac64(nodeMAC[1][i]))
	}
	for i := range p.Paths {
		p.Paths[i].HeardNs = oneOf(r, 0, t-1e6)
	}
	for i := range v.words {
		p.Words[i] = someWord(r)
	}
	for i := range hosts {
		s.ReachNs[i][lan] = oneOf(r, 0, t-1e9, t)
	}
	s.TokenNs, s.TokenStrikes = oneOf(r, 0, t), oneOf[uint64](r, 0, 4)
	s.Ticks[s.Seq%8] = oneOf(r, 0, t, t-hour/2, t-8*hour)
	return v
}

func (g *gun) sceneConfig(r *rand.Rand, c *bpf.XdphaXdConfig) {
	c.Self = uint8(r.IntN(2))
	c.N_reach = oneOf[uint8](r, 0, 3)
	c.SoloKeep, c.WithPorts = uint8(r.IntN(2)), uint16(r.IntN(4)) // behind their port 445 nobody is ever ready
	c.ServeNs = oneOf(r, 0, hour)
	c.ProbeNs, c.SuspectNs, c.HoldNs = hour, 2*hour, 4*hour
	c.Identities[0].Carrier = uint32(g.nic[0][oneOf(r, lan, spare)])
	c.Identities[1].Carrier = uint32(g.nic[0][oneOf(r, lan, spare)])
	c.Identities[1].AnnouncedBe = oneOf(r, 0, be(mailIP))
	if r.IntN(16) == 0 {
		c.Links[spare].Ifindex = 1 << 30 // a NIC that has gone
	}
}

func someWord(r *rand.Rand) uint64 {
	flags := oneOf(r, 0, owner, owner, owner|yield, yield, ready, ready, ready|staged, ready|demand, demand, 1<<60, r.Uint64()&^(1<<48-1))
	return flags | oneOf[uint64](r, 5, 5, 5, 5, 4, 6, 1<<48-9, 0)
}

// maker makes frames for the node whose state it sees, so that many are nearly right.
type maker struct {
	*rand.Rand
	cfg   *bpf.XdphaXdConfig
	state *bpf.XdphaXdState
	peer  *bpf.XdphaXdPeer
	said  []shot // heartbeats that were on a wire: an attacker may have recorded them
}

func (m *maker) shot() shot {
	if m.IntN(128) == 0 {
		return m.tick()
	}
	s := shot{nic: oneOf(m.Rand, lan, lan, spare, spare, crossover, none)}
	switch k := m.IntN(16); {
	case k < 7:
		s = m.heartbeat()
	case k < 8 && len(m.said) > 0:
		s = oneOf(m.Rand, m.said...)
		s.frame = slices.Clone(s.frame)
		s.what = "a recorded heartbeat"
		if m.IntN(8) == 0 {
			s.nic = m.IntN(4)
		}
	case k < 11:
		s.what, s.frame = "ARP", m.arp()
	case k < 13:
		s.what, s.frame = "neighbour discovery", m.nd()
	case k < 15:
		s.what, s.frame = "IP", m.packet()
	default:
		s.what, s.frame = "random bytes", m.noise()
	}
	if m.IntN(4) == 0 {
		s.frame = m.spoil(s.frame)
	}
	if s.what != "a heartbeat" && m.IntN(4) == 0 || m.IntN(64) == 0 {
		s.to = egress
	}
	s.frame = s.frame[:min(len(s.frame), 3000)]
	for len(s.frame) < s.least() {
		s.frame = append(s.frame, 0)
	}
	return s
}

// least is the length below which the kernel runs nothing: no driver and no stack has such frames.
func (s shot) least() int {
	if len(s.frame) < 14 || s.to == ingress {
		return 15
	}
	return max(15, map[uint16]int{0x0800: 34, 0x86dd: 54}[binary.BigEndian.Uint16(s.frame[12:])])
}

// remember records a heartbeat that went in, and the answer to it.
func (m *maker) remember(s shot, r result) {
	if s.to != ingress || r.row > spare || len(m.said) > 16 {
		return
	}
	switch reasonNames[r.reason] {
	case "hb-probe-answered":
		m.said = append(m.said, shot{"an answer come back", ingress, s.nic, slices.Clone(r.out)})
		fallthrough
	case "hb-reply-accepted", "hb-unproven":
		m.said = append(m.said, s)
	}
}

func (m *maker) tick() shot {
	b := make([]byte, 54+m.IntN(300))
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	b[5] = oneOf[byte](m.Rand, 0, 0x70, 0x70, 0x71, b[5])
	return shot{"a tick", ticked, none, b}
}

// heartbeat is one of the peer's in which each field may be another than it should.
func (m *maker) heartbeat() shot {
	r, path := m.Rand, m.IntN(paths)
	f := oneOf(r, probeOn, replyOn)(path)
	l := &m.peer.Paths[path]
	rarely := func(change func()) {
		if r.IntN(16) == 0 {
			change()
		}
	}
	f.Sender = 1 - m.cfg.Self
	f.Echo, f.Nonce = m.peer.MyNonce, oneOf(r, peerNonce, r.Uint64())
	f.Seq = oneOf(r, l.ProbeSeq+1, l.ProbeSeq+1, l.ProbeSeq+uint64(r.IntN(200)), l.ProbeSeq, r.Uint64())
	if f.Direction == wire.Reply {
		f.Seq = oneOf(r, l.ReplySeq+1, m.state.Seq, m.state.Seq-uint64(r.IntN(80)), l.ReplySeq, m.state.Seq+1)
	}
	if m.peer.Boot != 0 {
		f.BootID = m.peer.Boot
	}
	t := now()
	f.SentNS, f.GrantNS = oneOf(r, 0, 55, t, r.Uint64()), oneOf(r, 0, 1, t-1e6, t, t+hour)
	f.AgeUS, f.Flags = r.Uint32(), oneOf(r, 0, 4, r.Uint32())
	f.Words = []uint64{someWord(r), someWord(r)}
	rarely(func() { f.Echo = oneOf(r, 0, m.peer.MyNonceBefore, 0x0b, r.Uint64()) })
	rarely(func() { f.BootID = oneOf(r, 0, 0xb2, r.Uint64()) })
	rarely(func() { f.Words = make([]uint64, r.IntN(wire.MaxIdentities+1)) })
	rarely(func() { f.Digest++ })
	rarely(func() { f.Sender = oneOf(r, m.cfg.Self, 2, 255) })
	rarely(func() { f.Link = oneOf[uint8](r, 0, 1, 2, 3, 4, 5, 255) })
	rarely(func() { f.ClusterID++ })
	rarely(func() { f.TTL = oneOf[uint8](r, 1, 64, 254) })
	rarely(func() { f.DstMAC = oneOf(r, wire.Broadcast, filesMAC, m.mac()) })
	rarely(func() { f.SrcMAC = m.mac() })
	rarely(func() { f.DstIP = m.ip4() })
	rarely(func() { f.SrcIP = m.ip4() })
	key := oneOf(r, signing, signing, signing, retiring, wrongKey)
	f.KeyID = key.ID
	b, err := f.Marshal(key)
	if err != nil {
		panic(err) // the fields above are of the right kinds
	}
	rarely(func() { b = m.sealedLie(b, key) })
	nic := ends(path)[m.cfg.Self]
	rarely(func() { nic = m.IntN(4) })
	return shot{what: "a heartbeat", nic: nic, frame: b}
}

// sealedLie changes a byte of the headers, or of the head, and signs again.
func (m *maker) sealedLie(b []byte, key wire.Key) []byte {
	b[oneOf(m.Rand, 12+m.IntN(30), wire.OffsetMagic+m.IntN(8), wire.OffsetMagic+m.IntN(72))] = m.octet()
	if err := wire.Seal(b, key); err != nil {
		panic(err) // a whole frame has room for a tag
	}
	return b
}

func (m *maker) octet() byte {
	return oneOf(m.Rand, 0, 1, 2, 4, 6, 17, 0x45, 0x46, 0x60, 0x7f, 0x80, 0xff, byte(m.Uint32()))
}

func (m *maker) mac() wire.MAC {
	var random wire.MAC
	binary.NativeEndian.PutUint32(random[2:], m.Uint32())
	link := m.IntN(3)
	return oneOf(m.Rand, filesMAC, filesMAC, mailMAC, mailMAC, client, nodeMAC[0][link], nodeMAC[1][link], wire.Broadcast, filesGroupMAC, wire.MAC{}, random)
}

func (m *maker) ip4() netip.Addr {
	var random [4]byte
	binary.NativeEndian.PutUint32(random[:], m.Uint32())
	return oneOf(m.Rand, filesIP, filesIP, mailIP, mailIP, clientIP, clientIP, nodeIP[0][m.IntN(3)], nodeIP[1][m.IntN(3)],
		hosts[m.IntN(len(hosts))], hosts[m.IntN(len(hosts))], addr("0.0.0.0"), netip.AddrFrom4(random))
}

func (m *maker) ip6() netip.Addr {
	return oneOf(m.Rand, filesIP6, filesIP6, filesIP6, client6, client6, filesGroup, allNodes, unspecified, netip.AddrFrom16(filesIP.As16()), addr("fe80::1"))
}

func (m *maker) arp() []byte {
	if m.IntN(4) == 0 { // what a client asks
		return whoHas(oneOf(m.Rand, filesIP, mailIP), oneOf(m.Rand, clientIP, m.ip4()), oneOf(m.Rand, client, filesMAC, mailMAC, m.mac()))
	}
	b := arp(m.mac(), m.mac(), oneOf[byte](m.Rand, 1, 1, 1, 2, 2, 0, 3), m.mac(), m.ip4(), m.mac(), m.ip4())
	switch m.IntN(16) {
	case 0:
		b[14+m.IntN(8)] = m.octet()
	case 1:
		b = b[:14+m.IntN(len(b)-14)]
	case 6:
		b[15] = 6 // the type of hardware of IEEE 802
	case 2, 3, 4, 5:
		b = append(b, make([]byte, m.IntN(40))...)
	}
	return b
}

func (m *maker) nd() []byte {
	if m.IntN(4) == 0 {
		return oneOf(m.Rand, asks(), asks(), wants(), tells().but(func(f *nd) { f.options = nil })).bytes()
	}
	f := nd{to: m.mac(), from: m.mac(), src: m.ip6(), dst: m.ip6(), hops: oneOf[byte](m.Rand, 255, 255, 255, 255, 64),
		kind: oneOf[byte](m.Rand, neighborSolicitation, neighborSolicitation, neighborAdvertisement, neighborAdvertisement, m.octet()),
		code: oneOf[byte](m.Rand, 0, 0, 0, 0, 0, 0, 0, m.octet()), flags: m.octet(), target: m.ip6()}
	for range oneOf(m.Rand, 0, 0, 1, 1, 1, 2, 3) {
		f.options = append(f.options, option(oneOf(m.Rand, sourceMAC, targetMAC, targetMAC, m.octet()), make([]byte, m.IntN(24)))...)
	}
	if len(f.options) > 0 && m.IntN(3) == 0 {
		from := m.mac()
		f.options = option(oneOf[byte](m.Rand, sourceMAC, targetMAC), from[:])
	}
	if len(f.options) > 1 && m.IntN(8) == 0 {
		f.options[1] = m.octet()
	}
	if m.IntN(16) == 0 {
		f.more = oneOf(m.Rand, -24, -8, -1, 1, 8, 200)
	}
	if m.IntN(4) == 0 {
		f.padding = make([]byte, m.IntN(40))
	}
	b := f.bytes()
	if m.IntN(16) == 0 {
		b[14+40+2] ^= 1 // of the checksum
	}
	return b
}

func (m *maker) packet() []byte {
	b := oneOf(m.Rand, ping(m.mac(), m.mac(), m.ip4(), m.ip4()), ping(m.mac(), m.mac(), m.ip6(), m.ip6()),
		ping(filesMAC, client, clientIP, filesIP), ping(filesMAC, client, client6, filesIP6), ping(mailMAC, client, clientIP, mailIP),
		segment(filesMAC, clientIP, filesIP, 445, 0x02, 0), segment(mailMAC, client6, filesIP6, 445, 0x02, 0),
		ping(client, filesMAC, filesIP, clientIP), ping(client, filesMAC, filesIP6, client6), ping(client, mailMAC, mailIP, clientIP))
	switch m.IntN(8) {
	case 0:
		b[14+m.IntN(len(b)-14)] = m.octet()
	case 1:
		b = b[:15+m.IntN(len(b)-15)]
	case 2:
		b = append(b, make([]byte, m.IntN(1400))...)
	}
	return b
}

func (m *maker) noise() []byte {
	to, from := m.mac(), m.mac()
	b := eth(to, from, oneOf(m.Rand, 0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, uint16(m.Uint32())), make([]byte, m.IntN(200)))
	for i := 14; i < len(b); i++ {
		b[i] = byte(m.Uint32())
	}
	if len(b) > 14 {
		b[14] = oneOf(m.Rand, b[14], 0x45, 0x60)
	}
	return b
}

// spoil damages a frame without regard to what it is.
func (m *maker) spoil(b []byte) []byte {
	b = slices.Clone(b)
	switch m.IntN(9) {
	case 0:
		for range 1 + m.IntN(3) {
			b[m.IntN(len(b))] ^= 1 << m.IntN(8)
		}
	case 1:
		b[m.IntN(len(b))] = m.octet()
	case 2:
		b = b[:m.IntN(len(b)+1)]
	case 3:
		b = append(b, make([]byte, 1+m.IntN(64))...)
	case 4:
		b = m.vlan(b)
		if m.IntN(4) == 0 {
			b = m.vlan(b)
		}
	case 5:
		if len(b) > 40 { // options of IPv4
			b[14] = 0x46
			b = slices.Insert(b, 34, 1, 1, 1, oneOf[byte](m.Rand, 0, 7, 0x83))
		}
	case 6:
		if len(b) > 21 { // fragments of IPv4
			b[20], b[21] = oneOf[byte](m.Rand, 0x20, 0, 0x20), m.octet()
		}
	case 7:
		if len(b) > 54 { // extension headers of IPv6
			next := b[20]
			b[20] = oneOf[byte](m.Rand, 0, 43, 44, 60)
			b = slices.Insert(b, 54, next, 0, 1, 4, 0, 0, 0, 0)
		}
	case 8: // lengths that lie
		if at := oneOf(m.Rand, 16, 18, 38); len(b) > at+1 {
			binary.BigEndian.PutUint16(b[at:], oneOf(m.Rand, 0, 1, 0xffff, uint16(m.Uint32())))
		}
	}
	return b
}

// vlan puts a tag into a frame: of a network, or of a priority alone.
func (m *maker) vlan(b []byte) []byte {
	if len(b) < 14 {
		return b
	}
	tag := oneOf(m.Rand, []byte{0x81, 0x00}, []byte{0x88, 0xa8}) // IEEE 802.1Q, 802.1ad
	return slices.Insert(b, 12, append(tag, oneOf[byte](m.Rand, 0, 0xe0), oneOf[byte](m.Rand, 0, 7))...)
}
