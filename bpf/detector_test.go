// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// Where the kernel's fields stand that a test writes while the detector runs.
const (
	offsetPeerState = unsafe.Offsetof(bpf.XdphaXdPeer{}.State)
	offsetTicks     = unsafe.Offsetof(bpf.XdphaXdState{}.Ticks)
	offsetReach     = unsafe.Offsetof(bpf.XdphaXdState{}.ReachNs)
	offsetReachOK   = unsafe.Offsetof(bpf.XdphaXdState{}.ReachOkNs)
	offsetPaths     = unsafe.Offsetof(bpf.XdphaXdPeer{}.Paths)
	pathBytes       = unsafe.Sizeof(bpf.XdphaXdPathState{})

	eventUp        = bpf.XdphaXdEventKindEVENT_PEER_UP
	eventSuspect   = bpf.XdphaXdEventKindEVENT_PEER_SUSPECT
	eventRefuted   = bpf.XdphaXdEventKindEVENT_PEER_REFUTED
	eventDead      = bpf.XdphaXdEventKindEVENT_PEER_DEAD
	eventTakeover  = bpf.XdphaXdEventKindEVENT_TAKEOVER
	eventLapsed    = bpf.XdphaXdEventKindEVENT_LAPSED
	eventIsolated  = bpf.XdphaXdEventKindEVENT_ISOLATED
	eventRejoined  = bpf.XdphaXdEventKindEVENT_REJOINED
	eventSelfStall = bpf.XdphaXdEventKindEVENT_SELF_STALL

	unknown, up, suspect, dead = 0, 1, 2, 3
	untouched                  = 100 * time.Millisecond // twenty times dead_after
)

// watched is a node whose detector runs.
func watched(t *testing.T, given func(*truth)) *node {
	t.Helper()
	n := newBench(t).newNode(t, 0)
	v := n.atWork()
	v.words = [identities]uint64{owner | 5, ready | 5}
	given(v)
	n.put(v)
	n.start()
	return n
}

// hear stamps a link as XDP does for an accepted frame.
func (n *node) hear(at uint64) { n.pokePeer(1-n.self, offsetPaths, at) }

// probed notes own probes as the pacer does.
func (n *node) probed(count int, at uint64) {
	for i := range count {
		n.poke(offsetTicks+uintptr(8*i), at)
	}
}

// answer stamps an ARP answer of a listed host by the lan NIC.
func (n *node) answer(host int, at uint64) { n.poke(offsetReach+uintptr(8*(3*host+lan)), at) }

// expect waits for the next events. A late timer's own report, which a busy
// machine causes, is passed over.
func (n *node) expect(kinds ...bpf.XdphaXdEventKind) (events []bpf.XdphaXdEvent) {
	n.t.Helper()
	n.events.SetDeadline(time.Now().Add(patience))
	for len(events) < len(kinds) {
		r, err := n.events.Read()
		if err != nil {
			n.t.Fatalf("await event %v: %v; peer state %d, words %x", kinds[len(events)], err, n.state().Peer.State, n.words())
		}
		e := event(r)
		if e.Kind == eventSelfStall {
			continue
		}
		if e.Kind != kinds[len(events)] {
			n.t.Fatalf("event %d at %d, want %d (of %v)", e.Kind, e.AtNs, kinds[len(events)], kinds)
		}
		events = append(events, e)
	}
	return events
}

// quiet fails if an event comes within a time that is long for the detector.
func (n *node) quiet() {
	n.t.Helper()
	n.quietFor(untouched)
}

func (n *node) quietFor(d time.Duration) {
	n.t.Helper()
	n.events.SetDeadline(time.Now().Add(d))
	for {
		r, err := n.events.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			return
		}
		n.must(err)
		if e := event(r); e.Kind != eventSelfStall {
			n.t.Fatalf("event %d, want none", e.Kind)
		}
	}
}

func (n *node) wantWords(w ...uint64) {
	n.t.Helper()
	if got := n.words(); !slices.Equal(got[:], w) {
		n.t.Errorf("words %x, want %x", got, w)
	}
}

func TestTheFirstFrameMakesThePeerKnown(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.State = unknown; v.config.HoldNs = now() + hour })
	n.quiet()
	n.hear(now() + hour)
	n.expect(eventUp)
	if s := n.state(); s.Peer.State != up {
		t.Errorf("state %d", s.Peer.State)
	}
	n.wantWords(owner|5, ready|5)
}

func TestSilenceIsDeathAndArmedIdentitiesAreTaken(t *testing.T) {
	last := now()
	n := watched(t, func(v *truth) {
		v.peer.Paths[spare].HeardNs = last
		v.peer.Paths[lan].HeardNs = last - 5
		v.state.Ticks = [8]uint64{last + 1, last + 2}
	})
	e := n.expect(eventSuspect, eventDead, eventTakeover)
	s := n.state()
	if s.Peer.State != dead || e[1].A != last || e[2].A != owner|6 || e[2].B != last || e[2].Identity != 1 {
		t.Errorf("state %d, events %+v", s.Peer.State, e)
	}
	l := n.timeline(1)
	if l.EvidenceNs != last || l.SuspectNs < last+3e6 || l.DeadNs < last+5e6 || l.DeadNs < l.SuspectNs || l.FlipNs < l.DeadNs || l.Word != owner|6 || s.Peer.Suspects != 1 {
		t.Errorf("suspects %d, timeline %+v", s.Peer.Suspects, l)
	}
	if l := n.timeline(0); l != (bpf.XdphaXdTimeline{}) {
		t.Errorf("nothing became of the identity that was owned before: %+v", l)
	}
	n.wantWords(owner|5, owner|6)
}

// With another configuration the same word may speak of another identity.
func TestNothingIsTakenFromAPeerOfAnotherConfiguration(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.Paths[0].HeardNs, v.peer.Digest = now(), digest+1 })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.quiet()
	n.wantWords(owner|5, ready|5)
}

func TestALinkThatSpeaksKeepsThePeerAlive(t *testing.T) {
	n := watched(t, func(v *truth) {
		v.peer.Paths[crossover].HeardNs, v.peer.Paths[lan].HeardNs = 1, 1
		v.peer.Paths[spare].HeardNs = now() + hour // another CPU's clock is ahead: compared signed
		v.state.Ticks = [8]uint64{2, 3, 4, 5}
	})
	n.quiet()
	n.wantWords(owner|5, ready|5)
}

func TestSuspicionIsRefutedByAFrame(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.Paths[0].HeardNs = now() })
	n.expect(eventSuspect)
	n.hear(now() + hour)
	n.expect(eventRefuted)
	n.quiet()
	if s := n.state(); s.Peer.State != up || s.Peer.Refuted != 1 {
		t.Errorf("state %d, refuted %d", s.Peer.State, s.Peer.Refuted)
	}
	n.wantWords(owner|5, ready|5)
}

func TestNobodyIsDeclaredDeadWithoutOwnProbes(t *testing.T) {
	for name, ticks := range map[string]func(n *node){
		"no probe":                  func(*node) {},
		"one probe of two":          func(n *node) { n.probed(1, now()) },
		"probes before the silence": func(n *node) { n.probed(8, 1) },
		"probes too young":          func(n *node) { n.probed(8, now()+hour) },
	} {
		t.Run(name, func(t *testing.T) {
			n := watched(t, func(v *truth) { v.peer.Paths[0].HeardNs = now() })
			n.expect(eventSuspect)
			ticks(n)
			n.quiet()
			if s := n.state(); s.Peer.State != suspect {
				t.Errorf("state %d", s.Peer.State)
			}
			n.wantWords(owner|5, ready|5)
			n.probed(2, now())
			n.expect(eventDead, eventTakeover)
		})
	}
}

func TestAnIdentityArmedAfterTheDeathIsTakenToo(t *testing.T) {
	n := watched(t, func(v *truth) { v.words[1] = 5; v.peer.Paths[0].HeardNs = now() })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.wantWords(owner|5, 5)
	n.must(n.objs.Words.Put(uint32(1), ready|staged|5))
	n.expect(eventTakeover)
	n.wantWords(owner|5, owner|6)
}

func TestTheDeadReturn(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.State = dead; v.peer.SinceNs = now(); v.words[1] = 5 })
	n.quiet()
	n.hear(now() + hour)
	n.expect(eventUp)
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	n.quiet()
	n.wantWords(owner|5, ready|5)
}

func TestAfterTheBootHoldAnUnseenPeerIsDead(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.State, v.state.StartedNs = unknown, 0 })
	n.quiet() // five times the hold, but not one own probe
	n.probed(2, now())
	e := n.expect(eventDead, eventTakeover)
	s := n.state()
	if s.StartedNs == 0 || e[0].AtNs-s.StartedNs < 20e6 || s.Peer.MyNonce == 0 {
		t.Errorf("started %d, dead %d, nonce %x", s.StartedNs, e[0].AtNs, s.Peer.MyNonce)
	}
	n.wantWords(owner|5, owner|6)
}

func TestALostSupervisorLapses(t *testing.T) {
	n := watched(t, func(v *truth) {
		v.peer.Paths[0].HeardNs = now() + hour
		v.control.LeaseUntilNs = now() + 30e6
	})
	e := n.expect(eventLapsed)
	if e[0].A != yield|5 || e[0].Identity != 0 {
		t.Errorf("event %+v", e[0])
	}
	n.quiet()
	n.wantWords(yield|5, ready|5)
}

func TestALostSupervisorKeepsWhatNobodyElseCouldServe(t *testing.T) {
	n := watched(t, func(v *truth) {
		v.peer.State = dead
		v.peer.SinceNs = now()
		v.control.LeaseUntilNs = 1
		v.words[1] = 5
	})
	n.quiet()
	n.wantWords(owner|5, 5)
}

// timeline is an identity's.
func (n *node) timeline(identity uint32) (l bpf.XdphaXdTimeline) {
	n.t.Helper()
	n.must(n.objs.Timelines.Lookup(identity, &l))
	return l
}

const (
	serveFor = 4e6
	solo     = uint64(500 * time.Millisecond)
)

// reachable is a node that asks three hosts and serves by the peer's or their leave.
func reachable(v *truth) {
	v.config.N_reach, v.config.ServeNs = 3, serveFor
	v.state.ServeUntilNs = now() + serveFor
}

// majority is what XDP notes when a majority has answered a round of questions that left then.
func (n *node) majority(sent uint64) {
	n.answer(0, sent+1)
	n.answer(2, sent+1)
	n.poke(offsetReachOK, sent)
}

func TestWhoReachesTheMajorityTakes(t *testing.T) {
	n := watched(t, func(v *truth) {
		reachable(v)
		v.peer.Paths[0].HeardNs, v.state.ServeUntilNs = now(), now()+hour
	})
	n.answer(0, now()+hour)
	n.answer(2, now()+hour)
	n.probed(8, now())
	n.expect(eventSuspect, eventDead, eventTakeover)
	n.wantWords(owner|5, owner|6)
}

// A node that is cut off may not serve, and is told so; and it takes nothing, however late its
// majority comes back, before whoever took over in its stead has surely stopped.
func TestWhoIsCutOffTakesNothing(t *testing.T) {
	n := watched(t, func(v *truth) { reachable(v); v.peer.Paths[0].HeardNs = now() })
	n.answer(0, now()+hour) // one of three is no majority
	n.answer(1, 1)          // and what answered long ago counts no longer
	n.probed(8, now())
	n.expect(eventSuspect, eventIsolated)
	n.quiet()
	n.wantWords(owner|5, ready|5)

	back := now()
	n.majority(back + hour)
	e := n.expect(eventDead, eventTakeover, eventRejoined)
	if e[0].AtNs-back < solo {
		t.Errorf("took over %d ns after the majority came back: the peer may serve still", e[0].AtNs-back)
	}
	if s := n.state(); s.IsolatedSinceNs != 0 || s.ServeUntilNs < now() {
		t.Errorf("isolated since %d, may serve until %d", s.IsolatedSinceNs, s.ServeUntilNs)
	}
	n.wantWords(owner|5, owner|6)
}

func TestWhoIsCutOffRejoinsByThePeersGrant(t *testing.T) {
	n := watched(t, func(v *truth) { reachable(v); v.peer.Paths[0].HeardNs = now() })
	n.probed(8, now())
	n.expect(eventSuspect, eventIsolated)
	n.hear(now() + hour)
	n.poke(unsafe.Offsetof(bpf.XdphaXdState{}.ServeUntilNs), now()+hour) // as XDP does for a frame that grants
	n.expect(eventRefuted, eventRejoined)
	if s := n.state(); s.IsolatedSinceNs != 0 || s.Peer.State != up {
		t.Errorf("isolated since %d, state %d", s.IsolatedSinceNs, s.Peer.State)
	}
}

func TestAloneTheArbitersLeaveRunsOut(t *testing.T) {
	n := watched(t, func(v *truth) {
		reachable(v)
		v.peer.State, v.peer.SinceNs, v.state.ReachOkNs = dead, now(), now()
		v.state.ServeUntilNs = now() + 400e6 // before solo ends; a busy machine may begin late
		v.words[1] = 5
	})
	e := n.expect(eventIsolated)
	if since := n.state().ReachOkNs; e[0].AtNs-since < solo {
		t.Errorf("closed %d ns after the last majority, its leave lasts longer", e[0].AtNs-since)
	}
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	back := now()
	n.majority(back + hour)
	e = n.expect(eventTakeover, eventRejoined)
	if e[0].AtNs-back < solo {
		t.Errorf("took over %d ns after the majority came back", e[0].AtNs-back)
	}
}

// A majority of an earlier time alone gives nothing back: whoever is cut off now must see one for
// long enough again.
func TestAMajorityOfLongAgoGivesNothingBack(t *testing.T) {
	n := watched(t, func(v *truth) {
		reachable(v)
		v.peer.Paths[0].HeardNs, v.state.ReachOkNs, v.state.MajoritySinceNs = now(), now(), 1
	})
	n.probed(8, now())
	n.expect(eventSuspect, eventIsolated)
	n.quiet()
	if s := n.state(); s.ServeUntilNs > now() {
		t.Errorf("cut off, and serves for %v more", time.Duration(s.ServeUntilNs-now()))
	}
}

// A peer that served by the arbiter's leave when it was last heard may do so still.
func TestAPeerThatServedAloneIsDeadLater(t *testing.T) {
	last := now()
	n := watched(t, func(v *truth) {
		reachable(v)
		v.peer.Paths[0].HeardNs, v.peer.SoloNs, v.state.ServeUntilNs = last, last, last+hour
	})
	n.majority(now() + hour)
	n.probed(8, now())
	e := n.expect(eventSuspect, eventDead, eventTakeover)
	if e[1].AtNs-last < solo {
		t.Errorf("dead after %d ns", e[1].AtNs-last)
	}
}

// The listed hosts are heard again a moment before the peer: it has two intervals to speak.
func TestWhoWasCutOffLetsThePeerSpeakFirst(t *testing.T) {
	n := watched(t, func(v *truth) {
		reachable(v)
		v.config.ProbeNs, v.config.DeadNs, v.config.SuspectNs = 200e6, 240e6, 220e6
		v.peer.Paths[0].HeardNs, v.state.ServeUntilNs = now(), now()+1
	})
	n.probed(8, now())
	n.expect(eventIsolated, eventSuspect)
	for n.state().Peer.Paths[0].HeardNs+280e6 > now() {
		time.Sleep(time.Millisecond)
	}
	back := now()
	n.majority(back + hour)
	e := n.expect(eventDead, eventTakeover, eventRejoined)
	if e[0].AtNs-back < 400e6 {
		t.Errorf("dead %d ns after the hosts were heard again", e[0].AtNs-back)
	}
}

// Somebody on the cable speaks another version, or has another secret: this node is not alone.
func TestABootingNodeIsNotAloneBesideAStranger(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.State, v.state.StartedNs, v.config.HoldNs = unknown, 0, 3e9 })
	other := spoiled(t, probeOn(crossover), wire.OffsetVersion, 1)
	n.probed(8, now())
	for end := now() + 100e6; now() < end; {
		n.receive(crossover, other)
	}
	n.quietFor(0)
	n.wantWords(owner|5, ready|5)
	n.probed(8, now())
	n.expect(eventDead, eventTakeover) // when it has gone
}

// An upgrade starts the detector again; it goes on where it was.
func TestTheDetectorStartsTwice(t *testing.T) {
	n := watched(t, func(v *truth) { v.peer.Paths[0].HeardNs = now() + hour })
	started, nonce := n.state().StartedNs, n.state().Peer.MyNonce
	n.start()
	n.hear(now())
	n.expect(eventSuspect)
	if s := n.state(); s.StartedNs != started || s.Peer.MyNonce != nonce {
		t.Errorf("started %d and %d, nonce %x and %x", started, s.StartedNs, nonce, s.Peer.MyNonce)
	}
}
