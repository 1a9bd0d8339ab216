// SPDX-License-Identifier: Apache-2.0

package host

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"
	"slices"

	"github.com/xdpha/xdpha/pkg/config"
)

// addresses lists every address of the ranges once, in their order.
func addresses(ranges []config.AddressRange) []netip.Addr {
	var list []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, r := range ranges {
		for a := r.First; a.IsValid() && a.Compare(r.Last) <= 0; a = a.Next() {
			if !seen[a] {
				seen[a] = true
				list = append(list, a)
			}
		}
	}
	return list
}

// subnets lists the prefixes that the ranges lie in, each once.
func subnets(ranges []config.AddressRange) []netip.Prefix {
	var list []netip.Prefix
	for _, r := range ranges {
		p := netip.PrefixFrom(r.First, r.Bits).Masked()
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// aggregate covers exactly the ranges' addresses, and no others, by the fewest
// prefixes: no rule may catch the host's own address beside a virtual one.
func aggregate(ranges []config.AddressRange) []netip.Prefix {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b config.AddressRange) int {
		return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last))
	})
	var merged []config.AddressRange
	for _, r := range sorted {
		if n := len(merged); n > 0 && merged[n-1].First.Is4() == r.First.Is4() &&
			(r.First.Compare(merged[n-1].Last) <= 0 || r.First == merged[n-1].Last.Next()) {
			if r.Last.Compare(merged[n-1].Last) > 0 {
				merged[n-1].Last = r.Last
			}
			continue
		}
		merged = append(merged, r)
	}
	var list []netip.Prefix
	for _, r := range merged {
		list = append(list, cover(r.First, r.Last)...)
	}
	return list
}

// cover splits first..last into the fewest prefixes: at each step the largest
// that begins at first and does not reach beyond last.
func cover(first, last netip.Addr) []netip.Prefix {
	var list []netip.Prefix
	for first.IsValid() && first.Compare(last) <= 0 {
		length := first.BitLen() - trailingZeros(first)
		p := netip.PrefixFrom(first, length)
		for lastOf(p).Compare(last) > 0 {
			length++
			p = netip.PrefixFrom(first, length)
		}
		list = append(list, p)
		first = lastOf(p).Next()
	}
	return list
}

func trailingZeros(a netip.Addr) int {
	if a.Is4() {
		b := a.As4()
		return bits.TrailingZeros32(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	if low := binary.BigEndian.Uint64(b[8:]); low != 0 {
		return bits.TrailingZeros64(low)
	}
	return 64 + bits.TrailingZeros64(binary.BigEndian.Uint64(b[:8]))
}

// lastOf is the highest address in p.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf reads netlink's form; nil is the default route of the family.
func prefixOf(n *net.IPNet, v6 bool) netip.Prefix {
	if n == nil {
		if v6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	if !v6 {
		a = a.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}
