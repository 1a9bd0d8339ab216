// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

func span(first, last string, bits int) config.AddressRange {
	return config.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last), Bits: bits}
}

func TestAggregateCoversExactlyTheAddresses(t *testing.T) {
	for _, test := range []struct {
		name   string
		ranges []config.AddressRange
		want   string
	}{
		{"one address", []config.AddressRange{span("192.0.2.21", "192.0.2.21", 24)}, "192.0.2.21/32"},
		{"an aligned range", []config.AddressRange{span("192.0.2.32", "192.0.2.95", 24)}, "192.0.2.32/27 192.0.2.64/27"},
		{"an unaligned range", []config.AddressRange{span("192.0.2.33", "192.0.2.38", 24)}, "192.0.2.33/32 192.0.2.34/31 192.0.2.36/31 192.0.2.38/32"},
		{"neighbours become one", []config.AddressRange{span("192.0.2.23", "192.0.2.23", 24), span("192.0.2.22", "192.0.2.22", 24)}, "192.0.2.22/31"},
		{"overlaps count once", []config.AddressRange{span("192.0.2.0", "192.0.2.200", 24), span("192.0.2.100", "192.0.2.255", 24)}, "192.0.2.0/24"},
		{"the last address of all", []config.AddressRange{span("255.255.255.254", "255.255.255.255", 24)}, "255.255.255.254/31"},
		{"both families", []config.AddressRange{span("2001:db8::20", "2001:db8::2f", 64), span("192.0.2.1", "192.0.2.1", 24)}, "192.0.2.1/32 2001:db8::20/124"},
		{"a wide IPv6 range", []config.AddressRange{span("2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff", 48)}, "2001:db8:0:1::/64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, p := range aggregate(test.ranges) {
				got = append(got, p.String())
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got %s, want %s", s, test.want)
			}
		})
	}
}

func TestAddressesAreListedOnceInOrder(t *testing.T) {
	got := addresses([]config.AddressRange{span("192.0.2.3", "192.0.2.4", 24), span("192.0.2.1", "192.0.2.3", 24)})
	want := []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDeviceNamesFitAndDiffer(t *testing.T) {
	if got := DeviceName("files"); got != "xd-files" {
		t.Errorf("got %s", got)
	}
	a, b := DeviceName("a-rather-long-name-1"), DeviceName("a-rather-long-name-2")
	if a == b || len(a) != maxName || len(b) != maxName || !strings.HasPrefix(a, "xd-a-rather") && !strings.HasPrefix(a, "xd-a-rat") {
		t.Errorf("got %s and %s", a, b)
	}
}
