// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/xdpha/xdpha/pkg/wire"
)

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

// icmp6Sum is 0 if the checksum of an ICMPv6 message is right.
func icmp6Sum(b []byte) uint16 {
	length := int(binary.BigEndian.Uint16(b[18:]))
	if len(b) < 54+length || length < 24 {
		return 0xffff
	}
	src, dst := addresses(b)
	return checksum6(src, dst, length, b[54:54+length])
}
