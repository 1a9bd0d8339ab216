// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/core"
)

// Now is CLOCK_BOOTTIME in ns, the clock of every time in the maps.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return ts.Nano()
}

// Word reads an identity's ownership word.
func (d *Datapath) Word(identity int) core.Word {
	return core.Word(atomic.LoadUint64(&d.words[identity]))
}

// Swap changes a word if it still is old, as the kernel programs do, and returns
// the word that is there now.
func (d *Datapath) Swap(identity int, old, new core.Word) (core.Word, bool) {
	if atomic.CompareAndSwapUint64(&d.words[identity], uint64(old), uint64(new)) {
		return new, true
	}
	return d.Word(identity), false
}

// Renew extends the supervisor's lease from now on.
func (d *Datapath) Renew(now int64, lease time.Duration) {
	atomic.StoreUint64(&d.control.LeaseUntilNs, uint64(now)+uint64(lease))
	atomic.StoreUint64(&d.control.RenewedNs, uint64(now))
}

// LeaseUntil is when the supervisor's lease ends.
func (d *Datapath) LeaseUntil() int64 { return int64(atomic.LoadUint64(&d.control.LeaseUntilNs)) }

// Flags is what a frame says of its sender's node.
type Flags struct {
	Standby, Frozen bool
	Reach           [Links]int // listed hosts that answer, by NIC; crossover unused
	Carrier         [Links]bool
}

const (
	flagStandby = 1 << iota
	flagFrozen
)

func (f Flags) word() uint64 {
	v := uint64(b2u(f.Standby))*flagStandby | uint64(b2u(f.Frozen))*flagFrozen
	v |= uint64(f.Reach[Lan]&0xff)<<8 | uint64(f.Reach[Spare]&0xff)<<16
	return v | uint64(b2u(f.Carrier[Lan]))<<24 | uint64(b2u(f.Carrier[Spare]))<<25
}

func parseFlags(v uint64) (f Flags) {
	f.Standby, f.Frozen = v&flagStandby != 0, v&flagFrozen != 0
	f.Reach[Lan], f.Reach[Spare] = int(v>>8&0xff), int(v>>16&0xff)
	f.Carrier[Lan], f.Carrier[Spare] = v>>24&1 != 0, v>>25&1 != 0
	return f
}

// SetFlags sets what the next frames say.
func (d *Datapath) SetFlags(f Flags) { atomic.StoreUint64(&d.control.Flags, f.word()) }

// State is a reading of the kernel's state. Its fields are read one by one: each
// is whole, all together are not one instant.
type State struct {
	AtNS           int64 // when the reading began
	Peer           core.PeerState
	PeerSinceNS    int64
	BootID         uint64
	PeerBoot       uint64
	PeerAge        time.Duration // of its supervisor, as it said
	PeerAgeAtNS    int64         // when it said so
	PeerFlags      Flags
	PeerDigest     uint32
	PeerWords      []core.Word
	Words          []core.Word
	Seq            uint64
	TickGapMaxNS   uint64
	ReachNS        [MaxReach][Links]int64
	Isolated       bool
	IsolatedWords  uint64 // a bit for each identity that is closed by it
	Suspects       uint64
	Refuted        uint64
	SelfStalls     uint64
	Takeover       Takeover
	Links          [Links]LinkState
	LeaseUntilNS   int64
	SupervisorAtNS int64
}

// Takeover is the last one by this kernel, on its clock; zero: none.
type Takeover struct{ EvidenceNS, SuspectNS, DeadNS, FlipNS int64 }

// LinkState is what the kernel knows of one link.
type LinkState struct {
	HeardNS                   int64
	ProbesAnswered            uint64 // highest own probe that was answered
	RTTNS, RTTMaxNS, GapMaxNS uint64
	PeerMAC                   uint64
	RTT, Gap                  [32]uint64 // by powers of two of ns
}

// State reads the kernel's state for the first n identities.
func (d *Datapath) State(n int) State {
	p := d.state
	l := func(v *uint64) int64 { return int64(atomic.LoadUint64(v)) }
	u := atomic.LoadUint64
	s := State{
		AtNS: Now(), Peer: core.PeerState(u(&p.PeerState)), PeerSinceNS: l(&p.PeerSinceNs), BootID: u(&p.BootId), PeerBoot: u(&p.PeerBoot),
		PeerAge: time.Duration(u(&p.PeerAgeUs)) * time.Microsecond, PeerAgeAtNS: l(&p.PeerAgeAtNs),
		PeerFlags: parseFlags(u(&p.PeerFlags)), PeerDigest: uint32(u(&p.PeerDigest)),
		Seq: u(&p.Seq), TickGapMaxNS: u(&p.TickGapMaxNs), Isolated: u(&p.IsolatedSinceNs) != 0, IsolatedWords: u(&p.Isolated),
		Suspects: u(&p.Suspects), Refuted: u(&p.Refuted), SelfStalls: u(&p.SelfStalls),
		Takeover:     Takeover{l(&p.EvidenceNs), l(&p.SuspectNs), l(&p.DeadNs), l(&p.FlipNs)},
		LeaseUntilNS: d.LeaseUntil(), SupervisorAtNS: l(&d.control.RenewedNs),
	}
	for i := range n {
		s.PeerWords = append(s.PeerWords, core.Word(u(&p.PeerWords[i])))
		s.Words = append(s.Words, d.Word(i))
	}
	for i := range s.ReachNS {
		for j := range s.ReachNS[i] {
			s.ReachNS[i][j] = l(&p.ReachNs[i][j])
		}
	}
	for i := range s.Links {
		k := &p.Links[i]
		s.Links[i] = LinkState{
			HeardNS: l(&k.HeardNs), ProbesAnswered: u(&k.ReplySeq),
			RTTNS: u(&k.RttNs), RTTMaxNS: u(&k.RttMaxNs), GapMaxNS: u(&k.GapMaxNs), PeerMAC: u(&k.PeerMac),
		}
		for b := range k.RttHist {
			s.Links[i].RTT[b], s.Links[i].Gap[b] = u(&k.RttHist[b]), u(&k.GapHist[b])
		}
	}
	return s
}

// GateOpen reports whether an identity's gate is open, by the rule of bpf/gate.h as far as
// a running supervisor meets it.
func (s *State) GateOpen(identity int) (open bool, reason string) {
	switch {
	case !s.Words[identity].Has(core.Owner):
		return false, "not the owner"
	case s.IsolatedWords>>identity&1 != 0:
		return false, "this node is cut off"
	case s.LeaseUntilNS <= s.AtNS:
		return false, "the supervisor's lease ran out"
	}
	return true, ""
}

var _ [bpf.XdphaXdReasonREASON_COUNT]struct{} = [len(reasons)]struct{}{}

// Peer reads the peer's state alone.
func (d *Datapath) Peer() core.PeerState {
	return core.PeerState(atomic.LoadUint64(&d.state.PeerState))
}
