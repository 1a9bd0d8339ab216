// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"github.com/xdpha/xdpha/bpf"
)

const (
	offsetHeard   = unsafe.Offsetof(bpf.XdphaXdPeer{}.HeardNs)
	offsetKnocked = unsafe.Offsetof(bpf.XdphaXdPeer{}.KnockedNs)
)

// fencing is a node that takes nothing before an agent has said that the peer is off, and whose
// peer has just fallen silent.
func fencing(v *truth) {
	v.config.Verdict = bpf.XdphaXdVerdictVERDICT_FENCE
	v.peer.Paths[0].HeardNs, v.peer.HeardNs = now(), now()
}

// fenced is the daemon's word that the peer was off when an agent was asked then.
func (n *node) fenced(at uint64) {
	n.t.Helper()
	m, err := n.objs.Control.Memory()
	n.must(err)
	_, err = m.WriteAt(binary.NativeEndian.AppendUint64(nil, at), int64(unsafe.Offsetof(bpf.XdphaXdControl{}.FencedNs)))
	n.must(err)
}

func TestNothingIsTakenBeforeTheDeadPeerIsKnownToBeOff(t *testing.T) {
	n := watched(t, fencing)
	n.fenced(now()) // of a death before this one
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.quiet()
	n.wantWords(owner|5, ready|5)
}

func TestWhatIsArmedIsTakenOnceThePeerIsOff(t *testing.T) {
	n := watched(t, fencing)
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	off := now()
	n.fenced(off)
	if e := n.expect(eventTakeover); e[0].A != owner|6 || e[0].AtNs < off {
		t.Errorf("event %+v, off at %d", e[0], off)
	}
	n.wantWords(owner|5, owner|6)
}

// It may take its daemon's time to arm what a peer owned: the agent's word holds for the whole death.
func TestWhatIsArmedAfterThePeerIsOffIsTakenToo(t *testing.T) {
	n := watched(t, func(v *truth) { fencing(v); v.words[1] = 5 })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.fenced(now())
	n.quiet()
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	n.expect(eventTakeover)
	n.wantWords(owner|5, owner|6)
}

// A frame that comes after the agent's word belies it, even before the detector has seen the
// frame; and the next death needs a word of its own.
func TestAFrameVoidsTheWordThatThePeerIsOff(t *testing.T) {
	n := watched(t, func(v *truth) { fencing(v); v.words[1] = 5 })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.fenced(now())
	n.pokePeer(1-n.self, offsetHeard, now()+1)
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	n.quiet()
	heard := now() + uint64(untouched) // until then it is up
	n.hear(heard)
	n.expect(eventUp)
	n.probed(8, heard+1)
	n.expect(eventSuspect, eventDead)
	n.quiet()
	n.wantWords(owner|5, ready|5)
}

// Somebody who has the key and has booted since is there again, whatever an agent said before.
func TestAKnockVoidsTheWordThatThePeerIsOff(t *testing.T) {
	n := watched(t, func(v *truth) { fencing(v); v.words[1] = 5 })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.fenced(now())
	n.pokePeer(1-n.self, offsetKnocked, now()+1)
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	n.quiet()
	n.wantWords(owner|5, ready|5)
	n.fenced(now())
	n.expect(eventTakeover)
}

func TestAPeerNeverHeardMustBeOffToo(t *testing.T) {
	n := watched(t, func(v *truth) {
		v.config.Verdict = bpf.XdphaXdVerdictVERDICT_FENCE
		v.peer.State, v.state.StartedNs = unknown, 0
	})
	n.probed(8, now())
	n.expect(eventDead)
	n.quiet()
	n.fenced(now())
	n.expect(eventTakeover)
}

// With listed hosts beside the agent the majority is asked for still: the node that is cut off
// takes nothing, whatever an agent told it.
func TestACutOffNodeTakesNothingThoughThePeerIsOff(t *testing.T) {
	n := watched(t, func(v *truth) {
		fencing(v)
		reachable(v)
		v.peer.State, v.peer.SinceNs, v.state.ReachOkNs = dead, now(), now()
		v.state.ServeUntilNs = now() + 100e6
		v.words[1] = 5
	})
	n.expect(eventIsolated)
	n.fenced(now())
	n.must(n.objs.Words.Put(uint32(1), ready|5))
	n.quiet()
	back := now()
	n.majority(back + hour)
	e := n.expect(eventTakeover, eventRejoined)
	if e[0].AtNs-back < solo {
		t.Errorf("took over %v after the majority came back", time.Duration(e[0].AtNs-back))
	}
}
