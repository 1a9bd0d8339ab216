// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
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
	for state, put := range map[string]func(*Host) error{
		"added":            func(h *Host) error { return h.AddAddresses("files") },
		"staged":           func(h *Host) error { return h.StageAddresses("files") },
		"staged and owned": func(h *Host) error { return errors.Join(h.StageAddresses("files"), h.Own("files")) },
		"staged, owned and disowned": func(h *Host) error {
			return errors.Join(h.StageAddresses("files"), h.Own("files"), h.Disown("files"))
		},
	} {
		t.Run(state, func(t *testing.T) {
			s := newScene(t)
			must(t, s.host.Prepare(ahead()))
			must(t, put(s.host))
			s.told()
			s.checkAnswers()
		})
	}
}

// told gives the client what XDP answers in a cluster: the virtual MAC.
func (s *scene) told() {
	s.t.Helper()
	s.in(s.client, func() {
		cli, err := netlink.LinkByName("cli")
		must(s.t, err)
		for _, a := range []string{"192.0.2.21", "192.0.2.24", "2001:db8::21"} {
			must(s.t, netlink.NeighSet(&netlink.Neigh{LinkIndex: cli.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: virtual[:]}))
		}
	})
}

func (s *scene) checkAnswers() {
	s.t.Helper()
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
			s.t.Errorf("%s: answered from MAC %s, want %s", test.name, got, test.mac)
		}
	}
}

// exchange opens a connection from the client and returns the MAC that the node's answers came from.
func (s *scene) exchange(name, from, to string) net.HardwareAddr {
	s.t.Helper()
	l, err := net.Listen("tcp", ":0") // staged IPv4 addresses cannot be bound to
	must(s.t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(s.t, err)
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
		c, err := d.Dial("tcp", net.JoinHostPort(to, port))
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

// owner makes the client the peer that owns files: its replies come from the virtual MAC.
// The client's addresses are answered for by XDP in a cluster, so that the owner learns
// nothing from being asked; here the node is told.
func (s *scene) owner() {
	s.t.Helper()
	s.in(s.client, func() {
		cli, err := netlink.LinkByName("cli")
		must(s.t, err)
		a := netlink.NewLinkAttrs()
		a.Name, a.ParentIndex, a.HardwareAddr = "xd-peer", cli.Attrs().Index, virtual[:]
		must(s.t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_VEPA}))
		configure(s.t, "xd-peer", []string{"192.0.2.21/32", "2001:db8::21/128"})
		peer, err := netlink.LinkByName("xd-peer")
		must(s.t, err)
		for _, subnet := range []string{"192.0.2.0/24", "2001:db8::/64"} {
			_, dst, err := net.ParseCIDR(subnet)
			must(s.t, err)
			must(s.t, netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: dst, Table: testTable}))
		}
		for _, address := range []string{"192.0.2.21/32", "2001:db8::21/128"} {
			_, src, err := net.ParseCIDR(address)
			must(s.t, err)
			r := netlink.NewRule()
			r.Src, r.Table, r.Priority = src, testTable, 100
			must(s.t, netlink.RuleAdd(r))
		}
	})
	for _, a := range []string{"192.0.2.21", "2001:db8::21"} {
		must(s.t, netlink.NeighSet(&netlink.Neigh{LinkIndex: s.nic.Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: virtual[:]}))
	}
}

// reach connects from the node to an address of the owner's, and returns whom the owner saw.
func (s *scene) reach(to string) netip.Addr {
	s.t.Helper()
	var l net.Listener
	s.in(s.client, func() {
		var err error
		l, err = net.Listen("tcp", net.JoinHostPort(to, "0"))
		must(s.t, err)
	})
	defer l.Close()
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Errorf("to %s: %v", to, err)
		return netip.Addr{}
	}
	defer c.Close()
	in, err := l.Accept()
	must(s.t, err)
	defer in.Close()
	return netip.MustParseAddrPort(in.RemoteAddr().String()).Addr()
}

func TestAStandbysProgramsReachTheOwner(t *testing.T) {
	s := newScene(t)
	s.owner()
	must(t, s.host.Prepare(files()))
	s.checkReach()
}

// checkReach sees that the node's programs talk to the owner, from the node's own addresses.
func (s *scene) checkReach() {
	s.t.Helper()
	for to, want := range map[string]string{"192.0.2.21": "192.0.2.11", "2001:db8::21": "2001:db8::11"} {
		if got := s.reach(to); got != netip.MustParseAddr(want) {
			s.t.Errorf("%s was reached from %v, want %s", to, got, want)
		}
	}
}
