// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/big"
	"net/netip"
	"strings"
)

// ParseRange reads ADDRESS/BITS or FIRST-LAST/BITS.
func ParseRange(s string) (AddressRange, error) {
	body, bits, ok := strings.Cut(s, "/")
	if !ok {
		return AddressRange{}, errors.New("no prefix length; write it as in 192.0.2.21/24")
	}
	from, to, isRange := strings.Cut(body, "-")
	if !isRange {
		to = from
	}
	first, err := parseHost(from, bits)
	if err != nil {
		return AddressRange{}, err
	}
	last, err := parseHost(to, bits)
	if err != nil {
		return AddressRange{}, err
	}
	r := AddressRange{First: first.Addr(), Last: last.Addr(), Bits: first.Bits()}
	if first.Addr().BitLen() != last.Addr().BitLen() {
		return AddressRange{}, fmt.Errorf("%s and %s are of different families; write two entries", from, to)
	}
	if r.Last.Less(r.First) {
		return AddressRange{}, fmt.Errorf("the range ends before it starts; write %s-%s/%s", to, from, bits)
	}
	if first.Masked() != last.Masked() {
		return AddressRange{}, fmt.Errorf("the range leaves %s; end it at or before %s", first.Masked(), lastOf(first.Masked()))
	}
	return r, nil
}

// parseHost reads one address that a host can have inside its prefix.
func parseHost(addr, bits string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(addr + "/" + bits)
	if err != nil {
		return p, errors.New("not an address with a prefix length; write it as in 192.0.2.21/24 or 2001:db8::21/64")
	}
	a := p.Addr()
	switch {
	case a.Is4In6():
		return p, fmt.Errorf("an IPv4 address in IPv6 dress; write %s", a.Unmap())
	case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return p, fmt.Errorf("%s cannot be a host's address; write a unicast address of the network", a)
	case p.Bits() == 0:
		return p, errors.New("prefix length 0 is no network; write the network's length, as in /24 or /64")
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return p, fmt.Errorf("%s is the network address of %s; write one of its hosts", a, p.Masked())
	case a.Is4() && p.Bits() < 31 && a == lastOf(p):
		return p, fmt.Errorf("%s is the broadcast address of %s; write one of its hosts", a, p.Masked())
	}
	return p, nil
}

// Contains reports whether a lies in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && !a.Less(r.First) && !r.Last.Less(a)
}

// Count returns the number of addresses, at most the greatest int.
func (r AddressRange) Count() int {
	n := new(big.Int).Sub(new(big.Int).SetBytes(r.Last.AsSlice()), new(big.Int).SetBytes(r.First.AsSlice()))
	if n.Add(n, big.NewInt(1)); !n.IsInt64() || n.Int64() > math.MaxInt {
		return math.MaxInt
	}
	return int(n.Int64())
}

// All yields every address, in order.
func (r AddressRange) All() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for a := r.First; a.IsValid() && !r.Last.Less(a); a = a.Next() {
			if !yield(a) {
				return
			}
		}
	}
}

// Prefixes returns the fewest prefixes that cover the range and nothing else.
func (r AddressRange) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for a := r.First; a.IsValid() && !r.Last.Less(a); {
		p := largestFrom(a, r.Last)
		out = append(out, p)
		a = lastOf(p).Next()
	}
	return out
}

// largestFrom returns the widest prefix that starts at a and ends by last.
func largestFrom(a, last netip.Addr) netip.Prefix {
	for bits := range a.BitLen() {
		p := netip.PrefixFrom(a, bits)
		if p.Masked().Addr() == a && !last.Less(lastOf(p)) {
			return p
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b) // the length is that of an address
	return a
}

// String gives the range as the file writes it.
func (r AddressRange) String() string {
	if r.First == r.Last {
		return fmt.Sprintf("%s/%d", r.First, r.Bits)
	}
	return fmt.Sprintf("%s-%s/%d", r.First, r.Last, r.Bits)
}

// Count returns the number of addresses of the identity.
func (id *Identity) Count() int {
	n := 0
	for _, r := range id.Addresses {
		if n += r.Count(); n < 0 {
			return math.MaxInt
		}
	}
	return n
}
