// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestRangesAreCoveredByTheFewestPrefixes(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"192.0.2.21/24", "[192.0.2.21/32]"},
		{"192.0.2.32-192.0.2.95/24", "[192.0.2.32/27 192.0.2.64/27]"},
		{"192.0.2.1-192.0.2.6/24", "[192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32]"},
		{"255.255.255.254-255.255.255.254/24", "[255.255.255.254/32]"},
		{"2001:db8::21/64", "[2001:db8::21/128]"},
		{"2001:db8::-2001:db8::ffff:ffff:ffff:ffff/64", "[2001:db8::/64]"},
		{"ff::-ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/16", "[ff::/16]"},
	} {
		r, err := ParseRange(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := fmt.Sprint(r.Prefixes()); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestPrefixesCoverTheRangeAndNothingElse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		lo, hi := rnd.IntN(1022)+1, rnd.IntN(1022)+1
		at := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }
		r := AddressRange{at(min(lo, hi)), at(max(lo, hi)), 22}
		var covered []netip.Addr
		for _, p := range r.Prefixes() {
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				covered = append(covered, a)
			}
		}
		if all := slices.Collect(r.All()); !slices.Equal(all, covered) || len(all) != r.Count() {
			t.Fatalf("%s: %v", r, r.Prefixes())
		}
	}
}

func TestHugeRangesAreCountedWithoutOverflow(t *testing.T) {
	r, err := ParseRange("2001:db8::1-2001:db8::ffff:ffff:ffff:ffff/64")
	if err != nil || r.Count() != math.MaxInt {
		t.Errorf("%d, %v", r.Count(), err)
	}
	id := Identity{Addresses: []AddressRange{r, r, r}}
	if id.Count() != math.MaxInt {
		t.Errorf("%d", id.Count())
	}
}

func TestBadRangesAreRefused(t *testing.T) {
	for _, in := range []string{
		"", "/", "-", "192.0.2.1", "192.0.2.1/33", "192.0.2.1/0", "192.0.2.1-/24", "192.0.2.9-192.0.2.1/24", "192.0.2.1-192.0.3.1/24",
		"192.0.2.0/24", "192.0.2.255/24", "224.0.0.1/24", "127.0.0.1/8", "0.0.0.0/8", "::/64", "::1/128", "ff02::1/64",
		"192.0.2.1-2001:db8::1/24", "::ffff:192.0.2.1/120", "fe80::1%eth0/64", "192.0.2.1/024", "192.0.2.01/24",
	} {
		if r, err := ParseRange(in); err == nil {
			t.Errorf("%q taken as %s", in, r)
		}
	}
}
