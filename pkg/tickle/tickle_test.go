// SPDX-License-Identifier: Apache-2.0

package tickle_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/tickle"
)

func TestAListIsReadAsItWasWritten(t *testing.T) {
	list := []tickle.Connection{
		{Local: netip.MustParseAddrPort("192.0.2.21:445"), Remote: netip.MustParseAddrPort("192.0.2.100:40000")},
		{Local: netip.MustParseAddrPort("[2001:db8::21]:143"), Remote: netip.MustParseAddrPort("[2001:db8::100]:65535")},
	}
	got, err := tickle.Unmarshal(tickle.Marshal(list))
	if diff := cmp.Diff(list, got, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := tickle.Unmarshal(nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
}

func TestWhatIsNoListIsRefused(t *testing.T) {
	one := tickle.Marshal([]tickle.Connection{{Local: netip.MustParseAddrPort("192.0.2.21:445"), Remote: netip.MustParseAddrPort("192.0.2.100:40000")}})
	mapped := append([]byte{6}, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 21, 1, 189}, 2)...)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"a family of its own": {[]byte{5}, "neither 4 nor 6"},
		"one cut short":       {one[:len(one)-1], "ends within the connection at byte 0"},
		"too many":            {bytes.Repeat(one, tickle.Limit+1), "more than 65536"},
		"IPv4 in IPv6":        {mapped, "IPv4 in the form of IPv6"},
	} {
		if list, err := tickle.Unmarshal(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %d connections", name, err, len(list))
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(tickle.Marshal([]tickle.Connection{{Local: netip.MustParseAddrPort("192.0.2.21:445"), Remote: netip.MustParseAddrPort("192.0.2.100:40000")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := tickle.Unmarshal(b)
		if err == nil && !bytes.Equal(tickle.Marshal(list), b) {
			t.Errorf("%x is read as %v", b, list)
		}
	})
}

// address is an identity's, which moves from the first node to the second.
type address struct {
	addr   netip.Addr
	prefix string
}

var addresses = []address{
	{netip.MustParseAddr("192.0.2.77"), "/24"},
	{netip.MustParseAddr("2001:db8::77"), "/64"},
}

// TestAClientLearnsOfTheTakeoverByOneSegment: an idle client's connection ends when it is tickled, and
// not before that.
func TestAClientLearnsOfTheTakeoverByOneSegment(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	l, err := lab.New(t.Context(), lab.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, a := range addresses {
		if a.addr.Is6() && !lab.HasIPv6() {
			continue
		}
		t.Run(a.addr.String(), func(t *testing.T) { tickled(t, l, a) })
	}
}

func tickled(t *testing.T, l *lab.Lab, a address) {
	place(t, l, lab.Serv1, a)
	client, server := connect(t, l, a)
	var list []tickle.Connection
	in(t, l, lab.Serv1, func() (err error) {
		list, err = tickle.List(func(x netip.Addr) bool { return x == a.addr })
		return err
	})
	want := tickle.Connection{Local: server, Remote: addrPort(client.LocalAddr())}
	if len(list) != 1 || list[0] != want {
		t.Fatalf("listed %v, there is %v", list, want)
	}

	if err := l.Cut(lab.Serv1, lab.LAN); err != nil { // it hangs: nothing says that the connection is gone
		t.Fatal(err)
	}
	place(t, l, lab.Serv2, a)
	learn(t, l, a)
	ended := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the client has learned of it without a tickle: %v", err)
	case <-time.After(300 * time.Millisecond): // the counterpart: nothing happens by itself
	}
	start := time.Now()
	in(t, l, lab.Serv2, func() error {
		sent, err := tickle.Send(list)
		if sent != 1 {
			t.Errorf("%d sent", sent)
		}
		return err
	})
	select {
	case err := <-ended:
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client's connection ended with %v", err)
		}
		t.Logf("the client learned of it %v after the tickle was begun", time.Since(start))
	case <-time.After(30 * time.Second):
		t.Error("the client has not learned of it")
	}
	if err := l.Mend(lab.Serv1, lab.LAN); err != nil {
		t.Fatal(err)
	}
}

// in runs f in a namespace of the lab.
func in(t *testing.T, l *lab.Lab, space string, f func() error) {
	t.Helper()
	if err := l.Do(space, f); err != nil {
		t.Fatal(err)
	}
}

// place puts the address on a node's LAN NIC.
func place(t *testing.T, l *lab.Lab, node string, a address) {
	t.Helper()
	in(t, l, node, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(a.addr.String() + a.prefix)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		return netlink.AddrAdd(link, addr)
	})
}

// learn tells the client where the address is now, as the announcement of a takeover does.
func learn(t *testing.T, l *lab.Lab, a address) {
	t.Helper()
	var mac net.HardwareAddr
	in(t, l, lab.Serv2, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	in(t, l, lab.Client, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.addr.AsSlice(), HardwareAddr: mac})
	})
}

// connect makes a connection from the client to the address on the first node.
func connect(t *testing.T, l *lab.Lab, a address) (client net.Conn, server netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	in(t, l, lab.Serv1, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(a.addr, 0).String())
		return err
	})
	t.Cleanup(func() { listener.Close() })
	server = addrPort(listener.Addr())
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			_, err = io.WriteString(c, "!")
		}
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	in(t, l, lab.Client, func() (err error) {
		d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: -1}
		client, err = d.Dial("tcp", server.String())
		return err
	})
	t.Cleanup(func() { client.Close() })
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if c := <-accepted; c != nil {
		t.Cleanup(func() { c.Close() })
	}
	return client, server
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
