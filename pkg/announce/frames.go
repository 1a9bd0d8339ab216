// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
)

// frames are the announcements of one address: for IPv4 the request and the
// reply form (RFC 5227 section 3: some stacks learn from the one only, some from the
// other), for IPv6 one unsolicited advertisement (RFC 4861 section 7.2.6).
func frames(mac [6]byte, a netip.Addr) ([][]byte, error) {
	if a.Is6() && !a.Is4In6() {
		f, err := advertisement(mac, a)
		return [][]byte{f}, err
	}
	list := make([][]byte, 0, 2)
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		f, err := gratuitous(mac, a, op)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// gratuitous is an ARP packet whose sender and target address are both a.
func gratuitous(mac [6]byte, a netip.Addr, op arp.Operation) ([]byte, error) {
	hw := net.HardwareAddr(mac[:])
	target := ethernet.Broadcast
	if op == arp.OperationRequest {
		target = make(net.HardwareAddr, len(mac)) // RFC 5227: ignored, should be zero
	}
	p, err := arp.NewPacket(op, hw, a, target, a)
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP %s for %s: %w", op, a, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP %s for %s: %w", op, a, err)
	}
	return frame(hw, ethernet.Broadcast, ethernet.EtherTypeARP, payload)
}

// Layout of an unsolicited neighbour advertisement with its IPv6 header.
const (
	ipv6Header   = 40
	icmpLen      = 24 + 8 // advertisement and target link-layer address option
	protoICMPv6  = 58
	hopLimit     = 255 // RFC 4861 section 7.1.2: anything else is refused
	typeNA       = 136
	flagOverride = 0x20
	optTargetMAC = 2
)

// advertisement is an unsolicited neighbour advertisement to all nodes.
func advertisement(mac [6]byte, a netip.Addr) ([]byte, error) {
	src, dst := a.As16(), netip.IPv6LinkLocalAllNodes().As16()
	b := make([]byte, ipv6Header+icmpLen)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], icmpLen)
	b[6], b[7] = protoICMPv6, hopLimit
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	icmp := b[ipv6Header:]
	icmp[0], icmp[4] = typeNA, flagOverride
	copy(icmp[8:], src[:])
	icmp[24], icmp[25] = optTargetMAC, 1
	copy(icmp[26:], mac[:])
	binary.BigEndian.PutUint16(icmp[2:], checksum(src, dst, icmp))
	multicast := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	return frame(mac[:], multicast, ethernet.EtherTypeIPv6, b)
}

// checksum is ICMPv6's, over the pseudo-header too (RFC 8200 section 8.1).
func checksum(src, dst [16]byte, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + protoICMPv6
	for _, part := range [][]byte{src[:], dst[:], icmp} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func frame(src, dst net.HardwareAddr, kind ethernet.EtherType, payload []byte) ([]byte, error) {
	f := ethernet.Frame{Source: src, Destination: dst, EtherType: kind, Payload: payload}
	b, err := f.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build frame from %s: %w", src, err)
	}
	return b, nil
}
