// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Send sends the clients of connections whose local addresses are this node's now a segment each. It
// returns how many left, and what went wrong with the first of the others.
func Send(list []Connection) (sent int, err error) {
	s, err := open()
	if err != nil {
		return 0, err
	}
	defer s.close()
	return s.all(list)
}

// sockets4and6 take segments with their IP headers (raw(7), ipv6(7): IPPROTO_RAW).
type sockets4and6 struct{ v4, v6 int }

func open() (s sockets4and6, err error) {
	if s.v4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return s, fmt.Errorf("open raw socket: %w", err)
	}
	if s.v6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		if !errors.Is(err, unix.EAFNOSUPPORT) { // without IPv6 nothing of it is in a list
			unix.Close(s.v4)
			return s, fmt.Errorf("open raw socket: %w", err)
		}
		s.v6 = -1
	}
	return s, nil
}

func (s sockets4and6) close() {
	unix.Close(s.v4)
	if s.v6 >= 0 {
		unix.Close(s.v6)
	}
}

func (s sockets4and6) all(list []Connection) (sent int, first error) {
	for _, c := range list {
		switch err := s.one(c); {
		case err == nil:
			sent++
		case first == nil:
			first = fmt.Errorf("tickle %v: %w", c, err)
		}
	}
	return sent, first
}

// one sends a connection's segment. The kernel looks for a route by the source address of the message, not
// by that of the header: an identity's segments leave by its own NIC.
func (s sockets4and6) one(c Connection) error {
	local, remote := c.Local.Addr(), c.Remote.Addr()
	if local.Is4() {
		from := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
		_, err := unix.SendmsgN(s.v4, segment(c), from, &unix.SockaddrInet4{Addr: remote.As4()}, 0)
		return err
	}
	from := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
	_, err := unix.SendmsgN(s.v6, segment(c), from, &unix.SockaddrInet6{Addr: remote.As16()}, 0)
	return err
}

const (
	tcpBytes = 20
	ack      = 0x10
	hops     = 64
)

// segment is an acknowledgment of a connection with numbers that cannot be right.
func segment(c Connection) []byte {
	tcp := make([]byte, tcpBytes)
	binary.BigEndian.PutUint16(tcp[0:], c.Local.Port())
	binary.BigEndian.PutUint16(tcp[2:], c.Remote.Port())
	tcp[12] = tcpBytes / 4 << 4
	tcp[13] = ack
	binary.BigEndian.PutUint16(tcp[16:], checksum(c.Local.Addr(), c.Remote.Addr(), tcp))
	if c.Local.Addr().Is4() {
		return append(header4(c.Local.Addr(), c.Remote.Addr()), tcp...)
	}
	return append(header6(c.Local.Addr(), c.Remote.Addr()), tcp...)
}

// header4: the kernel fills in the identification and the checksum (raw(7)).
func header4(from, to netip.Addr) []byte {
	h := make([]byte, 20, 20+tcpBytes)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], 20+tcpBytes)
	h[8], h[9] = hops, unix.IPPROTO_TCP
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	return h
}

func header6(from, to netip.Addr) []byte {
	h := make([]byte, 40, 40+tcpBytes)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], tcpBytes)
	h[6], h[7] = unix.IPPROTO_TCP, hops
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return h
}

// checksum covers the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1). That of IPv6 has its length and
// protocol in more bytes, whose sum is the same.
func checksum(from, to netip.Addr, tcp []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), tcp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
