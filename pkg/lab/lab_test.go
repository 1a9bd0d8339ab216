// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain lets the test's own program stand in for a node's daemon and for a lab that crashes.
func TestMain(m *testing.M) {
	switch os.Getenv("XDPHA_LAB_TEST") {
	case "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	case "crash":
		crash()
	}
	os.Exit(m.Run())
}

// crash builds a lab with a process in it, says where, and waits to be killed.
func crash() {
	l, err := New(context.Background(), Options{root: os.Getenv("XDPHA_LAB_ROOT")})
	if err == nil {
		err = l.Node(Serv1).StartProgram("/bin/sh", "-c", "setsid sleep 3600 & wait")
	}
	if err == nil {
		_, err = l.Inject(context.Background(), FaultPause, Identities[0])
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(l.Dir)
	select {}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
}

func newLab(t *testing.T) *Lab {
	t.Helper()
	needRoot(t)
	l, err := New(t.Context(), Options{root: labRoot(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// labRoot is short, for a socket may be made below it.
func labRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "xdpha-lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ping asks once from a namespace, and reports the TTL of the answer, or 0 after a while without: a short
// one if none is expected, else longer than a question for a MAC that was lost takes to be asked again.
func ping(t *testing.T, l *Lab, from, to string, expected uint8) (ttl uint8) {
	t.Helper()
	patience := unix.Timeval{Usec: 200000}
	if expected != 0 {
		patience = unix.Timeval{Sec: 10}
	}
	must(t, l.Do(from, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
		msg := []byte{8, 0, 0, 0, 7, 7, 0, 1}
		sum := checksum(msg, 0)
		msg[2], msg[3] = byte(sum>>8), byte(sum)
		dst := netip.MustParseAddr(to).As4()
		if err := unix.Sendto(fd, msg, 0, &unix.SockaddrInet4{Addr: dst}); err != nil {
			return nil // a pulled cable says so
		}
		buf := make([]byte, 128)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return nil
			}
			if n >= 28 && [4]byte(buf[12:16]) == dst && buf[20] == 0 && buf[24] == 7 {
				ttl = buf[8]
				return nil
			}
		}
	}))
	return ttl
}

func TestEverybodyReachesTheNodesAndTheTTLTellsWho(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		from, to string
		ttl      uint8
	}{
		{Client, "192.0.2.11", TTLServ1}, {Client, "192.0.2.12", TTLServ2}, {Client, "192.0.2.1", 64}, {Client, "192.0.2.54", 64},
		{Serv1, "192.168.111.2", TTLServ2}, {Serv2, "192.168.111.1", TTLServ1}, {Serv2, "192.0.2.1", 64}, {Serv1, "192.0.2.53", 64}, {Serv1, "192.0.2.12", TTLServ2},
	} {
		if got := ping(t, l, c.from, c.to, c.ttl); got != c.ttl {
			t.Errorf("%s asks %s: answered with TTL %d, want %d", c.from, c.to, got, c.ttl)
		}
	}
}

// arp sends an ARP request out of a NIC, which needs no answer and no address.
func arp(t *testing.T, l *Lab, node, nic string) {
	t.Helper()
	link, err := l.space(node).nl.LinkByName(nic)
	must(t, err)
	f := append([]byte{255, 255, 255, 255, 255, 255}, link.Attrs().HardwareAddr...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	send(t, l, node, nic, append(append(f, link.Attrs().HardwareAddr...), make([]byte, 4+6+4+18)...))
}

// send puts a frame on the wire as it is.
func send(t *testing.T, l *Lab, node, nic string, frame []byte) {
	t.Helper()
	must(t, l.Do(node, func() error {
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
		if errors.Is(err, unix.ENOBUFS) {
			return nil // what a switch is told of a frame that its cut port drops
		}
		return err
	}))
}

// request is an echo request from an address to itself.
func request(dst, src [6]byte, a netip.Addr) []byte {
	e := newEcho(dst, src, a, a)
	e.number(0)
	return e.frame[:e.size]
}

func TestACutCablePassesNothingEitherWayAndHealsAgain(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		kind Fault
		cut  func(Port) bool
	}{
		{FaultPower, func(p Port) bool { return p.Node == Serv1 }},
		{FaultHang, func(p Port) bool { return p.Node == Serv1 }},
		{FaultCrossover, func(p Port) bool { return p.Role == Crossover }},
		{FaultLAN, func(p Port) bool { return p.Node == Serv1 && p.Role == LAN }},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			_, err := l.Inject(t.Context(), c.kind, Identities[0])
			must(t, err)
			for _, p := range Ports {
				if !p.Server() {
					continue
				}
				want := !c.cut(p)
				if out, in := passes(t, l, p, want); out != want || in != want {
					t.Errorf("%s while broken: out %v, in %v, want %v", p.Name(), out, in, want)
				}
			}
			must(t, l.Heal(t.Context(), c.kind, Identities[0]))
			for _, p := range Ports {
				if !p.Server() {
					continue
				}
				if out, in := passes(t, l, p, true); !out || !in {
					t.Errorf("%s after healing: out %v, in %v", p.Name(), out, in)
				}
			}
			if got := ping(t, l, Client, "192.0.2.11", TTLServ1); got != TTLServ1 {
				t.Errorf("healed serv1 answers with TTL %d", got)
			}
		})
	}
}

// passes sends a frame from the node and one to it, and sees whether they come through, as is expected: what
// should not gets little time to.
func passes(t *testing.T, l *Lab, p Port, expected bool) (out, in bool) {
	t.Helper()
	limit := 50 * time.Millisecond
	if expected {
		limit = 10 * time.Second
	}
	through := func(fromNS, fromNIC, toNS, toNIC string) bool {
		c, err := l.Capture(toNS, toNIC)
		must(t, err)
		from := l.space(fromNS)
		link, err := from.nl.LinkByName(fromNIC)
		must(t, err)
		if link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 && link.Attrs().RawFlags&unix.IFF_UP != 0 {
			arp(t, l, fromNS, fromNIC)
		}
		deadline := time.After(limit)
		for over := false; ; {
			frames, more := c.Frames()
			for _, f := range frames {
				if f.ARP != nil && !f.Outgoing && sameMAC(f.Src, [6]byte(link.Attrs().HardwareAddr)) {
					_, err := c.Stop()
					must(t, err)
					return true
				}
			}
			if over {
				_, err := c.Stop()
				must(t, err)
				return false
			}
			select {
			case <-more:
			case <-deadline:
				over = true
			}
		}
	}
	return through(p.Node, p.NIC, p.Switch, p.Name()), through(p.Switch, p.Name(), p.Node, p.NIC)
}

func TestANodesProcessIsStartedStoppedAndKilled(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv2)
	self, err := os.Executable()
	must(t, err)
	t.Setenv("XDPHA_LAB_TEST", "sleep")
	must(t, n.StartProgram(self))
	if err := n.Restart(); err == nil {
		t.Error("it was started twice")
	}
	inside, _ := nsInode(filepath.Join(l.Dir, "ns", Serv2))
	pids, err := pidsIn(map[uint64]bool{inside: true})
	must(t, err)
	if len(pids) != 1 {
		t.Errorf("processes in the node's namespace: %v", pids)
	}
	must(t, n.Signal(unix.SIGSTOP))
	must(t, n.Signal(unix.SIGCONT))
	must(t, n.Kill())
	if n.Alive() {
		t.Error("it lives after Kill")
	}
	must(t, n.Restart())
	_, err = n.Stop(t.Context())
	must(t, err)
	if n.Alive() {
		t.Error("it lives after Stop")
	}
}

func TestTheClientMeasuresAScriptedCut(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := l.StartProber(ctx, netip.MustParseAddr("192.0.2.12"), ProbeOptions{})
	must(t, err)
	start := NowNs()
	must(t, p.AwaitAnswer(ctx, Serv2, start+50e6))
	cut := NowNs()
	must(t, l.Cut(Serv2, LAN))
	cutDone := NowNs()
	<-time.After(30 * time.Millisecond)
	mend := NowNs()
	must(t, l.Mend(Serv2, LAN))
	mendDone := NowNs()
	must(t, p.AwaitAnswer(ctx, Serv2, mendDone+50e6))
	r := p.Stop()
	s := Analyze(r, Window{})
	t.Logf("cut for %d us, seen as %d us; %d sent, %d lost, realtime %v, stalls %d us (longest %d)", (mend-cutDone)/1000, s.OutageNs/1000, s.Sent, s.Lost, p.Realtime, s.StalledNs/1000, s.StallMaxNs/1000)
	if s.FromNs > cutDone || s.ToNs < mend {
		t.Errorf("silence %d..%d does not hold the cut %d..%d", s.FromNs, s.ToNs, cutDone, mend)
	}
	if before := Analyze(r, Window{ToNs: cut - 1e6}); before.Lost != 0 || before.Sent < 100 {
		t.Errorf("before the cut: %+v", before)
	}
	// The silence lasts no longer than the cut, and no shorter but for the client's own stalls.
	if upper := mendDone - cut + 3*r.PeriodNs + s.StalledNs; s.ToNs-s.FromNs > upper {
		t.Errorf("silence of %d ns, but the cut with its edges lasted %d ns", s.ToNs-s.FromNs, upper)
	}
	if lower := mend - cutDone - s.StalledNs; s.OutageNs < lower {
		t.Errorf("outage of %d ns, but the cut lasted %d ns", s.OutageNs, lower)
	}
	if s.DualAnswers != 0 || !s.Restored || s.Before != Serv2 || s.After != Serv2 || p.SendErrors() != 0 {
		t.Errorf("%+v, %d send errors", s, p.SendErrors())
	}
	if e, err := l.ARP(p.Target); err != nil || !sameMAC(e.MAC, p.MAC) {
		t.Errorf("ARP entry %v, %v; want %x", e, err, p.MAC)
	}
	if ports, err := l.FDB(Sw2, p.MAC); err != nil || fmt.Sprint(ports) != "[serv2-lan]" {
		t.Errorf("sw2 learned the MAC on %v, %v", ports, err)
	}
	if ports, err := l.FDB(Sw1, p.MAC); err != nil || fmt.Sprint(ports) != "[trunk]" {
		t.Errorf("sw1 learned the MAC on %v, %v", ports, err)
	}
}

func TestTheLastOfManyAddressesIsAsked(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	last := RangeAddr(8000)
	n := l.space(Serv1)
	lan, err := n.nl.LinkByName("eth0")
	must(t, err)
	addr, err := netlink.ParseAddr(last.String() + "/16")
	must(t, err)
	must(t, n.nl.AddrAdd(lan, addr))
	p, err := l.StartProber(ctx, last, ProbeOptions{})
	must(t, err)
	must(t, p.AwaitAnswer(ctx, Serv1, NowNs()))
	p.Stop()
}

func TestTheJudgeSeesWhoUsesAMAC(t *testing.T) {
	l := newLab(t)
	must(t, l.Judge(true))
	for _, use := range []struct{ node, nic string }{{Serv1, "eth0"}, {Serv2, "eth2"}, {Serv1, "eth0"}, {Client, "eth0"}} {
		vip := Identities[0]
		send(t, l, use.node, use.nic, request([6]byte{255, 255, 255, 255, 255, 255}, vip.MAC, vip.Addr))
	}
	trail, err := l.JudgeTrail()
	must(t, err)
	var who []string
	for _, r := range trail {
		who = append(who, fmt.Sprintf("%s:%d:%d", r.Port.Name(), r.Identity, r.Kind))
	}
	if got := strings.Join(who, " "); got != "serv1-lan:0:3 serv2-spare:0:3 serv1-lan:0:3" {
		t.Errorf("trail: %s", got)
	}
	if n := Overlap(trail, 0); n != 1 {
		t.Errorf("%d frames of a relieved node, want 1", n)
	}
	seen, err := l.Sightings(0)
	must(t, err)
	if len(seen) != 2 || seen[0].Count != 2 || seen[1].Count != 1 || seen[0].LastNs < seen[1].LastNs || seen[0].FirstNs > seen[1].FirstNs {
		t.Errorf("sightings: %+v", seen)
	}
}

func TestANodeTransmitsFromNativeXDP(t *testing.T) {
	l := newLab(t)
	must(t, l.Do(Serv1, func() error {
		link, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return l.Cables().AttachReflect(link.Attrs().Index)
	}))
	c, err := l.Capture(Serv2, "eth1")
	must(t, err)
	far, err := FindPort(Serv1, Crossover)
	must(t, err)
	near, err := FindPort(Serv2, Crossover)
	must(t, err)
	there, here := [6]byte(nicMAC(far)), [6]byte(nicMAC(near))
	send(t, l, Serv2, "eth1", request(there, here, Identities[0].Addr))
	deadline := time.After(5 * time.Second)
	for back := false; !back; {
		frames, more := c.Frames()
		for _, f := range frames {
			back = back || f.IPv4 != nil && !f.Outgoing && sameMAC(f.Src, there) && sameMAC(f.Dst, here)
		}
		if back {
			break
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("nothing came back; seen: %+v", frames)
		}
	}
	_, err = c.Stop()
	must(t, err)
}

func TestPowerComesBackWithAFreshKernelAndTheOldDisk(t *testing.T) {
	l := newLab(t)
	n := l.Node(Serv1)
	must(t, l.WriteConfig(Scene{}))
	must(t, n.StartProgram("/bin/sleep", "3600"))
	must(t, os.WriteFile(filepath.Join(n.StateDir, "disk"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(n.RunDir, "ram"), nil, 0o600))
	must(t, os.Mkdir(n.PinDir, 0o700))
	must(t, os.WriteFile(n.serviceFile("filesd"), nil, 0o600))
	before, err := l.space(Serv1).nl.LinkList() // where tunnels are loaded a fresh namespace has some of its own
	must(t, err)
	must(t, l.space(Serv1).nl.LinkAdd(&netlink.Bridge{LinkAttrs: upAttrs("left-over")}))
	_, err = l.Inject(t.Context(), FaultPower, Identities[0])
	must(t, err)
	<-n.Gone()
	must(t, l.Heal(t.Context(), FaultPower, Identities[0]))
	if links, err := l.space(Serv1).nl.LinkList(); err != nil || len(links) != len(before) || len(links) < 4 {
		t.Errorf("the node has %d interfaces (%v), want the %d it began with, lo and three NICs among them", len(links), err, len(before))
	}
	if !n.Alive() {
		t.Error("the daemon was not started again")
	}
	for path, want := range map[string]bool{filepath.Join(n.StateDir, "disk"): true, filepath.Join(n.RunDir, "ram"): false, n.PinDir: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n.ServiceRuns("filesd") {
		t.Error("a service outlived the power cut")
	}
}

func TestAHandOverIsAskedOfTheHome(t *testing.T) {
	needRoot(t)
	var asked []string
	l, err := New(t.Context(), Options{root: labRoot(t), HandOver: func(_ context.Context, n *Node, identity string) error {
		asked = append(asked, n.Name+" "+identity)
		return nil
	}})
	must(t, err)
	defer l.Close()
	_, err = l.Inject(t.Context(), FaultHandOver, Identities[1])
	must(t, err)
	must(t, l.Heal(t.Context(), FaultHandOver, Identities[1]))
	if fmt.Sprint(asked) != "[serv2 mail serv1 mail]" {
		t.Errorf("asked %v", asked)
	}
	if _, err := ParseFault("earthquake"); err == nil {
		t.Error("an unknown fault was accepted")
	}
}
