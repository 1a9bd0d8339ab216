// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The form of a list: for each connection a byte 4 or 6, and for both ends, the local one
// first, the address (4 or 16 bytes) and the port (2 bytes, big endian).
const (
	v4 = 4
	v6 = 6
)

// Marshal writes a list.
func Marshal(list []Connection) []byte {
	var b []byte
	for _, c := range list {
		family := byte(v4)
		if c.Local.Addr().Is6() {
			family = v6
		}
		b = append(b, family)
		for _, end := range []netip.AddrPort{c.Local, c.Remote} {
			b = append(b, end.Addr().AsSlice()...)
			b = binary.BigEndian.AppendUint16(b, end.Port())
		}
	}
	return b
}

// Unmarshal reads a list that Marshal wrote, of at most Limit connections.
func Unmarshal(b []byte) (list []Connection, err error) {
	for at := 0; at < len(b); {
		size := map[byte]int{v4: 4, v6: 16}[b[at]]
		whole := 1 + 2*(size+2)
		switch {
		case size == 0:
			return nil, fmt.Errorf("read list of connections: byte %d is %d, neither 4 nor 6", at, b[at])
		case at+whole > len(b):
			return nil, fmt.Errorf("read list of connections: it ends within the connection at byte %d", at)
		case len(list) == Limit:
			return nil, fmt.Errorf("read list of connections: more than %d", Limit)
		}
		c := Connection{Local: endOf(b[at+1:], size), Remote: endOf(b[at+1+size+2:], size)}
		if c.Local.Addr().Is4In6() || c.Remote.Addr().Is4In6() {
			return nil, fmt.Errorf("read list of connections: %v at byte %d is IPv4 in the form of IPv6", c, at)
		}
		list = append(list, c)
		at += whole
	}
	return list, nil
}

func endOf(b []byte, size int) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(b[:size]) // 4 or 16
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[size:]))
}
