// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cable moves the test to a network namespace of its own with a veth pair, puts
// a macvlan without any address on one end and listens on the other.
func cable(t *testing.T) *packet.Conn {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	a := netlink.NewLinkAttrs()
	a.Name = "eth0"
	veth := &netlink.Veth{LinkAttrs: a, PeerName: "far"}
	must(t, netlink.LinkAdd(veth))
	must(t, netlink.LinkSetUp(veth))
	far, err := netlink.LinkByName("far")
	must(t, err)
	must(t, netlink.LinkSetUp(far))
	m := netlink.NewLinkAttrs()
	m.Name, m.ParentIndex, m.HardwareAddr = "xd-files", veth.Attrs().Index, virtual[:]
	macvlan := &netlink.Macvlan{LinkAttrs: m, Mode: netlink.MACVLAN_MODE_PRIVATE}
	must(t, netlink.LinkAdd(macvlan))
	must(t, netlink.LinkSetUp(macvlan))
	awaitUp(t, "eth0", "far", "xd-files")
	ifi, err := net.InterfaceByName("far")
	must(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	return conn
}

// awaitUp waits for the links' queues: until a work queue has seen the carrier, the kernel drops what is sent.
func awaitUp(t *testing.T, names ...string) {
	t.Helper()
	changed, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	must(t, netlink.LinkSubscribe(changed, done))
	defer func() {
		close(done)
		for range changed {
		}
	}()
	late := time.After(10 * time.Second)
	for _, name := range names {
		for {
			link, err := netlink.LinkByName(name)
			must(t, err)
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			select {
			case <-changed:
			case <-late:
				t.Fatalf("%s did not come up", name)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// next is the next frame from the virtual MAC that is ARP or a neighbour advertisement.
func next(t *testing.T, conn *packet.Conn) []byte {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		must(t, err)
		f := buf[:n]
		advertisement := n > 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == protoICMPv6 && f[54] == typeNA
		if n >= 42 && [6]byte(f[6:12]) == virtual && (f[12] == 8 && f[13] == 6 || advertisement) {
			return f
		}
	}
}

func TestAnnouncementsArriveInNumberAndForm(t *testing.T) {
	conn := cable(t)
	w := newWire()
	a := New(slog.New(slog.DiscardHandler), WithTimer(w.timer))
	must(t, a.Prepare("xd-files"))
	first, second, six := netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("192.0.2.22"), netip.MustParseAddr("2001:db8::21")
	go func() {
		for range Schedule[1:] {
			<-w.waits
			w.ticks <- time.Time{}
		}
	}()
	must(t, a.Announce(t.Context(), Target{Identity: "files", IfName: "xd-files", MAC: virtual, Addrs: []netip.Addr{first, second, six}}, 1))
	for round := range Schedule {
		for _, addr := range []netip.Addr{first, second} {
			for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
				checkARP(t, next(t, conn), addr, op, round)
			}
		}
		f := next(t, conn)
		if got := netip.AddrFrom16([16]byte(f[62:78])); f[13] != 0xdd || got != six {
			t.Fatalf("round %d: advertisement of %s, want %s: % x", round, got, six, f)
		}
	}
	must(t, a.Close())
	// Nothing follows: the next frame from the virtual MAC is our own marker.
	marker, err := gratuitous(virtual, netip.MustParseAddr("192.0.2.99"), arp.OperationReply)
	must(t, err)
	s, err := openPacket("xd-files")
	must(t, err)
	defer s.Close()
	must(t, s.Send(marker))
	if f := next(t, conn); !bytes.Equal(f, marker) {
		t.Errorf("a frame too many: % x", f)
	}
}

func checkARP(t *testing.T, f []byte, addr netip.Addr, op arp.Operation, round int) {
	t.Helper()
	var p arp.Packet
	must(t, p.UnmarshalBinary(f[14:]))
	if p.Operation != op || p.SenderIP != addr || p.TargetIP != addr {
		t.Fatalf("round %d: ARP %s %s -> %s, want %s of %s", round, p.Operation, p.SenderIP, p.TargetIP, op, addr)
	}
	if !bytes.Equal(f[:6], ethernet.Broadcast) || !bytes.Equal(p.SenderHardwareAddr, virtual[:]) {
		t.Fatalf("round %d: frame % x is not a broadcast from the virtual MAC", round, f)
	}
}

func TestFirstOpensItsSocketAnewWhenTheDeviceWasMadeAnew(t *testing.T) {
	conn := cable(t)
	a := New(slog.New(slog.DiscardHandler))
	defer a.Close()
	must(t, a.Prepare("xd-files"))
	old, err := netlink.LinkByName("xd-files")
	must(t, err)
	must(t, netlink.LinkDel(old))
	m := netlink.NewLinkAttrs()
	m.Name, m.ParentIndex, m.HardwareAddr = "xd-files", old.Attrs().ParentIndex, virtual[:]
	macvlan := &netlink.Macvlan{LinkAttrs: m, Mode: netlink.MACVLAN_MODE_PRIVATE}
	must(t, netlink.LinkAdd(macvlan))
	must(t, netlink.LinkSetUp(macvlan))
	awaitUp(t, "xd-files")
	addr := netip.MustParseAddr("192.0.2.21")
	must(t, a.First(Target{Identity: "files", IfName: "xd-files", MAC: virtual, Addrs: []netip.Addr{addr}}))
	checkARP(t, next(t, conn), addr, arp.OperationRequest, 0)
	checkARP(t, next(t, conn), addr, arp.OperationReply, 0)
}
