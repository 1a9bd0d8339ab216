// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

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
	request := arpRequest(askIP, vip)
	toKernel := arpRequest(kernelAsk, kernelIP)
	return []*contender{
		{name: heartbeatBare, socket: r.sockets["bare"], ask: ask, check: func(b []byte) bool {
			return bytes.Equal(b[:6], askMAC[:]) && bytes.Equal(b[12:], probe[12:])
		}},
		{name: heartbeat, socket: r.sockets["hb"], ask: ask, check: func(b []byte) bool {
			return len(b) == len(probe) && b[wire.OffsetDirection] == byte(wire.Reply) &&
				le.Uint64(b[offsetSeq:]) == seq && le.Uint64(b[offsetEcho:]) == peerNonce
		}},
		{name: arpBare, socket: r.sockets["bare-arp"], ask: func() []byte { return request }, check: func(b []byte) bool {
			return bytes.Equal(b[:6], askMAC[:]) && bytes.Equal(b[12:], request[12:])
		}},
		{name: arp, socket: r.sockets["lan"], ask: func() []byte { return request }, check: isARPReply(vipMAC, vip)},
		{name: arpKernel, socket: r.sockets["own"], ask: func() []byte { return toKernel }, check: isARPReply(nodeMAC, kernelIP)},
	}, nil
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

// udp is a small IPv4 packet. The programs under test look no deeper.
func udp(src, dst wire.MAC, from, to netip.Addr) []byte {
	b := append(append(make([]byte, 0, leastFrame), dst[:]...), src[:]...)
	b = append(b, 0x08, 0x00, 0x45, 0, 0, leastFrame-14, 0, 0, 0x40, 0, 64, 17, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	b = append(b, 0x30, 0x39, 0, 53, 0, leastFrame-34, 0, 0)
	return b[:leastFrame]
}
