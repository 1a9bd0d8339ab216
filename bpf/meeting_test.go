// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

const eventPeerBoot = bpf.XdphaXdEventKindEVENT_PEER_BOOT

// A boot that proves itself by our nonce is the peer from then on; what was sent by and to boots before is void.
func TestANewBootIsProvenByItsEcho(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	v.peer.Paths[lan].ProbeSeq, v.peer.Paths[spare].ProbeSeq = 1000, 1000
	v.peer.Words[0] = 9
	n.put(v)
	booted := with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Nonce, f.Seq = 0xb2, 0xa2, 1 })
	verdict, out := n.receive(lan, signed(t, booted, signing))
	if verdict != xdpTX {
		t.Fatalf("verdict %d", verdict)
	}
	s := n.state()
	if s.Peer.Boot != 0xb2 || s.Peer.Nonce != 0xa2 || s.Peer.MyNonceBefore != selfNonce || s.Peer.MyNonce == selfNonce || s.Peer.MyNonce == 0 {
		t.Errorf("boot %x, nonce %x before %x, the peer's %x", s.Peer.Boot, s.Peer.MyNonce, s.Peer.MyNonceBefore, s.Peer.Nonce)
	}
	if s.Peer.Paths[lan].ProbeSeq != 1 || s.Peer.Paths[spare].ProbeSeq != 0 || s.Peer.Words[0] != 5 {
		t.Errorf("sequences %d and %d, word %x", s.Peer.Paths[lan].ProbeSeq, s.Peer.Paths[spare].ProbeSeq, s.Peer.Words[0])
	}
	if !slices.Contains(n.told(), eventPeerBoot) {
		t.Error("nobody was told")
	}
	reply, err := wire.Parse(out, signing)
	if err != nil || reply.Nonce != s.Peer.MyNonce || reply.Echo != 0xa2 {
		t.Errorf("reply %+v, %v", reply, err)
	}
	for name, f := range map[string]wire.Frame{
		"the boot before, by the nonce before": with(probeOn(lan), func(f *wire.Frame) { f.Seq = 2000 }),
		"the same proof again":                 booted,
		"the same proof on another link":       with(booted, func(f *wire.Frame) { f.BootID, f.Echo = 0xb3, selfNonce }),
	} {
		if verdict, _ := n.receive(lan, signed(t, f, signing)); verdict != xdpDrop {
			t.Errorf("%s: verdict %d", name, verdict)
		}
	}
}

// What this node owned, and did not serve any more for want of the peer's word, may have been served by
// the peer before it booted. It is not served again by the word of a boot that has forgotten that.
func TestABootThatHasForgottenLetsNothingBeServedAgain(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	booted := with(probeOn(lan), func(f *wire.Frame) { f.BootID, f.Nonce, f.Seq, f.Words = 0xb2, 0xa2, 1, []uint64{0, 0} })
	for name, c := range map[string]struct {
		given func(*truth)
		want  uint64
	}{
		"its right had ended":        {func(v *truth) { v.state.ServeUntilNs = now() - 1 }, yield | 6},
		"it is served":               {func(v *truth) { v.state.ServeUntilNs = now() + hour }, owner | 6},
		"no right is asked for":      {func(v *truth) { v.config.ServeNs, v.state.ServeUntilNs = 0, 0 }, owner | 6},
		"served by its key":          {func(v *truth) { arbitrated(v); v.state.ServeUntilNs, v.control.LeaveNs[0] = now()-1, now()+hour }, owner | 6},
		"served by its key, no more": {func(v *truth) { arbitrated(v); v.state.ServeUntilNs, v.control.LeaveNs[0] = now()-1, now()-1 }, yield | 6},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.atWork()
			v.words[0], v.config.ServeNs = owner|6, 4e6
			c.given(v)
			n.put(v)
			n.receive(lan, signed(t, booted, signing))
			if w := n.words(); w[0] != c.want {
				t.Errorf("word %x, want %x", w[0], c.want)
			}
		})
	}
}

// meeting is two nodes on the ends of the same cables.
type meeting struct {
	*bench
	nodes [2]*node
	wires [2][3]int // sockets that see what comes in at each NIC
}

func meet(t *testing.T) *meeting {
	b := newBench(t)
	m := &meeting{bench: b}
	for i := range m.nodes {
		m.nodes[i] = b.newNode(t, i)
		for link := range m.wires[i] {
			m.wires[i][link] = b.listen(t, b.nic[i][link])
		}
	}
	return m
}

// listen opens a socket that sees every frame that comes in by a NIC.
func (b *bench) listen(t *testing.T, nic int) int {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network order
	var fd int
	var err error
	b.in(func() {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: nic})
		}
	})
	if err != nil {
		t.Fatalf("listen on interface %d: %v", nic, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// next returns the next frame at a socket that is ours (IPv4 or ARP), or nil
// when none is there: veth delivers before the sender's call returns, or a softirq later.
func next(t *testing.T, fd int, wait time.Duration) []byte {
	t.Helper()
	b := make([]byte, 2048)
	for until := time.Now().Add(wait); ; {
		n, from, err := unix.Recvfrom(fd, b, 0)
		switch {
		case err == nil:
			if ll := from.(*unix.SockaddrLinklayer); ll.Pkttype != unix.PACKET_OUTGOING && (b[12] == 8) && b[13] <= 6 {
				return slices.Clone(b[:n])
			}
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(until)
			if left <= 0 {
				return nil
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
		default:
			t.Fatal(err)
		}
	}
}

func TestATickIsAProbeOnEveryLink(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	for i := range v.peer.Macs {
		v.peer.Macs[i] = mac64(nodeMAC[1][i])
	}
	v.heardStraight()
	n.put(v)
	before, from := n.counters(), now()
	n.tick()
	until := now()
	for link := range m.wires[1] {
		got, err := wire.Parse(next(t, m.wires[1][link], patience), signing)
		if err != nil {
			t.Fatalf("link %d: %v", link, err)
		}
		if got.SentNS < from || got.SentNS > until {
			t.Errorf("link %d: sent at %d, not within %d and %d", link, got.SentNS, from, until)
		}
		want := selfSays()
		want.SrcMAC, want.DstMAC, want.SrcIP, want.DstIP = nodeMAC[0][link], nodeMAC[1][link], nodeIP[0][link], nodeIP[1][link]
		want.SrcPort, want.DstPort, want.TTL = wire.Port, wire.Port, wire.TTL
		want.Link, want.ClusterID, want.Echo, want.Seq, want.SentNS = uint8(link), cluster, peerNonce, 101, got.SentNS
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("link %d: %s", link, diff)
		}
	}
	if moved := n.moved(before); moved != "- tick-sent" {
		t.Errorf("counted %q", moved)
	}
	if s := n.state(); s.Seq != 101 || s.Ticks[101%8] < from || s.Ticks[101%8] > until {
		t.Errorf("seq %d, tick at %d", s.Seq, s.Ticks[101%8])
	}
	for i := range m.wires[1] {
		if b := next(t, m.wires[1][i], 0); b != nil {
			t.Errorf("link %d: one frame more, of %d bytes", i, len(b))
		}
	}
}

func TestAnEarlyTickIsDropped(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	v.config.ProbeNs = hour
	v.state.Ticks[v.state.Seq%8] = now()
	v.peer.Macs[lan] = mac64(nodeMAC[1][lan])
	n.put(v)
	before := n.counters()
	n.tick()
	if moved := n.moved(before); moved != "- tick-early" {
		t.Errorf("counted %q", moved)
	}
	if b := next(t, m.wires[1][lan], 0); b != nil || n.state().Seq != 100 {
		t.Errorf("%d bytes were sent", len(b))
	}
}

func TestTicksToUnknownMACs(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	v.config.ProbeNs = 0
	v.peer.Macs[lan] = mac64(nodeMAC[1][lan])
	v.config.Links[spare].Ifindex = 0 // the node has none
	v.state.Seq = 101
	n.put(v)
	n.tick() // 102
	if b := next(t, m.wires[1][crossover], 0); b != nil {
		t.Errorf("%d bytes to all, out of turn", len(b))
	}
	v.state.Seq = 111
	v.peer.State = 3
	n.put(v)
	n.tick()                                  // 112: one in 16
	for link, count := range []int{1, 3, 0} { // the lan's first is of tick 102, its last to the other's spare NIC
		var last wire.MAC
		for range count {
			f, err := wire.Parse(next(t, m.wires[1][link], patience), signing)
			if err != nil {
				t.Fatalf("link %d: %v", link, err)
			}
			last = f.DstMAC
		}
		if count > 0 && last != wire.Broadcast {
			t.Errorf("link %d: to %x", link, last)
		}
		if b := next(t, m.wires[1][link], 0); b != nil {
			t.Errorf("link %d: one frame more, of %d bytes", link, len(b))
		}
	}
}

func TestATickAsksTheListedHosts(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	v.config.N_reach = 3
	v.config.Links[crossover].Ifindex = 0
	v.state.ReachSentNs = now() - hour
	n.put(v)
	n.tick() // seq 101: no probe, for no MAC is learned
	for _, link := range []int{lan, spare} {
		for _, host := range hosts {
			want := append(arp(wire.Broadcast, nodeMAC[0][link], 1, nodeMAC[0][link], addr("0.0.0.0"), wire.MAC{}, host), make([]byte, 18)...)
			if diff := cmp.Diff(want, next(t, m.wires[1][link], patience)); diff != "" {
				t.Errorf("link %d, host %v: %s", link, host, diff)
			}
		}
	}
	n.tick()
	if b := next(t, m.wires[1][lan], 0); b != nil {
		t.Errorf("asked again at once: %d bytes", len(b))
	}
}

// Who answered the last round is asked alone, who did not, by broadcast.
func TestAHostThatAnswersIsAskedAlone(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.atWork()
	v.config.N_reach = 2
	v.config.Links[crossover].Ifindex, v.config.Links[spare].Ifindex = 0, 0
	v.state.ReachSentNs = now() - hour
	n.put(v)
	n.receive(lan, isAt(hosts[1], client, nodeMAC[0][lan], addr("0.0.0.0")))
	n.tick()
	for i, to := range []wire.MAC{wire.Broadcast, client} {
		if b := next(t, m.wires[1][lan], patience); !bytes.Equal(b[:6], to[:]) {
			t.Errorf("host %d is asked at %x, want %x", i, b[:6], to)
		}
	}
}

// While the peer is suspected the hosts are asked at every tick, if they answer; and if not, more
// and more rarely: the questions must not be what keeps the answers away.
func TestHostsThatDoNotAnswerAreAskedMoreRarely(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	const probe = uint64(1e6)
	v := n.atWork()
	v.config.N_reach, v.config.ProbeNs = 1, probe
	v.config.Links[crossover].Ifindex, v.config.Links[spare].Ifindex = 0, 0
	v.peer.State = suspect
	ask := func(answered bool, waited, wait uint64) (asked bool) {
		v.state.Ticks = [8]uint64{} // a tick is not early
		v.state.ReachSentNs, v.state.ReachWaitNs, v.state.ReachOkNs = now()-waited, wait, 0
		if answered {
			v.state.ReachOkNs = v.state.ReachSentNs
		}
		n.put(v)
		n.tick()
		return next(t, m.wires[1][lan], 0) != nil
	}
	for _, c := range []struct {
		answered     bool
		waited, wait uint64
		asks         bool
		next         uint64
	}{
		{true, 0, hour, true, probe},
		{false, 0, hour, false, hour},
		{false, 10e6, 5e6, true, 10e6},
		{false, hour, 80e6, true, 100e6},
	} {
		if asked := ask(c.answered, c.waited, c.wait); asked != c.asks {
			t.Errorf("%+v: asked %v", c, asked)
		}
		if got := n.state().ReachWaitNs; got != c.next {
			t.Errorf("%+v: waits for %d next", c, got)
		}
	}
}

// A tick after a change of owner announces what came here, however early it is; what has left meanwhile it does not.
func TestATickAnnouncesWhatCameHere(t *testing.T) {
	for name, c := range map[string]struct {
		given func(*truth)
		want  bool
	}{
		"still here":           {func(*truth) {}, true},
		"gone meanwhile":       {func(v *truth) { v.words[1] = 7 }, false},
		"without IPv4 address": {func(v *truth) { v.config.Identities[1].AnnouncedBe = 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := meet(t)
			n := m.nodes[0]
			v := n.atWork()
			v.config.ProbeNs, v.config.Identities[1].AnnouncedBe = hour, be(mailIP)
			v.state.Ticks[v.state.Seq%8] = now()
			v.state.ToAnnounce = 1 << 1
			v.words[1] = owner | 6
			c.given(v)
			n.put(v)
			for _, operation := range []byte{1, 2} {
				n.tick()
				want := []bpf.XdphaXdEventKind(nil)
				if c.want {
					frame := append(announcement(mailIP, mailMAC, operation), make([]byte, 18)...)
					if diff := cmp.Diff(frame, next(t, m.wires[1][spare], patience)); diff != "" {
						t.Errorf("operation %d: %s", operation, diff)
					}
					if operation == 1 {
						want = append(want, eventAnnounced)
					}
				}
				if told := n.told(); !slices.Equal(told, want) {
					t.Errorf("operation %d: told %v, want %v", operation, told, want)
				}
				if b := next(t, m.wires[1][spare], 0); b != nil {
					t.Errorf("one frame more, of %d bytes", len(b))
				}
			}
			n.tick()
			if s := n.state(); s.ToAnnounce != 0 || s.Seq != 100 {
				t.Errorf("to announce %b, seq %d", s.ToAnnounce, s.Seq)
			}
		})
	}
}

// round is one tick of both nodes, of which these paths are looked at. Frames cross: both have ticked
// before one hears, and both have answered before one hears an answer.
func (m *meeting) round(t *testing.T, on ...int) {
	t.Helper()
	var heard, answers [2][paths][]byte
	for _, n := range m.nodes {
		n.tick()
	}
	for i := range m.nodes {
		for _, path := range on {
			heard[i][path] = nextOn(t, m.wires[i][ends(path)[1-i]], path) // a cable joins NICs of the same kind
		}
	}
	for i, n := range m.nodes {
		for _, path := range on {
			if verdict, out := n.receive(ends(path)[i], heard[i][path]); verdict == xdpTX {
				answers[1-i][path] = out
			}
		}
	}
	for i, n := range m.nodes {
		for _, path := range on {
			if answers[i][path] != nil {
				n.receive(ends(path)[i], answers[i][path])
			}
		}
	}
}

// nextOn returns the next heartbeat of a path at a socket.
func nextOn(t *testing.T, fd, path int) []byte {
	t.Helper()
	for {
		b := next(t, fd, patience)
		if b == nil {
			t.Fatalf("no heartbeat of path %d in %v", path, patience)
		}
		if len(b) > wire.OffsetLink && int(b[wire.OffsetLink]) == path {
			return b
		}
	}
}

// Two nodes that have just booted find each other although all their frames cross, and
// though each learns that the other is up before the next frame.
func TestTwoNodesMeetWhileTheirFramesCross(t *testing.T) {
	for name, on := range map[string][]int{
		"one link": {crossover}, "three links": {crossover, lan, spare}, "one cross path": {lowerLan}, "both cross paths": {lowerLan, lowerSpare},
	} {
		t.Run(name, func(t *testing.T) {
			m := meet(t)
			for _, n := range m.nodes {
				v := n.fresh()
				v.config.ProbeNs = 0
				for link := range v.config.Links {
					v.peer.Macs[link] = mac64(nodeMAC[1-n.self][link])
					if !slices.ContainsFunc(on, func(path int) bool { return ends(path)[n.self] == link }) {
						v.config.Links[link].Ifindex = 0
					}
				}
				n.put(v)
			}
			for round := range 8 {
				var before [2]view
				for i, n := range m.nodes {
					before[i] = n.state()
				}
				m.round(t, on...)
				for i, n := range m.nodes {
					s := n.state()
					if s.Peer.Paths[on[0]].HeardNs != 0 { // as the detector would
						n.pokePeer(1-n.self, offsetPeerState, 1)
					}
					for _, path := range on {
						l, b := s.Peer.Paths[path], before[i].Peer.Paths[path]
						if round >= 3 && (l.ProbeSeq != b.ProbeSeq+1 || l.ReplySeq != b.ReplySeq+1) {
							t.Errorf("round %d, node %d, path %d: probe %d after %d, reply %d after %d", round, i, path, l.ProbeSeq, b.ProbeSeq, l.ReplySeq, b.ReplySeq)
						}
					}
				}
			}
			for i, n := range m.nodes {
				if s := n.state(); s.Peer.Boot != uint64(selfBoot+1-i) {
					t.Errorf("node %d knows boot %x", i, s.Peer.Boot)
				}
			}
		})
	}
}
