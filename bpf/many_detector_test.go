// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"
	"unsafe"

	"github.com/xdpha/xdpha/bpf"
)

const (
	offsetGrants = unsafe.Offsetof(bpf.XdphaXdPeer{}.GrantedNs)
	offsetWords  = unsafe.Offsetof(bpf.XdphaXdPeer{}.Words)
)

// together is node 0 of three whose detector runs. Both others have just been heard; a test that
// wants one to be alive hears it for an hour.
func together(t *testing.T, given func(*truth)) *node {
	t.Helper()
	n := newBench(t).newNode(t, 0)
	v := n.among()
	v.peer.Paths[0].HeardNs, v.third.Paths[0].HeardNs = now(), now()+hour
	v.peer.HeardNs, v.third.HeardNs = now(), now()
	v.words[1] = 7
	given(v)
	n.put(v)
	n.start()
	n.probed(8, now())
	return n
}

func TestAmongManyADeadOwnersIdentityIsTakenWithItsKey(t *testing.T) {
	n := together(t, func(v *truth) { v.control.LeaveNs[0] = 0 })
	e := n.expect(eventSuspect, eventDead)
	if e[0].Node != 1 || e[1].Node != 1 {
		t.Errorf("it is node %d that is suspected, %d that is dead", e[0].Node, e[1].Node)
	}
	n.quiet()
	n.holds(0, 12, now()+hour) // at another generation
	n.quiet()
	n.holds(1, 9, now()+hour) // of another identity
	n.quiet()
	n.holds(0, 9, now()+hour)
	e = n.expect(eventTakeover)
	if e[0].A != owner|9 || e[0].Identity != 0 || e[0].Node != 1 {
		t.Errorf("event %+v", e[0])
	}
	s, l := n.state(), n.timeline(0)
	if l.EvidenceNs != s.Peer.Paths[0].HeardNs || l.DeadNs != s.Peer.DeadNs || l.SuspectNs != s.Peer.SuspectNs || l.FlipNs < l.DeadNs {
		t.Errorf("timeline %+v, dead at %d", l, s.Peer.DeadNs)
	}
	n.wantWords(owner|9, 7)
}

// One other candidate in the way is enough, whoever is dead.
func TestAmongManyNothingIsTakenWhileAnotherCandidateMayServe(t *testing.T) {
	for name, given := range map[string]func(*truth){
		"it is not known after a boot": func(v *truth) { v.third.State, v.third.Paths[0].HeardNs, v.config.HoldNs = unknown, 0, now()+hour },
		"it owns it by its word":       func(v *truth) { v.third.Words[0] = owner | 7 },
		"it is at another generation":  func(v *truth) { v.third.Words[0] = ready | 4 },
		"it has another configuration": func(v *truth) { v.third.Digest++ },
		"this node has no lease":       func(v *truth) { v.control.LeaseUntilNs = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			n := together(t, given)
			n.expect(eventSuspect, eventDead)
			n.quiet()
			n.wantWords(ready|7, 7)
		})
	}
}

// It is the timer that asks about deaths: what a frame releases is taken then, though a candidate
// died at another generation.
func TestAmongManyTheDeadDoNotStandInTheWay(t *testing.T) {
	n := together(t, func(v *truth) {
		v.third.Words[0], v.third.Paths[0].HeardNs = owner|4, now()
		v.peer.Paths[0].HeardNs = now() + hour
	})
	if e := n.expect(eventSuspect, eventDead); e[1].Node != 2 {
		t.Fatalf("node %d is dead", e[1].Node)
	}
	n.quiet()
	n.wantWords(ready|7, 7)
	n.pokePeer(1, offsetWords, yield|7)
	if e := n.expect(eventTaken); e[0].A != owner|9 || e[0].B != ready|7 || e[0].Node != 1 {
		t.Errorf("event %+v", e[0])
	}
	if l := n.timeline(0); l.EvidenceNs != 0 || l.DeadNs != 0 || l.Word != owner|9 {
		t.Errorf("the timeline tells of a death: %+v", l)
	}
}

func TestAmongManyWhoIsNoCandidateDoesNotMatter(t *testing.T) {
	n := together(t, func(v *truth) {
		v.words = [identities]uint64{7, ready | 7}
		v.third.Words[1] = owner | 4
	})
	e := n.expect(eventSuspect, eventDead, eventTakeover)
	if e[2].Identity != 1 || e[2].A != owner|9 {
		t.Errorf("event %+v", e[2])
	}
}

// After the hold those that were never heard are dead: the first claim is a takeover.
func TestAmongManyTheFirstClaimComesAfterTheHold(t *testing.T) {
	n := together(t, func(v *truth) {
		v.state.StartedNs, v.config.HoldNs = 0, 20e6
		v.peer, v.third = bpf.XdphaXdPeer{}, bpf.XdphaXdPeer{}
		v.words, v.control.LeaveGen[0] = [identities]uint64{ready, 0}, 3
	})
	e := n.expect(eventDead, eventDead, eventTakeover)
	s := n.state()
	if e[2].A != owner|3 || e[2].B != s.StartedNs || e[2].AtNs-s.StartedNs < 20e6 {
		t.Errorf("event %+v, started %d", e[2], s.StartedNs)
	}
}

func TestAmongManyEachPeerIsDetectedByItself(t *testing.T) {
	n := together(t, func(v *truth) { v.control.LeaveNs[0] = 0 })
	e := n.expect(eventSuspect, eventDead)
	if s := n.state(); e[1].Node != 1 || s.Peer.State != dead || s.Third.State != up {
		t.Errorf("node %d is dead; states %d and %d", e[1].Node, s.Peer.State, s.Third.State)
	}
	n.quiet()
	n.pokePeer(2, offsetPaths, now())
	n.probed(8, now()+1)
	e = n.expect(eventSuspect, eventDead)
	if s := n.state(); e[0].Node != 2 || e[1].Node != 2 || s.Third.Suspects != 1 || s.Peer.Suspects != 1 {
		t.Errorf("node %d is dead; suspected %d and %d times", e[1].Node, s.Peer.Suspects, s.Third.Suspects)
	}
	n.hear(now() + hour)
	if e := n.expect(eventUp); e[0].Node != 1 || n.state().Third.State != dead {
		t.Errorf("node %d is up; the third's state %d", e[0].Node, n.state().Third.State)
	}
}

// In a pair only with the peer up: see TestALostSupervisorKeepsWhatNobodyElseCouldServe.
func TestAmongManyALostSupervisorLapsesWhoeverIsDead(t *testing.T) {
	n := together(t, func(v *truth) {
		v.words[0], v.control.LeaseUntilNs = owner|9, 1
		v.peer.State, v.peer.SinceNs, v.third.State, v.third.SinceNs = dead, now(), dead, now()+hour
	})
	if e := n.expect(eventLapsed); e[0].A != yield|9 {
		t.Errorf("event %+v", e[0])
	}
	n.wantWords(yield|9, 7)
}

// Cut off is who owns an identity that not all others let it serve, and has not its key.
func TestAmongManyAnOwnerIsCutOffByOneThatDoesNotGrant(t *testing.T) {
	n := together(t, func(v *truth) {
		v.words[0], v.control.LeaveNs[0] = owner|9, 0
		v.peer.Paths[0].HeardNs, v.peer.GrantedNs = now()+hour, now()
	})
	n.expect(eventIsolated)
	n.pokePeer(2, offsetGrants, now())
	n.expect(eventRejoined)
	n.pokePeer(1, offsetGrants, 0)
	n.expect(eventIsolated)
	n.holds(0, 9, now()+hour)
	n.expect(eventRejoined)
	n.quiet()
}
