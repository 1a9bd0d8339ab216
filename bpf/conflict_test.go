// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// claimed is a state after one claim of the first identity's address; kept ones are denied at the next tick.
func claimed(kept uint64) func(*testing.T, view) {
	return func(t *testing.T, s view) {
		t.Helper()
		want := bpf.XdphaXdClaim{}
		if kept > 0 {
			want.First, want.Second = halves(filesIP)
			want.Mark = 1
		}
		if s.Conflicts[0] != 1 || s.Conflicts[1] != 0 || s.Claimed != kept || s.Claims[0] != want {
			t.Errorf("%d claims counted, %d to deny, %+v", s.Conflicts[0], s.Claimed, s.Claims[0])
		}
	}
}

// denials reads what has arrived from the first identity's MAC, with the address that each frame announces.
func denials(t *testing.T, fd int) (arp, nd map[netip.Addr]int) {
	t.Helper()
	arp, nd = map[netip.Addr]int{}, map[netip.Addr]int{}
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EAGAIN {
			return arp, nd
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f, ok := asARP(b[:n]); {
		case ok && f.senderMAC == filesMAC && f.sender == f.target:
			arp[f.sender]++
		case n == 86 && bytes.Equal(b[6:12], filesMAC[:]) && b[54] == 136:
			nd[netip.AddrFrom16([16]byte(b[62:]))]++
		}
	}
}

// The address that is announced as a rule is not the one that was claimed: clients go by each.
func TestAClaimIsDeniedByTheNextTick(t *testing.T) {
	const second, second6 = "192.0.2.77", "2001:db8::77"
	m := meet(t)
	n := m.nodes[0]
	for _, a := range []string{second, second6} {
		ip := addr(a).As16()
		n.must(n.objs.Addresses.Put(bpf.XdphaXdAddress{Bytes: ip}, uint32(0)))
	}
	claim6 := tellsAll().but(func(f *nd) {
		f.from, f.src, f.target, f.options = offender, addr(second6), addr(second6), option(targetMAC, offender[:])
	})
	n.put(n.atWork())
	n.receive(lan, announcement(addr(second), wire.MAC{2, 0xbb}, 1))
	if verdict, _ := n.receive(spare, claim6.bytes()); verdict != xdpDrop { // of a NIC that does not carry it: heard, and denied by the one that does
		t.Fatalf("the claim over IPv6 gets verdict %d", verdict)
	}
	n.tick()
	arp, nd := denials(t, m.wires[1][lan])
	if arp[addr(second)] != 2 || nd[addr(second6)] != 1 || len(arp) != 1 || len(nd) != 1 {
		t.Errorf("announced %v and %v", arp, nd)
	}
	if arp, nd := denials(t, m.wires[1][spare]); len(arp)+len(nd) != 0 {
		t.Errorf("the NIC that does not carry it announced %v and %v", arp, nd)
	}
	n.tick()
	if arp, nd := denials(t, m.wires[1][lan]); len(arp)+len(nd) != 0 {
		t.Errorf("announced once more: %v and %v", arp, nd)
	}
}

func TestAClaimOfWhatIsNotServedAnyMoreIsNotDenied(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	n.put(v)
	n.receive(lan, announcement(filesIP, wire.MAC{2, 0xbb}, 1))
	n.must(n.objs.Words.Put(uint32(0), uint64(5)))
	n.tick()
	if arp, nd := denials(t, m.wires[1][lan]); len(arp)+len(nd) != 0 {
		t.Errorf("announced %v and %v", arp, nd)
	}
	if s := n.state(); s.Denied != s.Claimed {
		t.Errorf("%d claims, %d done with", s.Claimed, s.Denied)
	}
}

// A host that comes with many addresses is denied each; one that goes on and on makes no storm.
func TestAFloodOfClaimsIsAnsweredByFewDenials(t *testing.T) {
	const perWindow, window = 16, 100 * time.Millisecond
	m := meet(t)
	n := m.nodes[0]
	var many []netip.Addr
	for ip := addr("192.0.2.100"); len(many) < 40; ip = ip.Next() {
		many = append(many, ip)
		n.must(n.objs.Addresses.Put(bpf.XdphaXdAddress{Bytes: ip.As16()}, uint32(0)))
	}
	n.put(n.atWork())
	start := time.Now()
	for _, ip := range many {
		n.receive(lan, announcement(ip, wire.MAC{2, 0xbb}, 2))
	}
	denied := map[netip.Addr]int{}
	for limit := time.Now().Add(patience); len(denied) < len(many); {
		if n.tick(); time.Now().After(limit) {
			t.Fatalf("%d of %d claims are denied", len(denied), len(many))
		}
		arp, _ := denials(t, m.wires[1][lan])
		for ip, c := range arp {
			denied[ip] += c
		}
	}
	for ip, c := range denied {
		if c != 2 || !slices.Contains(many, ip) {
			t.Errorf("%v was announced %d times", ip, c)
		}
	}

	sent, frames := 0, 0
	for range 2000 {
		n.receive(lan, announcement(filesIP, wire.MAC{2, 0xbb}, 2))
		n.tick()
		arp, _ := denials(t, m.wires[1][lan])
		sent, frames = sent+1, frames+arp[filesIP]
	}
	windows := int(time.Since(start)/window) + 2
	if most := 2 * perWindow * windows; frames == 0 || frames > most {
		t.Errorf("%d claims were answered by %d announcements, at most %d are right", sent, frames, most)
	}
	s := n.state()
	if s.Conflicts[0] != uint64(sent+len(many)) {
		t.Errorf("%d claims are counted of %d", s.Conflicts[0], sent+len(many))
	}
	// What was left over is denied when there is room again: the last word is ours.
	before := s.Denied
	for limit := time.Now().Add(patience); n.state().Denied != n.state().Claimed; n.tick() {
		if time.Now().After(limit) {
			t.Fatalf("%d claims, %d done with", n.state().Claimed, n.state().Denied)
		}
	}
	if arp, _ := denials(t, m.wires[1][lan]); before != s.Claimed && arp[filesIP] == 0 {
		t.Error("the last claim was not denied")
	}
}
