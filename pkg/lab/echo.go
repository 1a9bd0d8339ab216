// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	ethLen, ipLen, ip6Len, icmpLen = 14, 20, 40, 8

	probeID   = 0x4c4a
	probeData = 16 // behind the ICMP header: the whole sequence number, and zeros
)

// echo is an echo request, whole but for its sequence number and checksum.
type echo struct {
	frame  [ethLen + ip6Len + icmpLen + probeData]byte
	size   int
	icmpAt int
	seqAt  int    // the whole sequence number
	ttlAt  int    // in the answer: TTL or hop limit
	seed   uint32 // what the checksum covers beside the ICMP message
}

func newEcho(dst, src [6]byte, from, to netip.Addr) echo {
	var e echo
	copy(e.frame[:], dst[:])
	copy(e.frame[6:], src[:])
	if to.Is4() {
		e.ipv4(from, to)
	} else {
		e.ipv6(from, to)
	}
	e.seqAt = e.icmpAt + icmpLen
	e.size = e.seqAt + probeData
	binary.BigEndian.PutUint16(e.frame[e.icmpAt+4:], probeID)
	return e
}

func (e *echo) ipv4(from, to netip.Addr) {
	e.icmpAt, e.ttlAt = ethLen+ipLen, ethLen+8
	binary.BigEndian.PutUint16(e.frame[12:], unix.ETH_P_IP)
	ip := e.frame[ethLen : ethLen+ipLen]
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(ip[2:], ipLen+icmpLen+probeData)
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip, 0))
	e.frame[e.icmpAt] = 8 // echo request
}

func (e *echo) ipv6(from, to netip.Addr) {
	e.icmpAt, e.ttlAt = ethLen+ip6Len, ethLen+7
	binary.BigEndian.PutUint16(e.frame[12:], unix.ETH_P_IPV6)
	ip := e.frame[ethLen : ethLen+ip6Len]
	ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_ICMPV6, 64
	binary.BigEndian.PutUint16(ip[4:], icmpLen+probeData)
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	e.seed = uint32(^checksum(ip[8:], icmpLen+probeData+unix.IPPROTO_ICMPV6)) // the pseudo-header of RFC 8200, 8.1
	e.frame[e.icmpAt] = 128                                                   // echo request
}

// number makes it the request with this sequence number.
//
//go:nosplit
//go:norace
func (e *echo) number(seq uint32) {
	f := &e.frame
	f[e.seqAt], f[e.seqAt+1], f[e.seqAt+2], f[e.seqAt+3] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
	f[e.icmpAt+6], f[e.icmpAt+7] = byte(seq>>8), byte(seq)
	f[e.icmpAt+2], f[e.icmpAt+3] = 0, 0
	sum := checksum(f[e.icmpAt:e.size], e.seed)
	f[e.icmpAt+2], f[e.icmpAt+3] = byte(sum>>8), byte(sum)
}

//go:nosplit
//go:norace
func be32(b *[128]byte, at int) uint32 {
	return uint32(b[at])<<24 | uint32(b[at+1])<<16 | uint32(b[at+2])<<8 | uint32(b[at+3])
}

// checksum is that of RFC 1071, of an even number of bytes and what has been summed up before.
//
//go:nosplit
//go:norace
func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// probeSocket sends on a NIC and receives nothing but echo replies of target to the prober.
func probeSocket(ifindex int, target netip.Addr) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	filter, protocol := repliesOf(target)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fd, fmt.Errorf("filter packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fd, fmt.Errorf("bypass the client's qdisc: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return fd, fmt.Errorf("size packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: htons(protocol)}); err != nil {
		return fd, fmt.Errorf("bind packet socket: %w", err)
	}
	return fd, nil
}

// repliesOf is the filter for echo replies of target to the prober, among frames of a protocol.
func repliesOf(target netip.Addr) (filter []unix.SockFilter, protocol uint16) {
	type test struct{ load, at, want uint32 }
	const byte1, half, word = 0x30, 0x28, 0x20 // BPF_LD of this size, BPF_ABS
	from, icmp := uint32(ethLen+12), uint32(ethLen+ipLen)
	tests := []test{{byte1, ethLen + 9, unix.IPPROTO_ICMP}, {byte1, icmp, 0}}
	if protocol = unix.ETH_P_IP; target.Is6() {
		protocol, from, icmp = unix.ETH_P_IPV6, ethLen+8, ethLen+ip6Len
		tests = []test{{byte1, ethLen + 6, unix.IPPROTO_ICMPV6}, {byte1, icmp, 129}}
	}
	tests = append(tests, test{half, icmp + 4, probeID})
	for a := target.AsSlice(); len(a) > 0; a = a[4:] {
		tests = append(tests, test{word, from, binary.BigEndian.Uint32(a)})
		from += 4
	}
	for i, t := range tests {
		left := uint8(2 * (len(tests) - i - 1)) // from the jump to the last test's end
		filter = append(filter, unix.SockFilter{Code: uint16(t.load), K: t.at}, unix.SockFilter{Code: 0x15, Jf: left + 1, K: t.want})
	}
	return append(filter, unix.SockFilter{Code: 0x06, K: 0xffff}, unix.SockFilter{Code: 0x06, K: 0}), protocol
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
