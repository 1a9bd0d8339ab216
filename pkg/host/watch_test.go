// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

// watch runs Watch in the node's namespace; its events come on the channel.
func (s *scene) watch(names []string, fn func(Event)) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the node's namespace
		if err := netns.Set(s.node); err != nil {
			ended <- err
			return
		}
		ended <- s.host.Watch(ctx, names, fn)
	}()
	return func() {
		s.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Watch ended with %v", err)
		}
	}
}

// await takes events until one is as wanted.
func await(t testing.TB, events <-chan Event, what string, want func(Event) bool) Event {
	t.Helper()
	late := time.After(10 * time.Second)
	var seen []string
	for {
		select {
		case e := <-events:
			if want(e) {
				return e
			}
			seen = append(seen, fmt.Sprint(e.Kind, " ", e.Link.Name, " ", e.Addr))
		case <-late:
			t.Fatalf("no event: %s; seen: %s", what, strings.Join(seen, ", "))
		}
	}
}

func TestWatchTellsOfLinksCarriersAddressesAndRoutes(t *testing.T) {
	s := newScene(t)
	events := make(chan Event, 1024)
	stop := s.watch([]string{"eth0", "eth9"}, func(e Event) { events <- e })
	defer stop()

	await(t, events, "eth0 as it is", func(e Event) bool { return e.Kind == EventLink && e.Link.Name == "eth0" && e.Link.Carrier })
	await(t, events, "eth9 is not there", func(e Event) bool { return e.Kind == EventLinkGone && e.Link.Name == "eth9" })
	await(t, events, "all was read", func(e Event) bool { return e.Kind == EventResync && e.Err == nil })

	var cli netlink.Link
	s.in(s.client, func() {
		var err error
		cli, err = netlink.LinkByName("cli")
		must(t, err)
		must(t, netlink.LinkSetDown(cli))
	})
	await(t, events, "eth0 lost its carrier", func(e Event) bool {
		return e.Kind == EventLink && e.Link.Name == "eth0" && e.Link.Up && !e.Link.Carrier
	})
	s.in(s.client, func() { must(t, netlink.LinkSetUp(cli)) })
	await(t, events, "eth0 has its carrier again", func(e Event) bool { return e.Kind == EventLink && e.Link.Carrier })

	must(t, s.host.Prepare(files()))
	await(t, events, "our own device", func(e Event) bool { return e.Kind == EventLink && e.Link.Name == "xd-files" })
	must(t, s.host.AddAddresses("files"))
	first := netip.MustParsePrefix("192.0.2.21/32")
	await(t, events, "an address", func(e Event) bool { return e.Kind == EventAddr && e.Link.Name == "xd-files" && e.Addr == first })
	must(t, s.host.RemoveAddresses("files"))
	await(t, events, "no address", func(e Event) bool { return e.Kind == EventAddrGone && e.Addr == first })

	_, dst, err := net.ParseCIDR("203.0.113.0/24")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: s.nic.Index, Dst: dst, Gw: net.ParseIP("192.0.2.101")}))
	await(t, events, "a route", func(e Event) bool { return e.Kind == EventRoutes && e.Link.Name == "eth0" })

	must(t, s.host.Remove("files"))
	await(t, events, "our own device is gone", func(e Event) bool { return e.Kind == EventLinkGone && e.Link.Name == "xd-files" })
}

func TestLostMessagesEndInAFullResyncHoweverOftenTheyAreLost(t *testing.T) {
	const rounds = 10
	s := newScene(t)
	s.host.rcv = 2048 // so small that a busy callback loses messages
	events := make(chan Event, 1<<16)
	busy, release := make(chan struct{}), make(chan struct{})
	held := 0
	stop := s.watch([]string{"eth0"}, func(e Event) {
		if e.Kind == EventResync && held < rounds {
			held++
			busy <- struct{}{}
			<-release
		}
		events <- e
	})
	defer stop()
	link, err := netlink.LinkByName("eth0")
	must(t, err)
	for round := range rounds {
		<-busy
		for i := range 3 * watchQueue {
			must(t, netlink.LinkSetAlias(link, fmt.Sprintf("number %d", i)))
		}
		mtu := 1400 + round
		must(t, netlink.LinkSetMTU(link, mtu))
		release <- struct{}{}
		await(t, events, "a reading", func(e Event) bool { return e.Kind == EventResync && (e.Err != nil) == (round > 0) })
		await(t, events, "the state after what was lost", func(e Event) bool { return e.Kind == EventLink && e.Link.MTU == mtu })
	}
	await(t, events, "a resync with its cause", func(e Event) bool { return e.Kind == EventResync && e.Err != nil })
}

func TestTheLansRoutesAreKeptWhileItIsSwitchedOff(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	before, err := s.host.routesIn(testTable)
	must(t, err)
	link, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.LinkSetDown(link))
	must(t, s.host.Prepare(files()))
	after, err := s.host.routesIn(testTable)
	must(t, err)
	if len(before) < 2 || len(after) != len(before) {
		t.Errorf("the identity's table had %d routes and has %d", len(before), len(after))
	}
}

func TestRepairsFollowWhatWasTakenAway(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	must(t, s.host.AddAddresses("files"))
	whole := picture(t)
	link, err := netlink.LinkByName("xd-files")
	must(t, err)

	addr, err := netlink.ParseAddr("192.0.2.22/32")
	must(t, err)
	must(t, netlink.AddrDel(link, addr))
	missing, err := s.host.Verify("files")
	must(t, err)
	if len(missing) != 1 || missing[0].String() != "192.0.2.22" {
		t.Errorf("missing %v, want 192.0.2.22", missing)
	}
	must(t, s.host.AddAddresses("files"))

	for name, harm := range map[string]func(){
		"down": func() { must(t, netlink.LinkSetDown(link)) },
		"rule": func() {
			rules, err := s.host.ownRules()
			must(t, err)
			must(t, netlink.RuleDel(&rules[0]))
		},
		"route": func() {
			routes, err := s.host.routesIn(testTable)
			must(t, err)
			must(t, netlink.RouteDel(&routes[0]))
		},
	} {
		harm()
		if _, err := s.host.Verify("files"); err == nil {
			t.Errorf("%s: Verify found nothing", name)
		}
		must(t, s.host.Prepare(files()))
		must(t, s.host.AddAddresses("files"))
		if d := changes(whole, picture(t)); d != "" {
			t.Errorf("%s: not as it was: %s", name, d)
		}
	}
}

func TestPrepareFollowsTheLansRoutes(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	must(t, err)
	must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: s.nic.Index, Dst: all, Gw: net.ParseIP("192.0.2.101")}))
	must(t, s.host.Prepare(files()))
	routes, err := s.host.routesIn(testTable)
	must(t, err)
	var gateways []string
	for _, r := range routes {
		if r.Gw.To4() != nil {
			gateways = append(gateways, r.Gw.String())
		}
	}
	if len(gateways) != 1 || gateways[0] != "192.0.2.101" {
		t.Errorf("the default routes go via %v, want 192.0.2.101 alone", gateways)
	}
}

func TestPrepareFollowsAChangedConfiguration(t *testing.T) {
	s := newScene(t)
	changed := files()
	changed.Table, changed.Addresses = testTable+1, []config.AddressRange{span("192.0.2.23", "192.0.2.25", 24)}
	must(t, s.host.Prepare(changed))
	must(t, s.host.AddAddresses("files"))
	fresh := withoutIndex(t, picture(t))
	must(t, s.host.Remove("files"))

	must(t, s.host.Prepare(files()))
	must(t, s.host.AddAddresses("files"))
	must(t, s.host.Prepare(changed))
	must(t, s.host.AddAddresses("files"))
	if d := changes(fresh, withoutIndex(t, picture(t))); d != "" {
		t.Errorf("changed from another configuration, the host is not as if prepared afresh: %s", d)
	}
	must(t, s.host.Remove("files"))
}

// withoutIndex is a picture in which xd-files is known by its name alone.
func withoutIndex(t testing.TB, p map[string]string) map[string]string {
	t.Helper()
	link, err := netlink.LinkByName("xd-files")
	must(t, err)
	index := fmt.Sprint(link.Attrs().Index)
	q := make(map[string]string, len(p))
	for key, value := range p {
		switch {
		case key == "link xd-files":
			continue
		case strings.HasPrefix(key, "addr "):
			value = strings.Replace(value, index+" ", "xd-files ", 1)
		}
		q[strings.Replace(key, "Ifindex: "+index+" ", "Ifindex: xd-files ", 1)] = value
	}
	return q
}

func TestAnotherMACOrCarrierMakesTheDeviceAnew(t *testing.T) {
	s := newScene(t)
	must(t, s.host.Prepare(files()))
	id := files()
	id.MAC[5]++
	must(t, s.host.Prepare(id))
	link, err := s.host.LinkInfo("xd-files")
	must(t, err)
	if [6]byte(link.MAC) != id.MAC {
		t.Errorf("the device has MAC %s", link.MAC)
	}
	_, err = s.host.Verify("files")
	must(t, err)
}

func TestTheTickPairIsUpAndSilent(t *testing.T) {
	s := newScene(t)
	before := picture(t)
	a, b, err := s.host.EnsureTickPair("xdtick")
	must(t, err)
	again, _, err := s.host.EnsureTickPair("xdtick")
	must(t, err)
	if again != a {
		t.Errorf("the second EnsureTickPair made a new pair: %d, then %d", a, again)
	}
	for i, index := range []int{a, b} {
		link, err := s.host.LinkInfo(fmt.Sprintf("xdtick%d", i))
		must(t, err)
		if link.Index != index || !link.Up || !link.Carrier || link.Driver != "veth" {
			t.Errorf("end %d is %+v", i, link)
		}
		addrs, err := netlink.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, unix.AF_UNSPEC)
		must(t, err)
		if len(addrs) != 0 {
			t.Errorf("end %d has addresses %v", i, addrs)
		}
	}
	must(t, s.host.RemoveAll(testMark))
	if d := changes(before, picture(t)); d != "" {
		t.Errorf("the host is not as it was: %s", d)
	}
}

func TestAThreadInAnotherNamespaceIsRefused(t *testing.T) {
	s := newScene(t)
	var err error
	s.in(s.client, func() { err = s.host.Prepare(files()) })
	if err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("got %v", err)
	}
}

func TestOtherNetworksOfTheHostAreReachedFromAnIdentitysAddress(t *testing.T) {
	s := newScene(t)
	a := netlink.NewLinkAttrs()
	a.Name = "br-inside"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	configure(t, "br-inside", []string{"172.17.0.1/16"})
	must(t, s.host.Prepare(files()))
	must(t, s.host.AddAddresses("files"))
	for to, want := range map[string]string{"172.17.0.9": "br-inside", "192.0.2.100": "xd-files", "198.51.100.9": "xd-files"} {
		routes, err := netlink.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP("192.0.2.21")})
		must(t, err)
		link, err := netlink.LinkByIndex(routes[0].LinkIndex)
		must(t, err)
		if link.Attrs().Name != want {
			t.Errorf("from 192.0.2.21 to %s by %s, want %s", to, link.Attrs().Name, want)
		}
	}
}
