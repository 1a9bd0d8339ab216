// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/xdpha/xdpha/pkg/wire"
)

// sentTo drains what a tick sent to the other end of node 0's NICs, by path.
func (m *meeting) sentTo(t *testing.T) (all map[int]wire.Frame) {
	t.Helper()
	all = map[int]wire.Frame{}
	for nic, fd := range m.wires[1] {
		for {
			b := next(t, fd, 0)
			if b == nil {
				break
			}
			f, err := wire.Parse(b, signing)
			if err != nil {
				t.Fatalf("NIC %d: %v", nic, err)
			}
			if _, twice := all[int(f.Link)]; twice || ends(int(f.Link))[0] != nic {
				t.Errorf("path %d, by NIC %d, twice %v", f.Link, nic, twice)
			}
			all[int(f.Link)] = f
		}
	}
	return all
}

// While the links that share their NICs are heard, the cross paths are probed at leisure; when one is
// not, or the peer is not known to be up, at every tick.
func TestCrossPathsAreProbedWhenTheyAreOfUse(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	const ms = uint64(1e6)
	for name, c := range map[string]struct {
		given func(*truth)
		ticks [3]bool // whether each tick probes crosswise
	}{
		"all is heard, and it was not long ago":     {func(*truth) {}, [3]bool{}},
		"all is heard, and it was long ago":         {func(v *truth) { v.peer.CrossedNs = now() - 101*ms }, [3]bool{true}},
		"only the crossover is silent":              {func(v *truth) { v.peer.Paths[crossover].HeardNs = 1 }, [3]bool{}},
		"the lan is silent":                         {func(v *truth) { v.peer.Paths[lan].HeardNs = now() - v.config.SuspectNs }, [3]bool{true, true, true}},
		"the spare is silent":                       {func(v *truth) { v.peer.Paths[spare].HeardNs = now() - v.config.SuspectNs }, [3]bool{true, true, true}},
		"the spare was never heard":                 {func(v *truth) { v.peer.Paths[spare].HeardNs = 0 }, [3]bool{true, true, true}},
		"the peer is suspected":                     {func(v *truth) { v.peer.State = suspect }, [3]bool{true, true, true}},
		"the peer is not known":                     {func(v *truth) { v.peer.State = unknown }, [3]bool{true, true, true}},
		"the peer is dead":                          {func(v *truth) { v.peer.State = dead }, [3]bool{true, true, true}},
		"the peer is dead, and one has no spare":    {func(v *truth) { v.peer.State, v.config.RemoteBe[1][spare] = dead, 0 }, [3]bool{}},
		"the lan is silent, and one has no spare":   {func(v *truth) { v.peer.Paths[lan].HeardNs, v.config.RemoteBe[1][spare] = 1, 0 }, [3]bool{}},
		"the peer is suspected, and no MAC learned": {func(v *truth) { v.peer.State, v.peer.Macs = suspect, [3]uint64{} }, [3]bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.atWork()
			v.config.ProbeNs, v.config.SuspectNs = 0, hour/2
			for i := range v.peer.Macs {
				v.peer.Macs[i] = mac64(nodeMAC[1][i])
			}
			v.heardStraight()
			c.given(v)
			n.put(v)
			for i, want := range c.ticks {
				n.tick()
				sent := m.sentTo(t)
				for _, path := range []int{lowerLan, lowerSpare} {
					if _, got := sent[path]; got != want {
						t.Errorf("tick %d, path %d: probed %v", i, path, got)
					}
				}
			}
		})
	}
}

// A cross probe bears the addresses of the two NICs that it joins, whichever node has the lower number.
func TestACrossProbeGoesFromLanToSpareAndFromSpareToLan(t *testing.T) {
	m := meet(t)
	n := m.nodes[0]
	other := [3]netip.Addr{addr("192.168.111.9"), addr("192.0.2.19"), addr("169.254.9.9")} // lan and spare are told apart
	for self, pathOf := range [2][3]int{{lan: lowerLan, spare: lowerSpare}, {lan: lowerSpare, spare: lowerLan}} {
		v := n.atWork()
		v.config.Self, v.config.ProbeNs, v.peer.State = uint8(self), 0, suspect
		for i := range v.peer.Macs {
			v.peer.Macs[i] = mac64(nodeMAC[1][i])
			v.config.RemoteBe[1-self][i] = be(other[i])
		}
		n.put(v)
		n.tick()
		var got []wire.Frame
		for nic := range none {
			for b := next(t, m.wires[1][nic], patience); b != nil; b = next(t, m.wires[1][nic], 0) {
				f, err := wire.Parse(b, signing)
				if err != nil {
					t.Fatal(err)
				}
				if f.Link >= 3 {
					got = append(got, f)
				}
			}
		}
		var want []wire.Frame
		for near, far := range map[int]int{lan: spare, spare: lan} {
			want = append(want, wire.Frame{SrcMAC: nodeMAC[0][near], DstMAC: nodeMAC[1][far], SrcIP: nodeIP[0][near], DstIP: other[far],
				Sender: uint8(self), Link: uint8(pathOf[near])})
		}
		byPath := func(a, b wire.Frame) int { return int(a.Link) - int(b.Link) }
		slices.SortFunc(got, byPath)
		slices.SortFunc(want, byPath)
		only := cmp.FilterPath(func(p cmp.Path) bool {
			return !slices.Contains([]string{"", "SrcMAC", "DstMAC", "SrcIP", "DstIP", "Sender", "Link"}, fieldOf(p))
		}, cmp.Ignore())
		if diff := cmp.Diff(want, got, only, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("node %d: %s", self, diff)
		}
	}
}

// fieldOf is the field of a frame that a path leads to; "": the frame itself.
func fieldOf(p cmp.Path) string {
	for _, step := range p {
		if f, ok := step.(cmp.StructField); ok {
			return f.Name()
		}
	}
	return ""
}

// Each path has a window of its own, and a frame of one is none of another.
func TestAFrameIsFreshOnItsOwnPathOnly(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	at := func(path int, seq uint64) wire.Frame { return with(probeOn(path), func(f *wire.Frame) { f.Seq = seq }) }
	n.put(n.atWork())
	for i, s := range []struct {
		nic   int
		frame wire.Frame
		want  string
	}{
		{lan, at(lowerLan, 44), "hb-probe-answered"},
		{lan, at(lan, 44), "hb-probe-answered"},
		{spare, at(lowerSpare, 44), "hb-probe-answered"},
		{lan, at(lowerLan, 44), "hb-replayed"},
		{lan, at(lowerLan, 43), "hb-replayed"},
		{spare, at(lowerLan, 45), "hb-wrong-link"},
		{crossover, at(lowerLan, 45), "not-ours"}, // no frame to its address
		{lan, at(lowerSpare, 45), "hb-wrong-link"},
		{crossover, at(crossover, 200), "hb-probe-answered"},
		{lan, at(lowerLan, 136), "hb-replayed"}, // held back for longer than a window
		{lan, at(lowerLan, 137), "hb-probe-answered"},
		{spare, at(lowerSpare, 300), "hb-probe-answered"},
		{lan, at(lan, 236), "hb-replayed"},
		{lan, at(lan, 237), "hb-probe-answered"},
		{lan, replyOn(lowerLan), "hb-reply-accepted"},
		{lan, replyOn(lowerLan), "hb-replayed"},
		{lan, replyOn(lan), "hb-reply-accepted"},
	} {
		before := n.counters()
		n.receive(s.nic, signed(t, s.frame, signing))
		if want := fmt.Sprintf("%s %s", [...]string{"crossover", "lan", "spare"}[s.nic], s.want); n.moved(before) != want {
			t.Errorf("frame %d: counted %q, want %q", i, n.moved(before), want)
		}
	}
	// The recorded frame of one path, made one of another, has no right tag.
	b := signed(t, at(lowerLan, 400), signing)
	b[wire.OffsetLink] = lan
	before := n.counters()
	n.receive(lan, b)
	if got := n.moved(before); got != "lan hb-bad-tag" {
		t.Errorf("counted %q", got)
	}
}

// Which NIC a cross path has here goes by the numbers of the two nodes, for each pair of many.
func TestAmongManyAPathGoesByThePairsNumbers(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for _, c := range []struct{ self, sender, path, nic int }{
		{0, 1, lowerLan, lan}, {0, 1, lowerSpare, spare}, {1, 0, lowerLan, spare}, {1, 0, lowerSpare, lan},
		{1, 2, lowerLan, lan}, {1, 2, lowerSpare, spare}, {2, 1, lowerLan, spare}, {2, 1, lowerSpare, lan},
	} {
		for nic, name := range []string{"crossover", "lan", "spare"} {
			v := n.among()
			v.config.Self = uint8(c.self)
			n.put(v)
			f := with(probeOn(c.path), func(f *wire.Frame) { f.Sender, f.DstIP = uint8(c.sender), nodeIP[0][nic] })
			before := n.counters()
			n.receive(nic, signed(t, f, wrongKey))
			want := name + " hb-wrong-link"
			if nic == c.nic {
				want = name + " hb-bad-tag" // it has come so far
			}
			if got := n.moved(before); got != want {
				t.Errorf("node %d, from %d, path %d: counted %q, want %q", c.self, c.sender, c.path, got, want)
			}
		}
	}
}

// A frame on a cross path is life, brings words and grants, as on any other.
func TestACrossFrameIsAsGoodAsAnyOther(t *testing.T) {
	for path, nic := range map[int]int{lowerLan: lan, lowerSpare: spare} {
		n := newBench(t).newNode(t, 0)
		v := n.atWork()
		v.config.ServeNs = hour
		v.words[0] = owner | 5
		n.put(v)
		mine := now() - 1000
		f := with(replyOn(path), func(f *wire.Frame) { f.GrantNS, f.Words[0], f.Words[1] = mine, 5|ready|demand, owner|7 })
		n.receive(nic, signed(t, f, signing))
		s, w := n.state(), n.words()
		if s.Peer.HeardNs == 0 || s.Peer.Paths[path].HeardNs != s.Peer.HeardNs || s.Peer.SentNs != f.SentNS {
			t.Errorf("path %d: heard %d and %d, promised %d", path, s.Peer.HeardNs, s.Peer.Paths[path].HeardNs, s.Peer.SentNs)
		}
		if s.Peer.GrantedNs != mine || s.ServeUntilNs != mine+hour {
			t.Errorf("path %d: granted %d, until %d", path, s.Peer.GrantedNs, s.ServeUntilNs)
		}
		if w[0] != yield|5 || w[1] != 7 || s.Peer.Words[0] != f.Words[0] {
			t.Errorf("path %d: words %x, the peer's %x", path, w, s.Peer.Words[:identities])
		}
	}
}

// A peer that is heard on a cross path alone stays up.
func TestLifeOnACrossPathKeepsAPeerUp(t *testing.T) {
	for _, path := range []uintptr{lowerLan, lowerSpare} {
		n := watched(t, func(v *truth) { v.peer.Paths[path].HeardNs = now() + hour })
		n.probed(8, now())
		n.quiet()
		if s := n.state(); s.Peer.State != up || n.words()[1] != ready|5 {
			t.Errorf("path %d: state %d, words %x", path, s.Peer.State, n.words())
		}
		n.pokePeer(1-n.self, offsetPaths+path*pathBytes, now())
		n.expect(eventSuspect)
		n.pokePeer(1-n.self, offsetPaths+path*pathBytes, now()+hour)
		n.expect(eventRefuted)
	}
}
