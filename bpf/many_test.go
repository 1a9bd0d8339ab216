// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

const (
	thirdBoot  = 0xb2
	thirdNonce = 0xa2
	nonceForIt = 0xc0            // what the third node must echo
	toThird    = uint64(3) << 51 // a word that yields to node 2
)

var (
	thirdMAC = [3]wire.MAC{{2, 0, 0, 0, 3, 1}, {2, 0, 0, 0, 3, 2}, {2, 0, 0, 0, 3, 3}}
	thirdIP  = [3]netip.Addr{addr("192.168.111.3"), addr("192.0.2.13"), addr("192.0.2.13")}
)

// among is node 0 of three at work. All may own files, the third node may not own mail; node 0 owns
// neither. Its own generations are those that 3 divides: files' is of node 1 (7), mail's too. It has
// won the key of each at 9.
func (n *node) among() *truth {
	v := n.atWork()
	c := &v.config
	c.N_nodes, c.Verdict, c.ServeNs = 3, bpf.XdphaXdVerdictVERDICT_ETCD, hour
	c.Identities[0].Candidates, c.Identities[1].Candidates = 0b111, 0b011
	c.Identities[0].Carrier = 0 // a frame is not turned into the announcement
	for i, ip := range thirdIP {
		c.RemoteBe[2][i] = be(ip)
	}
	v.words = [identities]uint64{ready | 7, ready | 7}
	for i := range v.words {
		v.peer.Words[i], v.third.Words[i] = owner|7, ready|7
		v.control.LeaveGen[i], v.control.LeaveNs[i] = 9, now()+hour
	}
	p := &v.third
	p.MyNonce, p.Boot, p.Nonce, p.State, p.Digest = nonceForIt, thirdBoot, thirdNonce, up, digest
	return v
}

// thirdSays is a probe of the third node.
func thirdSays(link int, words ...uint64) wire.Frame {
	return with(probeOn(link), func(f *wire.Frame) {
		f.SrcMAC, f.SrcIP, f.Sender = thirdMAC[link], thirdIP[link], 2
		f.BootID, f.Nonce, f.Echo, f.Words = thirdBoot, thirdNonce, nonceForIt, words
	})
}

// peerSays is a probe of node 1.
func peerSays(link int, words ...uint64) wire.Frame {
	return with(probeOn(link), func(f *wire.Frame) { f.Words = words })
}

func TestAmongManyAnOwnerServesByAllCandidatesGrantsOrItsKey(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	t0 := now() - 1e9
	for name, c := range map[string]struct {
		given func(*truth)
		open  bool
	}{
		"all have granted since it was taken":   {func(*truth) {}, true},
		"the second candidate has not granted":  {func(v *truth) { v.peer.GrantedNs = 0 }, false},
		"the third candidate has not granted":   {func(v *truth) { v.third.GrantedNs = 0 }, false},
		"one's grant is of before it was taken": {func(v *truth) { v.third.GrantedNs = t0 }, false},
		"one's grant has run out": {func(v *truth) {
			v.config.ServeNs, v.state.TakenNs[0], v.peer.GrantedNs, v.third.GrantedNs = 1e6, 1, now()-2e6, now()+hour
		}, false},
		"who may not own it need not grant": {func(v *truth) { v.config.Identities[0].Candidates, v.third.GrantedNs = 0b011, 0 }, true},
		"nobody grants, but it has the key": {func(v *truth) {
			v.peer.GrantedNs, v.third.GrantedNs, v.control.LeaveNs[0] = 0, 0, now()+hour
		}, true},
		"what a pair's right is does not matter": {func(v *truth) { v.third.GrantedNs, v.state.ServeUntilNs = 0, now()+hour }, false},
		"no lease":                               {func(v *truth) { v.control.LeaseUntilNs = 1 }, false},
		"no lease, and all others are dead": {func(v *truth) {
			v.control.LeaseUntilNs, v.peer.State, v.third.State = 1, dead, dead
		}, false},
		"not the owner": {func(v *truth) { v.words[0] = 9 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.among()
			v.config.Identities[0].Carrier = uint32(n.nic[0][lan])
			v.words[0], v.control.LeaveNs[0] = owner|9, 0
			v.state.TakenNs[0], v.peer.GrantedNs, v.third.GrantedNs = t0, t0+1, t0+2
			c.given(v)
			n.put(v)
			n.wantOpen(c.open)
		})
	}
}

// wantOpen asks for an address of files.
func (n *node) wantOpen(open bool) {
	n.t.Helper()
	if verdict, _ := n.receive(lan, whoHas(filesIP, clientIP, client)); (verdict == xdpTX) != open {
		n.t.Errorf("verdict %d, open: %v", verdict, open)
	}
}

func TestAmongManyEachPeerGrantsForItself(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.among()
	n.put(v)
	sent := now()
	n.receive(lan, signed(t, with(thirdSays(lan, 7, 7), func(f *wire.Frame) { f.GrantNS = sent }), signing))
	s := n.state()
	if s.Third.GrantedNs != sent || s.Peer.GrantedNs != 0 || s.ServeUntilNs != 0 {
		t.Errorf("granted by the third at %d, by the second at %d, for a pair until %d; want %d, 0, 0", s.Third.GrantedNs, s.Peer.GrantedNs, s.ServeUntilNs, sent)
	}
}

// What a frame's words let be taken is taken in it. Nobody's death counts then: that is the timer's.
func TestAmongManyAFrameLetsTake(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	released := peerSays(lan, yield|7, owner|7)
	for name, c := range map[string]struct {
		frame wire.Frame
		given func(*truth)
		want  uint64
	}{
		"released, and the third is armed":             {released, func(*truth) {}, owner | 9},
		"released to another":                          {peerSays(lan, yield|toThird|7, owner|7), func(*truth) {}, owner | 9},
		"released, without the key":                    {released, func(v *truth) { v.control.LeaveNs[0] = 0 }, ready | 7},
		"released, and the key has run out":            {released, func(v *truth) { v.control.LeaveNs[0] = now() - 1 }, ready | 7},
		"released, with the key at a lower generation": {released, func(v *truth) { v.control.LeaveGen[0] = 6 }, ready | 7},
		"released, with the key at another's":          {released, func(v *truth) { v.control.LeaveGen[0] = 8 }, ready | 7},
		"released, with the key above what was owned":  {released, func(v *truth) { v.control.Floor[0], v.control.LeaveGen[0] = 11, 12 }, owner | 12},
		"released, with the key below what was owned":  {released, func(v *truth) { v.control.Floor[0] = 11 }, ready | 7},
		"released, while not armed":                    {released, func(v *truth) { v.words[0] = 7 }, 7},
		"released, without a lease":                    {released, func(v *truth) { v.control.LeaseUntilNs = 1 }, ready | 7},
		"released, but not a candidate":                {released, func(v *truth) { v.config.Identities[0].Candidates = 0b110 }, ready | 7},
		"released, but the third is unknown":           {released, func(v *truth) { v.third.State = unknown }, ready | 7},
		"released, but the third owns it":              {released, func(v *truth) { v.third.Words[0] = owner | 7 }, ready | 7},
		"released, but the third is at a lower one":    {released, func(v *truth) { v.third.Words[0] = ready | 4 }, ready | 7},
		"released, but the third's is a higher one":    {released, func(v *truth) { v.third.Words[0] = 8 }, ready | 7},
		"released, but the third has other identities": {released, func(v *truth) { v.third.Digest++ }, ready | 7},
		"released, the third dead since it was so":     {released, func(v *truth) { v.third.State = dead }, owner | 9},
		"released, the third dead as the owner":        {released, func(v *truth) { v.third.State, v.third.Words[0] = dead, owner|7 }, ready | 7},
		"released, the third never heard":              {released, func(v *truth) { v.third = bpf.XdphaXdPeer{State: dead} }, ready | 7},
		"released, the third is no candidate": {released, func(v *truth) {
			v.config.Identities[0].Candidates, v.third.Words[0] = 0b011, owner|4
		}, owner | 9},
		"released, the third is none, and unknown": {released, func(v *truth) {
			v.config.Identities[0].Candidates, v.third = 0b011, bpf.XdphaXdPeer{}
		}, ready | 7},
		"released, the third is none, and dead without a word": {released, func(v *truth) {
			v.config.Identities[0].Candidates, v.third = 0b011, bpf.XdphaXdPeer{State: dead}
		}, owner | 9},
		"released, the third is none, by another configuration": {released, func(v *truth) {
			v.config.Identities[0].Candidates, v.third.Digest = 0b011, digest+1
		}, ready | 7},
		"released, the third was none, by another configuration": {released, func(v *truth) {
			v.config.Identities[0].Candidates, v.third.Digest, v.third.State = 0b011, digest+1, dead
		}, owner | 9},
		"about to be released":                           {peerSays(lan, owner|yield|7, owner|7), func(*truth) {}, ready | 7},
		"still owned":                                    {peerSays(lan, owner|7, owner|7), func(*truth) {}, ready | 7},
		"released before, the third follows":             {thirdSays(lan, ready|7, 7), func(v *truth) { v.peer.Words[0], v.third.Words[0] = yield|7, 4 }, owner | 9},
		"the third follows, but it was not released":     {thirdSays(lan, ready|7, 7), func(v *truth) { v.third.Words[0] = 4 }, ready | 7},
		"released at a lower generation":                 {peerSays(lan, yield|4, owner|7), func(v *truth) { v.peer.Words[0] = owner | 4 }, ready | 7},
		"who is meant is no generation":                  {peerSays(lan, owner|yield|toThird|7, owner|7), func(v *truth) { v.words[0] = owner | 9 }, owner | 9},
		"a word of who is no candidate at its own":       {thirdSays(lan, owner|8, 7), func(v *truth) { v.config.Identities[0].Candidates = 0b011 }, 8},
		"demanded by a candidate":                        {thirdSays(lan, ready|demand|9, 7), func(v *truth) { v.words[0] = owner | 9 }, yield | 9},
		"demanded by who is none":                        {thirdSays(lan, ready|demand|9, 7), func(v *truth) { v.words[0], v.config.Identities[0].Candidates = owner|9, 0b011 }, owner | 9},
		"closed by a higher generation of a candidate's": {thirdSays(lan, owner|11, 7), func(v *truth) { v.words[0] = owner | 9 }, 11},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.among()
			c.given(v)
			n.put(v)
			from := now()
			verdict, _ := n.receive(lan, signed(t, c.frame, signing))
			if got := n.words()[0]; verdict != xdpTX || got != c.want {
				t.Errorf("verdict %d, word %x, want %x", verdict, got, c.want)
			}
			if taken := n.state().TakenNs[0]; c.want&owner != 0 && v.words[0]&owner == 0 && (taken < from || taken > now()) {
				t.Errorf("taken at %d, want it between %d and now", taken, from)
			}
		})
	}
}

// Who has taken an identity serves by its key until every other candidate has seen that it owns it.
func TestAmongManyAGrantOfBeforeTheTakeDoesNotCount(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.among()
	v.peer.GrantedNs, v.third.GrantedNs = now(), now()
	n.put(v)
	// They count a frame that left before the take.
	before := now()
	n.receive(lan, signed(t, with(peerSays(lan, yield|7, owner|7), func(f *wire.Frame) { f.GrantNS = before }), signing))
	v.config.Identities[0].Carrier = uint32(n.nic[0][lan])
	n.must(n.objs.Config.Put(uint32(0), &v.config))
	if got := n.words()[0]; got != owner|9 {
		t.Fatalf("word %x", got)
	}
	n.wantOpen(true) // by its key
	n.holds(0, 9, now())
	n.wantOpen(false)
	grant := func(f wire.Frame, at uint64) {
		n.receive(lan, signed(t, with(f, func(f *wire.Frame) { f.Seq, f.GrantNS = f.Seq+1, at }), signing))
	}
	grant(peerSays(lan, 9, owner|7), now())
	n.wantOpen(false)
	grant(thirdSays(lan, 9, 7), before)
	n.wantOpen(false)
	grant(with(thirdSays(lan, 9, 7), func(f *wire.Frame) { f.Seq++ }), now())
	n.wantOpen(true)
}

// The next generation of a node's own leaves its number when it is divided by how many there are.
func TestGenerationsAreOwnedByOneNodeOnly(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for _, c := range []struct {
		nodes, self int
		gen, floor  uint64
		want        uint64
	}{
		{3, 0, 7, 0, 9}, {3, 1, 7, 0, 10}, {3, 2, 7, 0, 8}, {3, 0, 9, 0, 12}, {3, 1, 9, 11, 13}, {3, 2, 1, 0, 2}, {3, 2, 2, 0, 5},
		{16, 2, 7, 0, 18}, {16, 0, 15, 0, 16}, {2, 0, 7, 0, 8}, {2, 1, 7, 0, 9},
	} {
		v := n.among()
		peer, _ := others(c.self)
		v.config.Self, v.config.N_nodes = uint8(c.self), uint8(c.nodes)
		v.config.Identities[0].Candidates = 1<<c.self | 1<<peer
		v.peer.Words[0] = owner | c.gen
		v.words[0], v.control.Floor[0], v.control.LeaveGen[0] = ready|c.gen, c.floor, c.want
		n.put(v)
		for node := 3; node < c.nodes; node++ { // the others have been dead for long
			n.must(n.objs.Peers.Put(uint32(node), &bpf.XdphaXdPeer{State: dead}))
		}
		n.receive(lan, signed(t, with(peerSays(lan, yield|c.gen, 0), func(f *wire.Frame) { f.Sender = uint8(peer) }), signing))
		if got := n.words()[0]; got != owner|c.want {
			t.Errorf("%+v: the word is %x", c, got)
		}
	}
}

func TestATickIsAProbeToEveryPeer(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	v := n.among()
	for i := range thirdMAC {
		v.peer.Macs[i], v.third.Macs[i] = mac64(nodeMAC[1][i]), mac64(thirdMAC[i])
	}
	v.heardStraight()
	v.config.RemoteBe[2][spare] = 0 // it has none
	v.peer.SentNs, v.third.SentNs = 11, 22
	n.put(v)
	before := n.counters()
	n.tick()
	type addressed struct {
		MAC                wire.MAC
		IP                 string
		Nonce, Echo, Grant uint64
		Seq                uint64
	}
	for link := range m.wires[1] {
		want := []addressed{{nodeMAC[1][link], nodeIP[1][link].String(), selfNonce, peerNonce, 11, 101}}
		if link != spare {
			want = append(want, addressed{thirdMAC[link], thirdIP[link].String(), nonceForIt, thirdNonce, 22, 101})
		}
		var got []addressed
		for range want {
			f, err := wire.Parse(next(t, m.wires[1][link], patience), signing)
			if err != nil {
				t.Fatalf("link %d: %v", link, err)
			}
			got = append(got, addressed{f.DstMAC, f.DstIP.String(), f.Nonce, f.Echo, f.GrantNS, f.Seq})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("link %d: %s", link, diff)
		}
		if b := next(t, m.wires[1][link], 0); b != nil {
			t.Errorf("link %d: one frame more, of %d bytes", link, len(b))
		}
	}
	if moved := n.moved(before); moved != "- tick-sent" {
		t.Errorf("counted %q", moved)
	}
}

// A token that passes by between two probes is one while any peer is suspected.
func TestAmongManyAnySuspicionIsConfirmed(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for state, want := range map[uint64]string{up: "- tick-between", suspect: "- tick-sent"} {
		v := n.among()
		v.config.ProbeNs, v.control.LapNs, v.third.State = hour/2, hour/4, state
		v.control.Pace, v.control.RingIfindex = bpf.XdphaXdPacePACE_TBF, uint32(n.nic[1][none])
		v.state.TokenNs, v.state.Ticks[v.state.Seq%8] = now()-hour, now()-hour/4
		n.put(v)
		before := n.counters()
		n.run(n.objs.XdphaTick, aTick(tokenMark), nil)
		if moved := n.moved(before); moved != want {
			t.Errorf("the third's state %d: counted %q, want %q", state, moved, want)
		}
	}
}

// What the third node sends to one it cannot have sent to the other: each has chosen a nonce for it.
func TestAFrameForOneNodeIsNotOneForAnother(t *testing.T) {
	b := newBench(t)
	var frames [2][]byte
	var nodes [2]*node
	for self := range nodes {
		n := b.newNode(t, self)
		v := n.among()
		v.peer.MyNonce, v.third.MyNonce, v.config.HoldNs = 0, 0, now()+hour
		v.peer.Paths[0].HeardNs, v.third.Paths[0].HeardNs = now()+hour, now()+hour
		n.put(v)
		n.start()
		s := n.state()
		if s.Peer.MyNonce == s.Third.MyNonce || s.Peer.MyNonce&0xf != uint64(self) || s.Third.MyNonce&0xf != uint64(self) {
			t.Errorf("node %d chose the nonces %x and %x", self, s.Peer.MyNonce, s.Third.MyNonce)
		}
		frames[self] = signed(t, with(thirdSays(lan, 7, 7), func(f *wire.Frame) { f.DstIP, f.Echo = nodeIP[self][lan], s.Third.MyNonce }), signing)
		nodes[self] = n
	}
	for self, n := range nodes {
		before := n.counters()
		replayed := slices.Clone(frames[1-self]) // whoever replays it has no key, and needs none for the headers
		copy(replayed[14:34], frames[self][14:34])
		if verdict, _ := n.receive(lan, replayed); verdict != xdpDrop || n.moved(before) != "lan hb-unproven" {
			t.Errorf("node %d: verdict %d, counted %q", self, verdict, n.moved(before))
		}
		if verdict, _ := n.receive(lan, frames[self]); verdict != xdpTX {
			t.Errorf("node %d: its own frame: verdict %d", self, verdict)
		}
	}
}

// A boot of one node is no news of another one.
func TestABootOfOnePeerLeavesTheOthersAsTheyAre(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.among()
	v.peer.GrantedNs, v.third.GrantedNs = now(), now()
	v.peer.Paths[lan].ProbeSeq = 40
	n.put(v)
	booted := with(thirdSays(lan, 4, 4), func(f *wire.Frame) { f.BootID, f.Nonce, f.Seq, f.GrantNS = 0xb3, 0xa3, 1, 0 })
	if verdict, _ := n.receive(lan, signed(t, booted, signing)); verdict != xdpTX {
		t.Fatalf("verdict %d", verdict)
	}
	s := n.state()
	if s.Third.Boot != 0xb3 || s.Third.MyNonce == nonceForIt || s.Third.GrantedNs != 0 || s.Third.Words[0] != 4 {
		t.Errorf("of the third: %+v", s.Third)
	}
	if s.Peer != v.peer {
		t.Errorf("of the second: %s", cmp.Diff(v.peer, s.Peer))
	}
	if verdict, _ := n.receive(lan, signed(t, peerSays(lan, owner|7, owner|7), signing)); verdict != xdpTX {
		t.Errorf("the second is not heard any more: verdict %d", verdict)
	}
}

// A sender's number must be one of the others'.
func TestWhoIsNotOneOfTheNodesIsNotHeard(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for sender, want := range map[byte]string{0: "lan hb-bad-sender", 2: "lan hb-probe-answered", 3: "lan hb-bad-sender", 255: "lan hb-bad-sender"} {
		n.put(n.among())
		before := n.counters()
		n.receive(lan, signed(t, with(thirdSays(lan, 7, 7), func(f *wire.Frame) { f.Sender = sender }), signing))
		if moved := n.moved(before); moved != want {
			t.Errorf("sender %d: counted %q, want %q", sender, moved, want)
		}
	}
}
