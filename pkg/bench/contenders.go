// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/wire"
)

// The contenders.
const (
	heartbeatBare = "bare reflector, heartbeat frame"
	heartbeat     = "heartbeat"
	arpBare       = "bare reflector, ARP frame"
	arp           = "ARP"
	arpKernel     = "kernel's own ARP"
	ndBare        = "bare reflector, NS frame"
	nd            = "NS"
	ndKernel      = "kernel's own NA"
)

// Offsets within a frame.
const (
	offsetEcho   = wire.OffsetMagic + 32
	offsetSeq    = wire.OffsetMagic + 40
	offsetSent   = wire.OffsetMagic + 48
	offsetGrant  = wire.OffsetMagic + 56
	offsetARPOp  = 14 + 6
	offsetARPMAC = 14 + 8
	offsetARPIP  = 14 + 14
	leastFrame   = 60 // Ethernet's, without its checksum

	offsetIP6Source = 14 + 8
	offsetND        = 14 + 40 // type, code, checksum, flags, target, options
	offsetNDTarget  = offsetND + 8
	offsetNDMAC     = offsetNDTarget + 16 + 2
	solicitation    = 135 // RFC 4861, 4.3
	advertisement   = 136
)

// contenders are asked by turns. The reflector gets frames that are made the same way.
func (r *rig) contenders() ([]*contender, error) {
	probe, err := r.next()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	seq := r.peer.Seq
	ask := func() []byte {
		seq++
		le.PutUint64(probe[offsetSeq:], seq)
		le.PutUint64(probe[offsetSent:], uint64(loader.Now()))
		le.PutUint64(probe[offsetGrant:], uint64(loader.Now()))
		_ = wire.Seal(probe, key) // of a frame that wire made
		return probe
	}
	if _, err := wire.Parse(ask(), key); err != nil {
		return nil, fmt.Errorf("build the probe: %w", err)
	}
	in, reflect := r.dp.In(), r.lab.Reflect()
	all := []*contender{
		{name: heartbeatBare, program: &reflect, socket: r.sockets["bare"], ask: ask, check: isReflected(func() []byte { return probe })},
		{name: heartbeat, program: &in, socket: r.sockets["hb"], ask: ask, check: func(b []byte) bool {
			return len(b) == len(probe) && b[wire.OffsetDirection] == byte(wire.Reply) &&
				le.Uint64(b[offsetSeq:]) == seq && le.Uint64(b[offsetEcho:]) == peerNonce
		}},
		r.questioner(arpBare, "bare-arp", &reflect, arpRequest(askIP, vip), nil),
		r.questioner(arp, "lan", &in, arpRequest(askIP, vip), isARPReply(vipMAC, vip)),
		r.questioner(arpKernel, "own", nil, arpRequest(kernelAsk, kernelIP), isARPReply(nodeMAC, kernelIP)),
		r.questioner(ndBare, "bare-nd", &reflect, neighbourSolicitation(askIP6, vip6), nil),
		r.questioner(nd, "lan-nd", &in, neighbourSolicitation(askIP6, vip6), isAdvertisement(vipMAC, vip6)),
	}
	if hasIPv6() {
		all = append(all, r.questioner(ndKernel, "own-nd", nil, neighbourSolicitation(kernelAsk6, kernelIP6), isAdvertisement(nodeMAC, kernelIP6)))
	}
	return all, nil
}

// questioner always asks the same. Without a check the answer is the question itself.
func (r *rig) questioner(name, socket string, program *loader.Program, question []byte, check func([]byte) bool) *contender {
	ask := func() []byte { return question }
	if check == nil {
		check = isReflected(ask)
	}
	return &contender{name: name, program: program, socket: r.sockets[socket], ask: ask, check: check}
}

func isReflected(asked func() []byte) func([]byte) bool {
	return func(b []byte) bool { return bytes.Equal(b[:6], askMAC[:]) && bytes.Equal(b[12:], asked()[12:]) }
}

// arpRequest is RFC 826's, padded to Ethernet's least frame.
func arpRequest(from, to netip.Addr) []byte {
	b := make([]byte, 0, leastFrame)
	b = append(append(b, wire.Broadcast[:]...), askMAC[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(append(b, askMAC[:]...), from.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
	return b[:leastFrame]
}

func isARPReply(mac wire.MAC, ip netip.Addr) func([]byte) bool {
	ip4 := ip.As4()
	return func(b []byte) bool {
		return len(b) >= 42 && bytes.Equal(b[:6], askMAC[:]) && b[offsetARPOp+1] == 2 &&
			bytes.Equal(b[offsetARPMAC:offsetARPMAC+6], mac[:]) && bytes.Equal(b[offsetARPIP:offsetARPIP+4], ip4[:])
	}
}

// neighbourSolicitation is RFC 4861's: to the target's group, and says where the asker is.
func neighbourSolicitation(from, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}) // RFC 4291, 2.7.1
	b := append([]byte{0x33, 0x33, 0xff, t[13], t[14], t[15]}, askMAC[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, unix.IPPROTO_ICMPV6, 255)
	b = append(append(b, from.AsSlice()...), group.AsSlice()...)
	b = append(b, solicitation, 0, 0, 0, 0, 0, 0, 0)
	b = append(append(b, t[:]...), 1, 1)
	b = append(b, askMAC[:]...)
	binary.BigEndian.PutUint16(b[offsetND+2:], checksum6(b))
	return b
}

// checksum6 is ICMPv6's (RFC 8200, 8.1) of a frame whose checksum field is 0.
func checksum6(b []byte) uint16 {
	sum := uint32(unix.IPPROTO_ICMPV6) + uint32(len(b)-offsetND)
	for i := offsetIP6Source; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func isAdvertisement(mac wire.MAC, target netip.Addr) func([]byte) bool {
	t := target.As16()
	return func(b []byte) bool {
		return len(b) >= offsetNDMAC+6 && bytes.Equal(b[:6], askMAC[:]) && b[offsetND] == advertisement &&
			bytes.Equal(b[offsetNDTarget:offsetNDTarget+16], t[:]) && bytes.Equal(b[offsetNDMAC:offsetNDMAC+6], mac[:])
	}
}

// udp6 is the same by IPv6.
func udp6(src, dst wire.MAC, from, to netip.Addr) []byte {
	b := append(append(make([]byte, 0, offsetND+8), dst[:]...), src[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, unix.IPPROTO_UDP, 64)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	return append(b, 0x30, 0x39, 0, 53, 0, 8, 0, 0)
}

// packet is udp of the addresses' family.
func packet(src, dst wire.MAC, from, to netip.Addr) []byte {
	if to.Is4() {
		return udp(src, dst, from, to)
	}
	return udp6(src, dst, from, to)
}

// udp is a small IPv4 packet. The programs under test look no deeper.
func udp(src, dst wire.MAC, from, to netip.Addr) []byte {
	b := append(append(make([]byte, 0, leastFrame), dst[:]...), src[:]...)
	b = append(b, 0x08, 0x00, 0x45, 0, 0, leastFrame-14, 0, 0, 0x40, 0, 64, 17, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	b = append(b, 0x30, 0x39, 0, 53, 0, leastFrame-34, 0, 0)
	return b[:leastFrame]
}
