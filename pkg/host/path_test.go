// SPDX-License-Identifier: Apache-2.0

package host

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAnAddressAnswersFromItsOwnMACAndTheHostsFromTheNICs(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	must(t, s.host.AddAddresses("files"))
	s.in(s.client, func() {
		cli, err := netlink.LinkByName("cli")
		must(t, err)
		// In the cluster XDP answers for the addresses; here nobody does.
		for _, a := range []string{"192.0.2.21", "192.0.2.24", "2001:db8::21"} {
			must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: cli.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: virtual[:]}))
		}
	})
	for _, test := range []struct {
		name, from, to string
		mac            net.HardwareAddr
	}{
		{"virtual, in the subnet", "192.0.2.100", "192.0.2.21", virtual[:]},
		{"virtual, the last of the range", "192.0.2.100", "192.0.2.24", virtual[:]},
		{"virtual, by the router", "198.51.100.9", "192.0.2.21", virtual[:]},
		{"virtual IPv6, in the subnet", "2001:db8::100", "2001:db8::21", virtual[:]},
		{"virtual IPv6, by the router", "2001:db8:9::9", "2001:db8::21", virtual[:]},
		{"the host's, in the subnet", "192.0.2.100", "192.0.2.11", s.nic.MAC},
		{"the host's, by the router", "198.51.100.9", "192.0.2.11", s.nic.MAC},
		{"the host's IPv6", "2001:db8::100", "2001:db8::11", s.nic.MAC},
	} {
		if got := s.exchange(test.name, test.from, test.to); got.String() != test.mac.String() {
			t.Errorf("%s: answered from MAC %s, want %s", test.name, got, test.mac)
		}
	}
}

// exchange opens a connection from the client and returns the MAC that the node's answers came from.
func (s *scene) exchange(name, from, to string) net.HardwareAddr {
	s.t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(to, "0"))
	must(s.t, err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("here"))
			_ = c.Close()
		}
	}()
	var mac net.HardwareAddr
	s.in(s.client, func() {
		ifi, err := net.InterfaceByName("cli")
		must(s.t, err)
		conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		must(s.t, err)
		defer conn.Close()
		must(s.t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		if b, err := io.ReadAll(c); err != nil || string(b) != "here" {
			s.t.Fatalf("%s: read %q, %v", name, b, err)
		}
		mac = sourceOf(s.t, conn, netip.MustParseAddr(to))
	})
	return mac
}

// sourceOf is the MAC of the next captured frame from an IP address.
func sourceOf(t testing.TB, conn *packet.Conn, ip netip.Addr) net.HardwareAddr {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		must(t, err)
		f := buf[:n]
		switch {
		case n >= 34 && f[12] == 0x08 && f[13] == 0x00 && netip.AddrFrom4([4]byte(f[26:30])) == ip,
			n >= 54 && f[12] == 0x86 && f[13] == 0xdd && netip.AddrFrom16([16]byte(f[22:38])) == ip && f[20] == unix.IPPROTO_TCP:
			return net.HardwareAddr(f[6:12])
		}
	}
}
