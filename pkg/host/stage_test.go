// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

const (
	testStageTable    = 7201
	testStagePriority = 50
	testLastPriority  = 200
)

// ahead is files with room for staging.
func ahead() Identity {
	id := files()
	id.StageTable, id.StagePriority, id.SourcePriority = testStageTable, testStagePriority, testLastPriority
	return id
}

func (s *scene) staged(id Identity) {
	s.t.Helper()
	must(s.t, s.host.Prepare(id))
	must(s.t, s.host.StageAddresses(id.Name))
}

func TestAStandbysProgramsReachTheOwnerThoughAddressesAreStaged(t *testing.T) {
	s := newScene(t)
	s.owner()
	s.staged(ahead())
	s.checkReach()
	must(t, s.host.Own("files"))
	must(t, s.host.Disown("files"))
	s.checkReach()
}

func TestWhileItOwnsANodesProgramsReachItself(t *testing.T) {
	s := newScene(t)
	s.owner()
	s.staged(ahead())
	must(t, s.host.Own("files"))
	for _, a := range []string{"192.0.2.21", "2001:db8::21"} {
		l, err := net.Listen("tcp", net.JoinHostPort(a, "0"))
		must(t, err)
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		must(t, err)
		if from := netip.MustParseAddrPort(c.LocalAddr().String()).Addr(); from != netip.MustParseAddr(a) {
			t.Errorf("%s was reached from %s", a, from)
		}
		must(t, errors.Join(c.Close(), l.Close()))
	}
}

func TestWithoutOwnershipIPv4CannotBeBoundToAndIPv6Can(t *testing.T) {
	s := newScene(t)
	s.staged(ahead())
	bind := func(a string) error {
		l, err := net.Listen("tcp", net.JoinHostPort(a, "0"))
		if err != nil {
			return err
		}
		return l.Close()
	}
	if err := bind("192.0.2.21"); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("bind to a staged IPv4 address: %v, want EADDRNOTAVAIL", err)
	}
	must(t, bind("2001:db8::21"))
	s.told()
	if err := s.askFreeBound("192.0.2.21"); err != nil {
		t.Errorf("a service that bound a staged address with IP_FREEBIND: %v", err)
	}
	must(t, s.host.Own("files"))
	must(t, bind("192.0.2.21"))
	must(t, bind("2001:db8::21"))
}

// askFreeBound connects from the client to a listener that insisted on its address.
func (s *scene) askFreeBound(a string) error {
	s.t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, set)
	}}
	l, err := lc.Listen(s.t.Context(), "tcp4", net.JoinHostPort(a, "0"))
	if err != nil {
		return err
	}
	defer l.Close()
	s.in(s.client, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second); err == nil {
			err = c.Close()
		}
	})
	return err
}

func TestAStagedAddressAnswersPings(t *testing.T) {
	s := newScene(t)
	s.staged(ahead())
	s.told()
	for _, to := range []string{"192.0.2.21", "192.0.2.24", "2001:db8::21"} {
		if err := s.ping(to); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	must(t, s.host.Own("files"))
	for _, to := range []string{"192.0.2.21", "2001:db8::21"} {
		if err := s.ping(to); err != nil {
			t.Errorf("%s, owned: %v", to, err)
		}
	}
}

// ping sends an echo request from the client and awaits the answer from that address.
func (s *scene) ping(to string) (err error) {
	s.t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if netip.MustParseAddr(to).Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	s.in(s.client, func() {
		var conn net.PacketConn
		if conn, err = net.ListenPacket(network, ""); err != nil {
			return
		}
		defer conn.Close()
		// The sum of type and identifier; the kernel writes ICMPv6's itself.
		msg := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}
		sum := ^(uint16(request)<<8 + 0x1234 + 1)
		msg[2], msg[3] = byte(sum>>8), byte(sum)
		if _, err = conn.WriteTo(msg, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			return
		}
		err = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 2048)
		for err == nil {
			var from net.Addr
			if _, from, err = conn.ReadFrom(buf); err == nil && from.String() == to && buf[0] == reply {
				return
			}
		}
	})
	return err
}

// localBlocks are the device's local routes, as text.
func localBlocks(t testing.TB, h *Host, dev string) (list []string) {
	t.Helper()
	link, err := netlink.LinkByName(dev)
	must(t, err)
	have, err := h.localRoutes(link)
	must(t, err)
	for _, p := range append(have.own, have.kernel...) {
		list = append(list, p.String())
	}
	slices.Sort(list)
	return list
}

func TestOwningTakesARouteForEachBlockNotForEachAddress(t *testing.T) {
	s := newScene(t)
	id := ahead()
	id.Addresses = []config.AddressRange{span("10.21.0.0", "10.21.1.255", 16), span("2001:db8:21::100", "2001:db8:21::2ff", 64)}
	s.host.rcv = 2048 // so small that messages about routes are lost
	s.staged(id)
	if l := localBlocks(t, s.host, "xd-files"); len(l) != 0 {
		t.Errorf("staged, there are local routes to %v", l)
	}
	if v4, v6 := onDevice(t, netlink.FAMILY_V4), onDevice(t, netlink.FAMILY_V6); v4 != 512 || v6 != 512 {
		t.Errorf("%d IPv4 and %d IPv6 addresses are on the device, want 512 each", v4, v6)
	}
	must(t, s.host.Own("files"))
	must(t, s.host.Own("files"))
	if l, want := localBlocks(t, s.host, "xd-files"), []string{"10.21.0.0/23", "2001:db8:21::100/120", "2001:db8:21::200/120"}; !slices.Equal(l, want) {
		t.Errorf("owned, there are local routes to %v, want %v", l, want)
	}
	must(t, s.host.Disown("files"))
	must(t, s.host.Disown("files"))
	if l := localBlocks(t, s.host, "xd-files"); len(l) != 0 {
		t.Errorf("disowned, there are local routes to %v", l)
	}
}

func TestRemoveLeavesNothingOfStaging(t *testing.T) {
	s := newScene(t)
	before := picture(t)
	for state, remove := range map[string]func() error{
		"Remove":    func() error { return s.host.Remove("files") },
		"RemoveAll": func() error { return s.host.RemoveAll(testMark) },
		"RemoveAll after somebody removed the device": func() error {
			link, err := netlink.LinkByName("xd-files")
			must(t, err)
			must(t, netlink.LinkDel(link))
			return s.host.RemoveAll(testMark)
		},
		"RemoveAddresses, Remove": func() error { return errors.Join(s.host.RemoveAddresses("files"), s.host.Remove("files")) },
	} {
		s.staged(ahead())
		must(t, s.host.Own("files"))
		must(t, remove())
		if d := changes(before, stagePicture(t)); d != "" {
			t.Errorf("%s: the host is not as it was: %s", state, d)
		}
	}
}

// stagePicture is picture without its wait for IPv6 addresses' local routes.
func stagePicture(t testing.TB) map[string]string { return pictureOf(t, linksComplete) }

func TestStagedAddressesOfAKilledProcessAreAdopted(t *testing.T) {
	for _, owned := range []bool{false, true} {
		t.Run(fmt.Sprint("owned ", owned), func(t *testing.T) {
			s := newScene(t)
			s.staged(ahead())
			if owned {
				must(t, s.host.Own("files"))
			}
			during := stagePicture(t)
			second, err := New(slog.New(slog.DiscardHandler), testMark)
			must(t, err)
			defer second.Close()
			must(t, second.Prepare(ahead()))
			if d := changes(during, stagePicture(t)); d != "" {
				t.Errorf("Prepare changed the host: %s", d)
			}
			must(t, second.StageAddresses("files"))
			if d := changes(during, stagePicture(t)); d != "" {
				t.Errorf("adopting changed the host: %s", d)
			}
			if missing, err := second.Verify("files"); err != nil || len(missing) > 0 {
				t.Errorf("Verify: %v, missing %v", err, missing)
			}
		})
	}
}

func TestVerifyKnowsStagedFromOwnedAndPrepareRepairs(t *testing.T) {
	for _, owned := range []bool{false, true} {
		t.Run(fmt.Sprint("owned ", owned), func(t *testing.T) {
			s := newScene(t)
			s.staged(ahead())
			if owned {
				must(t, s.host.Own("files"))
			}
			if missing, err := s.host.Verify("files"); err != nil || len(missing) > 0 {
				t.Fatalf("Verify: %v, missing %v", err, missing)
			}
			whole := stagePicture(t)
			link, err := netlink.LinkByName("xd-files")
			must(t, err)
			for name, harm := range s.harms(link, owned) {
				harm()
				if _, err := s.host.Verify("files"); !errors.Is(err, ErrNotPrepared) {
					t.Errorf("%s: Verify says %v, want ErrNotPrepared", name, err)
				}
				must(t, s.host.Prepare(ahead()))
				if _, err := s.host.Verify("files"); err != nil {
					t.Errorf("%s: after Prepare Verify says %v", name, err)
				}
				must(t, s.host.StageAddresses("files"))
				if d := changes(whole, stagePicture(t)); d != "" {
					t.Errorf("%s: not as it was: %s", name, d)
				}
			}
			must(t, netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.22/32"))}))
			if missing, err := s.host.Verify("files"); err != nil || len(missing) != 1 || missing[0].String() != "192.0.2.22" {
				t.Errorf("Verify: %v, missing %v, want 192.0.2.22", err, missing)
			}
		})
	}
}

// harms are what somebody else may do to a staged identity.
func (s *scene) harms(link netlink.Link, owned bool) map[string]func() {
	index := link.Attrs().Index
	remove := func(table int) func() {
		return func() {
			routes, err := s.host.routesIn(table)
			must(s.t, err)
			if len(routes) == 0 {
				s.t.Fatalf("table %d is empty", table)
			}
			must(s.t, netlink.RouteDel(&routes[0]))
		}
	}
	list := map[string]func(){
		"deliveries": remove(testStageTable),
		"sources":    remove(testStageTable + 1),
		"rules": func() {
			rules, err := s.host.ownRules()
			must(s.t, err)
			for _, r := range rules {
				if r.Priority == testStagePriority {
					must(s.t, netlink.RuleDel(&r))
				}
			}
		},
		"down and up": func() { must(s.t, errors.Join(netlink.LinkSetDown(link), netlink.LinkSetUp(link))) },
	}
	local := localRoute(netip.MustParsePrefix("192.0.2.22/31"), index, unix.RT_TABLE_LOCAL)
	local.Priority = localMetric
	if owned {
		list["no local route"] = func() { must(s.t, netlink.RouteDel(&local)) }
	} else {
		list["local route"] = func() { must(s.t, netlink.RouteAdd(&local)) }
	}
	return list
}

func TestStagingFollowsAChangedConfiguration(t *testing.T) {
	s := newScene(t)
	s.staged(ahead())
	must(t, s.host.Own("files"))
	changed := ahead()
	changed.StageTable, changed.Addresses = testStageTable+10, []config.AddressRange{span("192.0.2.23", "192.0.2.25", 24)}
	s.staged(changed)
	if l, want := localBlocks(t, s.host, "xd-files"), []string{"192.0.2.23/32", "192.0.2.24/31"}; !slices.Equal(l, want) {
		t.Errorf("there are local routes to %v, want %v", l, want)
	}
	for _, table := range []int{testStageTable, testStageTable + 1} {
		routes, err := s.host.routesIn(table)
		must(t, err)
		if len(routes) > 0 {
			t.Errorf("table %d still holds %v", table, routes)
		}
	}
	rules, err := s.host.ownRules()
	must(t, err)
	for _, r := range rules {
		if r.Table == testStageTable || r.Table == testStageTable+1 {
			t.Errorf("rule %s is left", ruleText(r))
		}
	}
	must(t, s.host.Prepare(files()))
	if err := s.host.StageAddresses("files"); err == nil {
		t.Error("addresses were staged without a stage table")
	}
}

func TestAddressesChangeBetweenStagedAndAdded(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(ahead()))
	must(t, s.host.AddAddresses("files"))
	settle(t)
	must(t, s.host.StageAddresses("files"))
	if l := localBlocks(t, s.host, "xd-files"); len(l) != 0 {
		t.Errorf("after StageAddresses there are local routes to %v", l)
	}
	must(t, s.host.AddAddresses("files"))
	want := []string{"192.0.2.21/32", "192.0.2.22/31", "192.0.2.24/32", "2001:db8::21/128"}
	if l := localBlocks(t, s.host, "xd-files"); !slices.Equal(l, want) {
		t.Errorf("after AddAddresses there are local routes to %v, want %v", l, want)
	}
	must(t, s.host.StageAddresses("files"))
	if l := localBlocks(t, s.host, "xd-files"); !slices.Equal(l, want) {
		t.Errorf("staged while it owns, there are local routes to %v, want %v", l, want)
	}
}

func TestAnOwnedIdentityReachesAStagedOneByItsOwnDevice(t *testing.T) {
	s := newScene(t)
	s.staged(ahead())
	mail := ahead()
	mail.Name, mail.MAC[5], mail.Table, mail.StageTable, mail.Priority = "mail", 0x31, testTable+50, testStageTable+50, 150
	mail.Addresses = []config.AddressRange{span("192.0.2.31", "192.0.2.31", 24), span("2001:db8::31", "2001:db8::31", 64)}
	s.staged(mail)
	must(t, s.host.Own("mail"))
	for from, to := range map[string]string{"192.0.2.31": "192.0.2.21", "2001:db8::31": "2001:db8::21"} {
		routes, err := netlink.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
		must(t, err)
		link, err := netlink.LinkByIndex(routes[0].LinkIndex)
		must(t, err)
		if link.Attrs().Name != "xd-mail" {
			t.Errorf("from %s to %s by %s, want xd-mail", from, to, link.Attrs().Name)
		}
	}
}

func TestTheSourceIsALastingAddressCloseToTheBlock(t *testing.T) {
	addr := func(p string, flags int) netlink.Addr {
		return netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(p)), Flags: flags}
	}
	for _, test := range []struct {
		name  string
		addrs []netlink.Addr
		want  string
	}{
		{"none", []netlink.Addr{addr("192.0.2.11/24", 0)}, "<nil>"},
		{"the subnet's", []netlink.Addr{addr("2001:db8:1::11/64", 0), addr("2001:db8::11/64", 0), addr("2001:db8:2::11/64", 0)}, "2001:db8::11"},
		{"not one that will go", []netlink.Addr{addr("2001:db8::12/64", unix.IFA_F_TEMPORARY), addr("2001:db8::13/64", unix.IFA_F_DEPRECATED), addr("2001:db8::14/64", unix.IFA_F_TENTATIVE), addr("2001:db8:9::15/64", 0)}, "2001:db8:9::15"},
	} {
		got := "<nil>"
		if a := sourceFor(test.addrs, netip.MustParsePrefix("2001:db8::20/124")); a != nil {
			got = a.IP.String()
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestStagingIsRefusedWhereItCannotBe(t *testing.T) {
	s := newScene(t)
	for name, change := range map[string]func(*Identity){
		"a table of the system's": func(i *Identity) { i.StageTable = 251 },
		"its own table":           func(i *Identity) { i.StageTable = testTable - 1 },
		"no priority":             func(i *Identity) { i.StagePriority = 0 },
		"a late priority":         func(i *Identity) { i.StagePriority = i.Priority },
		"an early source":         func(i *Identity) { i.SourcePriority = i.Priority + 2 },
		"a source after main":     func(i *Identity) { i.SourcePriority = 32766 },
	} {
		id := ahead()
		change(&id)
		if err := s.host.Prepare(id); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, call := range map[string]func(string) error{"stage": s.host.StageAddresses, "own": s.host.Own, "disown": s.host.Disown} {
		if err := call("files"); !errors.Is(err, ErrNotPrepared) {
			t.Errorf("%s without Prepare: %v, want ErrNotPrepared", name, err)
		}
	}
}

func BenchmarkTakeover(b *testing.B) {
	for _, f := range blocks {
		for _, n := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", f.family, n), func(b *testing.B) {
				s := newScene(b)
				id := ahead()
				id.Addresses = []config.AddressRange{block(f.base, n, f.bits)}
				began := time.Now()
				s.staged(id)
				took := time.Since(began)
				b.ResetTimer()
				for range b.N {
					must(b, s.host.Own("files"))
					b.StopTimer()
					must(b, s.host.Disown("files"))
					b.StartTimer()
				}
				b.ReportMetric(float64(took.Milliseconds()), "ms-to-stage")
			})
		}
	}
}
