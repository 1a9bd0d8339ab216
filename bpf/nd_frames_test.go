// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/xdpha/xdpha/pkg/wire"
)

const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	sourceMAC             = 1
	targetMAC             = 2

	solicited, override = 0x40, 0x20
)

var (
	unspecified   = addr("::")
	allNodes      = addr("ff02::1")
	allNodesMAC   = wire.MAC{0x33, 0x33, 0, 0, 0, 1}
	filesGroup    = addr("ff02::1:ff00:21") // of 2001:db8::21
	filesGroupMAC = wire.MAC{0x33, 0x33, 0xff, 0, 0, 0x21}
)

// nd is a frame of neighbour discovery in its parts (RFC 4861, 4.3 and 4.4), so that a test can spoil one.
type nd struct {
	to, from   wire.MAC
	src, dst   netip.Addr
	hops       byte
	kind, code byte
	flags      byte
	target     netip.Addr
	options    []byte
	more       int    // what the IPv6 header says of the length beyond the truth
	padding    []byte // behind the IPv6 packet
}

// option is one of neighbour discovery's, padded to a multiple of eight bytes (RFC 4861, 4.6).
func option(kind byte, content []byte) []byte {
	b := append([]byte{kind, 0}, content...)
	b = append(b, make([]byte, -len(b)&7)...)
	b[1] = byte(len(b) / 8)
	return b
}

// asks is the client's question for files' address, as it first asks.
func asks() nd {
	return nd{to: filesGroupMAC, from: client, src: client6, dst: filesGroup, hops: 255,
		kind: neighborSolicitation, target: filesIP6, options: option(sourceMAC, client[:])}
}

// wants is a host's question whether it may have files' address (RFC 4862, 5.4.2).
func wants() nd {
	return nd{to: filesGroupMAC, from: client, src: unspecified, dst: filesGroup, hops: 255,
		kind: neighborSolicitation, target: filesIP6}
}

// tells is the answer to asks.
func tells() nd {
	return nd{to: client, from: filesMAC, src: filesIP6, dst: client6, hops: 255,
		kind: neighborAdvertisement, flags: solicited | override, target: filesIP6, options: option(targetMAC, filesMAC[:])}
}

// tellsAll is the answer to wants, and what a new owner says unasked (RFC 4861, 7.2.6).
func tellsAll() nd {
	f := tells()
	f.to, f.dst, f.flags = allNodesMAC, allNodes, override
	return f
}

func (f nd) but(change func(*nd)) nd {
	change(&f)
	return f
}

// bytes is the frame with a right checksum over what it says.
func (f nd) bytes() []byte {
	m := append([]byte{f.kind, f.code, 0, 0, f.flags, 0, 0, 0}, f.target.AsSlice()...)
	m = append(m, f.options...)
	length := len(m) + f.more
	binary.BigEndian.PutUint16(m[2:], checksum6(f.src, f.dst, length, m))
	return append(ipv6(f.to, f.from, f.src, f.dst, length, 58, f.hops, m), f.padding...)
}

// ipv6 is a packet in its frame.
func ipv6(to, from wire.MAC, src, dst netip.Addr, length int, next, hops byte, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, byte(length >> 8), byte(length), next, hops}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	return eth(to, from, 0x86dd, append(p, payload...))
}

// checksum6 is the ICMPv6 checksum of a message whose checksum field is 0 (RFC 8200, 8.1).
func checksum6(src, dst netip.Addr, length int, message []byte) uint16 {
	b := slices.Concat(src.AsSlice(), dst.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(length)), []byte{0, 0, 0, 58}, message)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	return internetSum(b)
}

// internetSum is the checksum of RFC 1071 over an even number of bytes.
func internetSum(b []byte) uint16 {
	sum := 0
	for i := 0; i < len(b); i += 2 {
		sum += int(b[i])<<8 | int(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
