// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/xdpha/xdpha/pkg/config"
)

// block is a range of n addresses from a base on.
func block(base string, n, bits int) config.AddressRange {
	first := netip.MustParseAddr(base)
	last := first
	for range n - 1 {
		last = last.Next()
	}
	return config.AddressRange{First: first, Last: last, Bits: bits}
}

var blocks = []struct {
	family string
	base   string
	bits   int
}{{"IPv4", "10.21.0.0", 16}, {"IPv6", "2001:db8:21::1:0", 64}}

func onDevice(t testing.TB, family int) int {
	t.Helper()
	link, err := netlink.LinkByName("xd-files")
	must(t, err)
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
	must(t, err)
	return len(list)
}

func TestManyAddressesOfBothFamiliesComeAndGo(t *testing.T) {
	s := newScene(t)
	const n = 2*batchSize + 44
	id := files()
	id.Addresses = []config.AddressRange{block(blocks[0].base, n, blocks[0].bits), block(blocks[1].base, n, blocks[1].bits)}
	must(t, s.host.Prepare(id))
	must(t, netlink.AddrAdd(s.host.identities["files"].link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.21.0.200/32"))}))
	must(t, s.host.AddAddresses("files"))
	must(t, s.host.AddAddresses("files")) // those that are there are a success
	if v4, v6 := onDevice(t, netlink.FAMILY_V4), onDevice(t, netlink.FAMILY_V6); v4 != n || v6 != n {
		t.Errorf("%d IPv4 and %d IPv6 addresses are on the device, want %d each", v4, v6, n)
	}
	missing, err := s.host.Verify("files")
	must(t, err)
	if len(missing) > 0 {
		t.Errorf("%d addresses are missing, %v first", len(missing), missing[0])
	}
	must(t, s.host.RemoveAddresses("files"))
	must(t, s.host.RemoveAddresses("files"))
	if left := onDevice(t, netlink.FAMILY_ALL); left != 0 {
		t.Errorf("%d addresses are left", left)
	}
}

func TestTheAddressesThatFailAreNamed(t *testing.T) {
	s := newScene(t)
	id := files()
	id.Addresses = []config.AddressRange{
		block(blocks[0].base, 100, 16), block(blocks[1].base, 40, 64), block("10.22.0.0", 100, 16), block("2001:db8:22::", 2, 64),
	}
	must(t, s.host.Prepare(id))
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/xd-files/disable_ipv6", []byte("1"), 0))
	err := s.host.AddAddresses("files")
	if err == nil {
		t.Fatal("IPv6 addresses were added to a device without IPv6")
	}
	lines := strings.Split(err.Error(), "\n")
	if want := "and 34 more"; len(lines) != namedErrors+1 || lines[namedErrors] != want {
		t.Errorf("the error has %d lines, the last %q; want %d and %q", len(lines), lines[len(lines)-1], namedErrors+1, want)
	}
	for i, line := range lines[:min(namedErrors, len(lines))] {
		if want := fmt.Sprintf("add 2001:db8:21::1:%x to xd-files: ", i); !strings.Contains(line, want) {
			t.Errorf("line %d is %q, want %q in it", i, line, want)
		}
	}
	if v4 := onDevice(t, netlink.FAMILY_V4); v4 != 200 {
		t.Errorf("%d IPv4 addresses were added, want 200", v4)
	}
}

func TestAddressesForADeviceThatIsGone(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	must(t, netlink.LinkDel(s.host.identities["files"].link))
	if err := s.host.AddAddresses("files"); !errors.Is(err, ErrNotPrepared) {
		t.Errorf("AddAddresses without the device: %v, want ErrNotPrepared", err)
	}
	must(t, s.host.RemoveAddresses("files"))
}

func BenchmarkAddresses(b *testing.B) {
	for _, f := range blocks {
		for _, n := range []int{1, 100, 10000} {
			b.Run(fmt.Sprintf("%s/%d", f.family, n), func(b *testing.B) {
				s := newScene(b)
				id := files()
				id.Addresses = []config.AddressRange{block(f.base, n, f.bits)}
				must(b, s.host.Prepare(id))
				b.ResetTimer()
				for range b.N {
					must(b, s.host.AddAddresses("files"))
					b.StopTimer()
					must(b, s.host.RemoveAddresses("files"))
					must(b, s.host.Prepare(id))
					b.StartTimer()
				}
			})
		}
	}
}
