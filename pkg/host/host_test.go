// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

const (
	testTable = 7101
	testMark  = "xdpha:lj64:serv1"
)

var virtual = [6]byte{0x02, 0x58, 0, 0, 0, 0x21}

func files() Identity {
	return Identity{
		Name: "files", MAC: virtual, Carrier: "eth0", Lan: "eth0", Table: testTable, Priority: 100,
		Addresses: []config.AddressRange{span("192.0.2.21", "192.0.2.24", 24), span("2001:db8::21", "2001:db8::21", 64)},
	}
}

// scene is a node with one NIC, and a client at its other end, which is the
// node's router too. The test's thread is in the node's namespace.
type scene struct {
	t            testing.TB
	node, client netns.NsHandle
	host         *Host
	nic          Link // the node's eth0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newScene(t testing.TB) *scene {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	s := &scene{t: t}
	var err error
	s.client, err = netns.New()
	must(t, err)
	t.Cleanup(func() { s.client.Close() })
	s.node, err = netns.New()
	must(t, err)
	t.Cleanup(func() { s.node.Close() })

	a := netlink.NewLinkAttrs()
	a.Name = "eth0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "cli", PeerNamespace: netlink.NsFd(s.client)}))
	for _, dev := range []string{"lo", "eth0"} {
		configure(t, dev, map[string][]string{"eth0": {"192.0.2.11/24", "2001:db8::11/64"}}[dev])
	}
	s.in(s.client, func() {
		configure(t, "lo", []string{"198.51.100.9/32", "2001:db8:9::9/128"})
		configure(t, "cli", []string{"192.0.2.100/24", "2001:db8::100/64"})
	})
	addDefault(t, "eth0", "192.0.2.100")
	addDefault(t, "eth0", "2001:db8::100")
	// The strictest setting a host may have.
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0))

	s.host, err = New(slog.New(slog.DiscardHandler), testMark)
	must(t, err)
	t.Cleanup(func() {
		if err := s.host.Close(); err != nil {
			t.Error(err)
		}
	})
	s.nic, err = s.host.LinkInfo("eth0")
	must(t, err)
	return s
}

// in runs f in another namespace.
func (s *scene) in(ns netns.NsHandle, f func()) {
	s.t.Helper()
	must(s.t, netns.Set(ns))
	defer func() { must(s.t, netns.Set(s.node)) }()
	f()
}

func configure(t testing.TB, dev string, list []string) {
	t.Helper()
	link, err := netlink.LinkByName(dev)
	must(t, err)
	// A link-local address would come up, and its routes, in the middle of a comparison.
	must(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", dev, "addr_gen_mode"), []byte("1"), 0))
	must(t, netlink.LinkSetUp(link))
	for _, a := range list {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		must(t, netlink.AddrAdd(link, addr))
	}
}

func addDefault(t testing.TB, dev, gw string) {
	t.Helper()
	link, err := netlink.LinkByName(dev)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gw)}))
}

// settle waits for what the kernel does from work queues: the IPv6 addresses'
// local routes, and the operational state of links that have a carrier.
func settle(t testing.TB) {
	t.Helper()
	settleTo(t, func(t testing.TB) bool { return localRoutesComplete(t) && linksComplete(t) })
}

func settleTo(t testing.TB, complete func(testing.TB) bool) {
	t.Helper()
	routes, links, done := make(chan netlink.RouteUpdate, watchQueue), make(chan netlink.LinkUpdate, watchQueue), make(chan struct{})
	must(t, netlink.RouteSubscribe(routes, done))
	must(t, netlink.LinkSubscribe(links, done))
	defer func() {
		close(done)
		for range routes {
		}
		for range links {
		}
	}()
	late := time.After(10 * time.Second)
	for !complete(t) {
		select {
		case <-routes:
		case <-links:
		case <-late:
			t.Fatal("an IPv6 address got no local route, or a link with a carrier did not come up")
		}
	}
}

func linksComplete(t testing.TB) bool {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	return !slices.ContainsFunc(links, func(l netlink.Link) bool {
		a := l.Attrs()
		return a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 && a.OperState != netlink.OperUp
	})
}

func localRoutesComplete(t testing.TB) bool {
	t.Helper()
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	must(t, err)
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	must(t, err)
	return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst.IP.Equal(a.IP) && r.LinkIndex == a.LinkIndex })
	})
}

// picture is everything in the namespace that a host could find changed.
func picture(t testing.TB) map[string]string {
	t.Helper()
	return pictureOf(t, func(t testing.TB) bool { return localRoutesComplete(t) && linksComplete(t) })
}

func pictureOf(t testing.TB, complete func(testing.TB) bool) map[string]string {
	t.Helper()
	settleTo(t, complete)
	all := make(map[string]string)
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		l.Attrs().Statistics = nil
		b, err := json.Marshal(l)
		must(t, err)
		all["link "+l.Attrs().Name] = string(b)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addrs {
		all["addr "+a.String()] = fmt.Sprint(a.LinkIndex, a.Flags, a.Scope)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		must(t, err)
		for _, r := range rules {
			all[fmt.Sprint("rule ", family, r.Priority, r.Src, r.Table)] = fmt.Sprintf("%+v", r)
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		all["route "+r.String()] = ""
	}
	for _, root := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) {
				return nil // written only, or not set
			}
			all["sysctl "+path] = string(b)
			return err
		}))
	}
	return all
}

// changes lists what differs between two pictures.
func changes(before, after map[string]string) string { return cmp.Diff(before, after) }

func TestRemoveLeavesTheHostAsItWas(t *testing.T) {
	s := newScene(t)
	before := picture(t)
	id := files()
	must(t, s.host.Prepare(id))
	must(t, s.host.AddAddresses("files"))
	missing, err := s.host.Verify("files")
	must(t, err)
	if len(missing) != 0 {
		t.Errorf("addresses missing after AddAddresses: %v", missing)
	}
	checkPrepared(t)
	during := picture(t)
	for key, value := range before {
		// The NIC's receive filter takes the virtual MAC (dev_uc_add), which shows here
		// as promiscuity, as a veth has no such filter.
		if key != "link eth0" && during[key] != value {
			t.Errorf("of the host's own, %s changed from %q to %q", key, value, during[key])
		}
	}

	must(t, s.host.Prepare(id))
	if d := changes(during, picture(t)); d != "" {
		t.Errorf("a second Prepare changed the host: %s", d)
	}
	must(t, s.host.Remove("files"))
	if d := changes(before, picture(t)); d != "" {
		t.Errorf("the host is not as it was: %s", d)
	}
	must(t, s.host.Remove("files"))
}

func checkPrepared(t testing.TB) {
	t.Helper()
	link, err := netlink.LinkByName("xd-files")
	must(t, err)
	m, ok := link.(*netlink.Macvlan)
	if !ok || m.Mode != netlink.MACVLAN_MODE_VEPA || [6]byte(m.HardwareAddr) != virtual || m.Alias != testMark || m.Flags&net.FlagUp == 0 {
		t.Errorf("device is %+v", link)
	}
	for path, want := range map[string]string{
		"ipv4/conf/xd-files/arp_ignore": "8", "ipv4/conf/xd-files/arp_announce": "2",
		"ipv6/conf/xd-files/addr_gen_mode": "1", "ipv6/conf/xd-files/accept_ra": "0",
	} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
		must(t, err)
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	must(t, err)
	var got []string
	for _, a := range addrs {
		got = append(got, a.IPNet.String())
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_NOPREFIXROUTE) != unix.IFA_F_NOPREFIXROUTE {
			t.Errorf("%s has flags %#x", a.IPNet, a.Flags)
		}
	}
	want := []string{"192.0.2.21/32", "192.0.2.22/32", "192.0.2.23/32", "192.0.2.24/32", "2001:db8::21/128"}
	if !slices.Equal(got, want) {
		t.Errorf("addresses are %v, want %v", got, want)
	}
}

func TestAKilledProcessesLeftoversAreAdopted(t *testing.T) {
	s := newScene(t)
	before := picture(t)
	must(t, s.host.Prepare(files()))
	must(t, s.host.AddAddresses("files"))
	_, _, err := s.host.EnsureTickPair("xdtick")
	must(t, err)
	during := picture(t)

	second, err := New(slog.New(slog.DiscardHandler), testMark)
	must(t, err)
	defer second.Close()
	must(t, second.Prepare(files()))
	_, _, err = second.EnsureTickPair("xdtick")
	must(t, err)
	if d := changes(during, picture(t)); d != "" {
		t.Errorf("adopting changed the host: %s", d)
	}

	third, err := New(slog.New(slog.DiscardHandler), testMark)
	must(t, err)
	defer third.Close()
	must(t, third.RemoveAll(testMark, "files"))
	if d := changes(during, picture(t)); d != "" {
		t.Errorf("RemoveAll touched what was to be kept: %s", d)
	}
	must(t, third.RemoveAll("xdpha:lj64:serv2"))
	if d := changes(during, picture(t)); d != "" {
		t.Errorf("RemoveAll touched what bears another mark: %s", d)
	}
	must(t, third.RemoveAll(testMark))
	if d := changes(before, picture(t)); d != "" {
		t.Errorf("the host is not as it was: %s", d)
	}
}

func TestWhatAProcessKilledHalfWayLeftIsAdopted(t *testing.T) {
	s := newScene(t)
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.HardwareAddr = "xd-files", s.nic.Index, virtual[:]
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_VEPA}))
	must(t, s.host.Prepare(files()))
	_, err := s.host.Verify("files")
	must(t, err)
}

func TestForeignThingsAreRefusedAndLeftAlone(t *testing.T) {
	s := newScene(t)
	a := netlink.NewLinkAttrs()
	a.Name = "xd-files"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	v := netlink.NewLinkAttrs()
	v.Name = "xdtick0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: v, PeerName: "other"}))
	before := picture(t)
	if err := s.host.Prepare(files()); !errors.Is(err, ErrForeign) {
		t.Errorf("Prepare over a bridge of that name: %v, want ErrForeign", err)
	}
	if err := s.host.Remove("files"); !errors.Is(err, ErrForeign) {
		t.Errorf("Remove of a bridge of that name: %v, want ErrForeign", err)
	}
	if _, _, err := s.host.EnsureTickPair("xdtick"); !errors.Is(err, ErrForeign) {
		t.Errorf("EnsureTickPair over a foreign veth: %v, want ErrForeign", err)
	}
	must(t, s.host.RemoveAll(testMark))
	if d := changes(before, picture(t)); d != "" {
		t.Errorf("a foreign thing was changed: %s", d)
	}
}

func TestAForeignRoutingTableIsRefused(t *testing.T) {
	s := newScene(t)
	_, dst, err := net.ParseCIDR("203.0.113.0/24")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: s.nic.Index, Dst: dst, Table: testTable}))
	if err := s.host.Prepare(files()); !errors.Is(err, ErrForeign) {
		t.Errorf("Prepare with a table in use: %v, want ErrForeign", err)
	}
}

func TestPrepareSaysWhatIsWrongWithAnIdentity(t *testing.T) {
	s := newScene(t)
	before := picture(t)
	for _, test := range []struct {
		change func(*Identity)
		want   string
	}{
		{func(i *Identity) { i.Carrier = "eth7" }, "carrier eth7: no such device"},
		{func(i *Identity) { i.MAC[0] = 1 }, "unicast"},
		{func(i *Identity) { i.Table = 254 }, "table 254"},
		{func(i *Identity) { i.Priority = 0 }, "priority 0"},
	} {
		id := files()
		test.change(&id)
		if err := s.host.Prepare(id); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q in it", err, test.want)
		}
	}
	if d := changes(before, picture(t)); d != "" {
		t.Errorf("a refused identity changed the host: %s", d)
	}
	if err := s.host.AddAddresses("files"); !errors.Is(err, ErrNotPrepared) {
		t.Errorf("AddAddresses without Prepare: %v, want ErrNotPrepared", err)
	}
}
