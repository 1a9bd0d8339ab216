// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/wire"
)

// grants is how a frame moves the right to serve.
func TestAFrameGrantsTheRightToServe(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for name, c := range map[string]struct {
		frame wire.Frame
		had   uint64
		want  func(had, sent uint64) uint64
	}{
		"a reply, from the time at which the probe left":   {frame: replyOn(lan), want: func(_, sent uint64) uint64 { return sent + serveFor }},
		"a probe, from the frame that the peer heard last": {frame: probeOn(lan), want: func(_, sent uint64) uint64 { return sent + serveFor }},
		"never back": {frame: with(replyOn(lan), func(f *wire.Frame) { f.GrantNS = 1 }), had: now() + serveFor, want: func(had, _ uint64) uint64 { return had }},
		"not if nothing is granted": {
			frame: with(replyOn(lan), func(f *wire.Frame) { f.GrantNS = 0 }), had: 5, want: func(had, _ uint64) uint64 { return had },
		},
		"not by a time that has not come": {
			frame: with(replyOn(lan), func(f *wire.Frame) { f.GrantNS = now() + hour }), had: 5, want: func(had, _ uint64) uint64 { return had },
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.atWork()
			v.config.ServeNs, v.state.ServeUntilNs = serveFor, c.had
			if c.had > serveFor {
				v.peer.GrantedNs = c.had - serveFor
			}
			n.put(v)
			sent := now()
			if c.frame.GrantNS > 1 && c.frame.GrantNS < sent || c.frame.Direction == wire.Probe {
				c.frame.GrantNS = sent
			}
			n.receive(lan, signed(t, c.frame, signing))
			if got := n.state().ServeUntilNs; got != c.want(c.had, sent) {
				t.Errorf("may serve until %d, want %d", got, c.want(c.had, sent))
			}
		})
	}
}

// What a frame closes, its grant does not open; and who has declared the peer dead grants nothing.
func TestWhoDeclaredThePeerDeadGrantsNothing(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for state, granted := range map[uint64]bool{unknown: true, up: true, suspect: true, dead: false} {
		v := n.atWork()
		v.peer.State, v.peer.SentNs = state, 5
		n.put(v)
		_, out := n.receive(lan, signed(t, probeOn(lan), signing))
		reply, err := wire.Parse(out, signing)
		if err != nil {
			t.Fatal(err)
		}
		want, sent := uint64(0), uint64(5)
		if granted {
			want, sent = probeOn(lan).SentNS, probeOn(lan).SentNS
		}
		if got := n.state().Peer.SentNs; reply.GrantNS != want || got != sent {
			t.Errorf("peer state %d: the reply grants %d, want %d; the next probe %d, want %d", state, reply.GrantNS, want, got, sent)
		}
	}
}

// Serving by the arbiter's leave is said in every frame: it lasts longer than a grant.
func TestSoloIsSaid(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for left, solo := range map[uint64]bool{0: false, serveFor: false, hour: true} {
		v := n.atWork()
		v.config.ServeNs, v.state.ServeUntilNs = serveFor, now()+left
		n.put(v)
		_, out := n.receive(lan, signed(t, probeOn(lan), signing))
		reply, err := wire.Parse(out, signing)
		if err != nil {
			t.Fatal(err)
		}
		if got := reply.Flags&4 != 0; got != solo {
			t.Errorf("%d ns left: said %v", left, got)
		}
	}
}

// servicesRun is the bit of a frame's word that says so of its identity (bpf/abi.h).
const servicesRun = 1 << 50

// Every frame says of each identity whether its services may run on the sender, whoever owns it; the
// word itself stays as it is.
func TestFramesSayWhereServicesRun(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for name, running := range map[string][2]uint64{"none": {}, "those of the first": {7, 0}, "all": {7, 1}, "ended ones": {1 << 63, 1<<63 | 1}} {
		v := n.atWork()
		copy(v.control.Running[:], running[:])
		n.put(v)
		_, out := n.receive(lan, signed(t, probeOn(lan), signing))
		reply, err := wire.Parse(out, signing)
		if err != nil {
			t.Fatal(err)
		}
		for i, word := range n.words() {
			want := word
			if running[i]<<1 != 0 {
				want |= servicesRun
			}
			if reply.Words[i] != want || word&servicesRun != 0 {
				t.Errorf("%s: the answer says %#x of identity %d, whose word is %#x", name, reply.Words[i], i, word)
			}
		}
	}
}

// What a peer says of its services is kept with its word, and is no word of this node's.
func TestAPeersServicesAreKeptWithItsWord(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	n.put(n.atWork())
	before := n.words()
	for i, runs := range []uint64{servicesRun, 0} {
		n.receive(lan, signed(t, with(probeOn(lan), func(f *wire.Frame) {
			f.Seq += uint64(i)
			f.Words = slices.Clone(f.Words)
			f.Words[1] |= runs
		}), signing))
		if got := n.state().Peer.Words[1]; got&servicesRun != runs {
			t.Errorf("%#x was said, %#x is kept", runs, got)
		}
		if n.words() != before {
			t.Errorf("the words were %#x and are %#x", before, n.words())
		}
	}
}

// A peer that served alone does so until a later frame says otherwise: frames overtake each other.
func TestThePeersLeaveEndsByALaterFrame(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	v.config.ServeNs = serveFor
	n.put(v)
	sent := now()
	say := func(link int, flags uint32, at uint64) uint64 {
		n.receive(link, signed(t, with(probeOn(link), func(f *wire.Frame) { f.Flags, f.SentNS = flags, at }), signing))
		return n.state().Peer.SoloNs
	}
	if say(lan, 4, sent) == 0 {
		t.Error("nobody listened")
	}
	if say(crossover, 0, sent-1) == 0 {
		t.Error("an earlier frame ended it")
	}
	if say(spare, 0, sent+1) != 0 {
		t.Error("a later frame did not end it")
	}
}

// The arbiter's leave is for a peer that is not heard. When it is, it grants again, or does not hear
// us: then it takes over as long after what it granted last as ends our right before. One that was called
// dead may be about to.
func TestTheArbitersLeaveIsGivenBack(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for _, state := range []uint64{up, suspect, dead} {
		for _, ago := range []uint64{0, 1e9} { // a peer that hears us, and one that does not
			v := n.atWork()
			v.peer.State = state
			v.config.ServeNs, v.state.ServeUntilNs = serveFor, now()+hour
			n.put(v)
			granted := now() - ago
			n.receive(lan, signed(t, with(probeOn(lan), func(f *wire.Frame) { f.GrantNS = granted }), signing))
			if got := n.state().ServeUntilNs; got != granted+serveFor {
				t.Errorf("peer state %d, granted %d ns ago: may serve until %d, want %d", state, ago, got, granted+serveFor)
			}
		}
	}
	v := n.atWork()
	v.config.ServeNs, v.state.ServeUntilNs = serveFor, now()+hour
	n.put(v)
	n.receive(lan, signed(t, with(probeOn(lan), func(f *wire.Frame) { f.GrantNS = 0 }), signing))
	if got := n.state().ServeUntilNs; got != v.state.ServeUntilNs {
		t.Errorf("a peer that has counted nothing yet, for it has just booted, ended it: %d", got)
	}
}

// A round of questions that a majority answered lets a node serve on, but gives back nothing.
func TestTheArbitersLeave(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	for name, c := range map[string]struct {
		left    uint64
		heard   uint64 // when
		allowed bool
	}{
		"serving, the peer silent": {1e9, now() - hour, true},
		"serving, the peer heard":  {1e9, now() + hour, false}, // it does not hear us, or it would grant
		"no longer serving":        {0, now() - hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, left := n.atWork(), c.left
			v.peer.HeardNs = c.heard
			v.config.N_reach, v.config.ServeNs = 3, uint64(hour)
			v.state.ReachSentNs, v.state.ServeUntilNs = now(), now()+left
			n.put(v)
			n.receive(lan, isAt(hosts[0], client, nodeMAC[0][lan], nodeIP[0][lan]))
			if s := n.state(); s.ServeUntilNs != v.state.ServeUntilNs || s.ReachOkNs != 0 {
				t.Fatalf("one of three let it serve until %d", s.ServeUntilNs)
			}
			n.receive(spare, isAt(hosts[2], client, nodeMAC[0][spare], nodeIP[0][spare]))
			want := v.state.ReachSentNs + hour
			if !c.allowed {
				want = v.state.ServeUntilNs
			}
			if s := n.state(); s.ServeUntilNs != want || s.ReachOkNs != v.state.ReachSentNs {
				t.Errorf("may serve until %d, want %d; majority at %d", s.ServeUntilNs, want, s.ReachOkNs)
			}
		})
	}
}

// The race of the design: on one CPU a probe comes and is answered, on another the detector
// declares its sender dead. Whoever was granted the right to serve, by this frame, must not have been
// taken over. Frames are aimed at the deadline, round after round, until deaths have been taken
// back and replies have gone without a grant: until the race has been run both ways.
func TestAReplyRacesATakeover(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	v.config.ProbeNs, v.config.SuspectNs, v.config.DeadNs = 100_000, 100_000, 300_000
	v.words = [identities]uint64{5, ready | 5}
	n.put(v)
	pinned(t, n, 1)
	n.start() // the timer stays on the CPU that starts it
	pinned(t, n, 0)
	r := rand.New(rand.NewPCG(3, 33))
	var ran struct{ reverted, refused, granted, taken int }
	aim := int64(v.config.DeadNs)
	const enough = time.Minute
	end := time.Now().Add(enough)
	for round := 0; ran.reverted < 3 || ran.refused < 20 || ran.taken < 20; round++ {
		if time.Now().After(end) {
			t.Fatalf("the race was not run in %v: %+v after %d rounds", enough, ran, round)
		}
		n.told()
		n.must(n.objs.Words.Put(uint32(1), ready|5))
		probe := with(probeOn(lan), func(f *wire.Frame) { f.Seq, f.SentNS = uint64(round+2)*2, 1 })
		frame := signed(t, probe, signing)
		base := now()
		n.pokePeer(1-n.self, offsetPaths+lan*pathBytes, base)
		n.probed(8, base+1)
		n.pokePeer(1-n.self, offsetPeerState, suspect)
		at := base + uint64(aim+r.Int64N(60_000))
		for now() < at {
		}
		before := n.state().Peer.Reverted
		_, out := n.receive(lan, frame)
		reply, err := wire.Parse(out, signing)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		stamp := reply.SentNS
		s, w := n.state(), n.words()[1]
		for now() < stamp+50_000 || s.Peer.State == dead && w&owner == 0 { // the callback is at it still
			if s, w = n.state(), n.words()[1]; time.Now().After(end) {
				t.Fatalf("round %d: the peer is dead, and nobody took over", round)
			}
		}
		ran.reverted += int(s.Peer.Reverted - before)
		flipped := w&owner != 0
		switch {
		case reply.GrantNS == 0:
			ran.refused++
			aim -= 500 // later than the death: aim earlier
		default:
			ran.granted++
			aim += 500
		}
		if flipped {
			ran.taken++
			// A reply that tells of the takeover closes what it lets serve: the peer was up again by then.
			told := reply.Words[1]&owner != 0
			if l := n.timeline(1); reply.GrantNS != 0 && !told && l.FlipNs < stamp+v.config.DeadNs {
				t.Fatalf("round %d: the reply at %d let the peer serve, and it was taken over at %d, %d ns later", round, stamp, l.FlipNs, int64(l.FlipNs-stamp))
			}
		}
	}
	t.Logf("the race was run: %+v", ran)
}

// pinned keeps the bench's thread on one CPU.
func pinned(t *testing.T, n *node, cpu int) {
	t.Helper()
	if runtime.NumCPU() < 2 {
		t.Fatal("this machine has one CPU, where nothing races: run the test on one that has two")
	}
	n.in(func() {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Error(err)
		}
	})
}
