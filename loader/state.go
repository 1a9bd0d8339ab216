// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"math"
	"slices"
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
func (d *memory) Word(identity int) core.Word {
	return core.Word(atomic.LoadUint64(&d.words[identity]))
}

// Floor is the highest generation of an identity that this node may have owned before it booted.
func (d *Datapath) Floor(identity int) uint64 { return d.control.Floor[identity] }

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

// SetFenced tells the kernel that a fence agent which was asked at that time found the peer off.
// It holds for the death that was declared before, until a frame comes.
func (d *Datapath) SetFenced(at int64) { atomic.StoreUint64(&d.control.FencedNs, uint64(at)) }

// SetLeave tells the kernel until when an identity's key in etcd is surely held, and at which
// generation; 0: it is not. One at a time.
func (d *Datapath) SetLeave(identity int, generation uint64, until int64) {
	if d.control.LeaveGen[identity] != generation {
		atomic.StoreUint64(&d.control.LeaveNs[identity], 0)
		atomic.StoreUint64(&d.control.LeaveGen[identity], generation)
	}
	atomic.StoreUint64(&d.control.LeaveNs[identity], uint64(until))
}

// LeaseUntil is when the supervisor's lease ends.
func (d *Datapath) LeaseUntil() int64 { return int64(atomic.LoadUint64(&d.control.LeaseUntilNs)) }

// Flags is what a frame says of its sender's node.
type Flags struct {
	Standby, Frozen bool
	Solo            bool       // serves by the arbiter's leave; the kernel's to say
	Part            bool       // Services is the digest of a part of the configuration, for a peer that has another one
	TwoKeys         bool       // accepts a second key; the kernel's to say
	Reach           [Links]int // listed hosts that answer, by NIC; crossover unused
	Carrier         [Links]bool
	Services        uint16 // a bit for each identity whose services are up there
}

// Bits of the flags, as in bpf/abi.h.
const (
	flagStandby = 1 << iota
	flagFrozen
	flagSolo
	flagPart
	flagTwoKeys    = 1 << 14
	reachLanAt     = 4
	reachSpareAt   = 8
	carrierLanAt   = 12
	carrierSpareAt = 13
	servicesAt     = 16
)

func (f Flags) word() uint64 {
	v := uint64(b2u(f.Standby))*flagStandby | uint64(b2u(f.Frozen))*flagFrozen
	v |= uint64(b2u(f.Part)) * flagPart
	v |= uint64(f.Reach[Lan]&0xf)<<reachLanAt | uint64(f.Reach[Spare]&0xf)<<reachSpareAt
	v |= uint64(b2u(f.Carrier[Lan]))<<carrierLanAt | uint64(b2u(f.Carrier[Spare]))<<carrierSpareAt
	return v | uint64(f.Services)<<servicesAt
}

func parseFlags(v uint64) (f Flags) {
	f.Standby, f.Frozen, f.Solo = v&flagStandby != 0, v&flagFrozen != 0, v&flagSolo != 0
	f.Part, f.TwoKeys = v&flagPart != 0, v&flagTwoKeys != 0
	f.Reach[Lan], f.Reach[Spare] = int(v>>reachLanAt&0xf), int(v>>reachSpareAt&0xf)
	f.Carrier[Lan], f.Carrier[Spare] = v>>carrierLanAt&1 != 0, v>>carrierSpareAt&1 != 0
	f.Services = uint16(v >> servicesAt)
	return f
}

// SetFlags sets what the next frames say.
func (d *Datapath) SetFlags(f Flags) { atomic.StoreUint64(&d.control.Flags, f.word()) }

// State is a reading of the kernel's state. Its fields are read one by one: each
// is whole, all together are not one instant.
type State struct {
	AtNS           int64 // when the reading began
	BootID         uint64
	Peers          []Peer // by node; this node's own is empty
	Words          []core.Word
	Seq            uint64
	TickGapMaxNS   uint64
	ReachNS        [MaxReach][Links]int64
	TokenNS        int64   // when the pacer's token came by last
	ServeUntilNS   int64   // a pair's right to serve, the same for all identities
	GrantedUntilNS []int64 // by identity: until when it may be served without its key; 0: not since it came here
	ServeNeeded    bool    // false: what is owned is kept, whatever the network does
	FencedNS       int64   // see SetFenced; 0: never
	LeaveNS        []int64 // see SetLeave, by identity
	Isolated       bool
	StrangerNS     int64                 // last frame on the crossover of another version or secret
	StrangerSays   uint8                 // its version
	Conflicts      [MaxIdentities]uint64 // claims of others
	SelfStalls     uint64
	LeaseUntilNS   int64
	SupervisorAtNS int64
}

// Peer is what the kernel knows of another node.
type Peer struct {
	State     core.PeerState
	SinceNS   int64
	Boot      uint64
	Age       time.Duration // of its supervisor, as it said
	AgeAtNS   int64         // when it said so
	Flags     Flags
	Digest    uint32
	Key       uint8 // the number of the key that it signs with
	Words     []core.Word
	Runs      []bool // by identity: services that must run once may run there
	HeardNS   int64  // last accepted frame on any path
	KnockedNS int64  // last frame of somebody with the key, in its name, who is not proven yet
	Suspects  uint64
	Refuted   uint64
	Reverted  uint64
	Silence   Histogram // on all paths at once
	Links     [Links]LinkState
	Cross     [Crosses]LinkState // without gaps: they are silent as a rule
}

// Histogram counts by powers of two of ns.
type Histogram struct {
	Buckets [32]uint64
	MaxNS   uint64
}

// Timeline is the last change of owner of one identity to this node, on CLOCK_BOOTTIME; 0: not
// yet, or no death went before it.
type Timeline struct {
	Word                                  core.Word
	EvidenceNS, SuspectNS, DeadNS, FlipNS int64
	AnnouncedNS                           int64 // the kernel's first announcement
	AnsweredNS                            int64 // the first ARP or ND question answered
	InNS, OutNS                           int64 // the first packet through the open gate
}

// Timeline reads an identity's.
func (d *Datapath) Timeline(identity int) Timeline {
	p := &d.timelines[identity]
	l := func(v *uint64) int64 { return int64(atomic.LoadUint64(v)) }
	return Timeline{
		Word: core.Word(atomic.LoadUint64(&p.Word)), EvidenceNS: l(&p.EvidenceNs), SuspectNS: l(&p.SuspectNs), DeadNS: l(&p.DeadNs),
		FlipNS: l(&p.FlipNs), AnnouncedNS: l(&p.AnnouncedNs), AnsweredNS: l(&p.AnsweredNs), InNS: l(&p.InNs), OutNS: l(&p.OutNs),
	}
}

// Minute is the longest silences of one minute of CLOCK_BOOTTIME.
type Minute struct {
	Minute  int64
	Gap     [Links]time.Duration
	Silence time.Duration // on all paths at once
	Stall   time.Duration // the detector's own lateness
}

// Minutes reads what is kept of the last hour, oldest first; minutes in which nothing was heard
// are missing.
func (d *Datapath) Minutes() (list []Minute) {
	first := Now()/int64(time.Minute) - int64(len(d.state.Minutes)) + 1
	for i := range d.state.Minutes {
		k := &d.state.Minutes[i]
		u := func(v *uint64) time.Duration { return time.Duration(atomic.LoadUint64(v)) }
		m := Minute{Minute: int64(atomic.LoadUint64(&k.Minute)), Silence: u(&k.GapNs[Links]), Stall: u(&k.StallNs)}
		for link := range Links {
			m.Gap[link] = u(&k.GapNs[link])
		}
		if m.Minute > 0 && m.Minute >= first {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b Minute) int { return cmp.Compare(a.Minute, b.Minute) })
	return list
}

// Pace says who paces the probes.
type Pace uint32

// As numbered in bpf/abi.h.
const (
	PaceThread = Pace(bpf.XdphaXdPacePACE_THREAD) // user space sends a pulse for each
	PaceTBF    = Pace(bpf.XdphaXdPacePACE_TBF)    // a token goes round, held back by tbf
	PaceFQ     = Pace(bpf.XdphaXdPacePACE_FQ)     // the same by fq
)

// TokenBytes is the length of the pacer's token, and TokenMark the last byte of its destination;
// UrgentMark is that of a pulse which does not wait for its turn.
const (
	TokenBytes = 42 + 72 + 8*MaxIdentities + 8
	TokenMark  = 0x70
	UrgentMark = 0x71
)

// SetPace says how the token is held back, for how long, and where it is sent round.
func (d *Datapath) SetPace(p Pace, ring int, lap time.Duration) {
	// A token that comes by meanwhile ends: half of both would send it round without a delay.
	atomic.StoreUint32((*uint32)(&d.control.Pace), uint32(PaceThread))
	atomic.StoreUint64(&d.control.LapNs, uint64(lap))
	atomic.StoreUint32(&d.control.RingIfindex, uint32(ring))
	atomic.StoreUint32((*uint32)(&d.control.Pace), uint32(p))
}

// TokenNS is when the pacer's token came by last; 0: never.
func (d *Datapath) TokenNS() int64 { return int64(atomic.LoadUint64(&d.state.TokenNs)) }

// LinkState is what the kernel knows of one link, or cross path, to a peer.
type LinkState struct {
	HeardNS                   int64
	ProbesAnswered            uint64 // highest own probe that was answered
	RTTNS, RTTMaxNS, GapMaxNS uint64
	RTT, Gap                  [32]uint64 // by powers of two of ns
}

// State reads the kernel's state for the first n identities.
func (d *Datapath) State(n int) State {
	p := d.state
	l := func(v *uint64) int64 { return int64(atomic.LoadUint64(v)) }
	u := atomic.LoadUint64
	s := State{
		AtNS: Now(), BootID: u(&p.BootId), Peers: make([]Peer, d.cfg.N_nodes), Seq: u(&p.Seq), TickGapMaxNS: u(&p.TickGapMaxNs),
		Isolated: u(&p.IsolatedSinceNs) != 0, TokenNS: l(&p.TokenNs), ServeUntilNS: l(&p.ServeUntilNs), ServeNeeded: d.cfg.ServeNs > 0,
		StrangerNS: l(&p.StrangerNs), StrangerSays: uint8(u(&p.StrangerVersion)), FencedNS: l(&d.control.FencedNs),
		SelfStalls: u(&p.SelfStalls), LeaseUntilNS: d.LeaseUntil(), SupervisorAtNS: l(&d.control.RenewedNs),
	}
	for i := range n { // before the peers: what was taken from a dead one is not seen before its death
		s.Words = append(s.Words, d.Word(i))
		s.GrantedUntilNS = append(s.GrantedUntilNS, d.grantedUntil(i))
		s.LeaveNS = append(s.LeaveNS, l(&d.control.LeaveNs[i]))
	}
	for node := range s.Peers {
		if node != int(d.cfg.Self) {
			s.Peers[node] = readPeer(&d.peers[node], n, int(d.cfg.Self) < node)
		}
	}
	for i := range s.Conflicts {
		s.Conflicts[i] = u(&p.Conflicts[i])
	}
	for i := range s.ReachNS {
		for j := range s.ReachNS[i] {
			s.ReachNS[i][j] = l(&p.ReachNs[i][j])
		}
	}
	return s
}

// readPeer reads what is known of a peer, with its words for the first n identities. The cross paths
// go by which of the two nodes has the lower number: see bpf/abi.h.
func readPeer(p *bpf.XdphaXdPeer, n int, lower bool) Peer {
	l := func(v *uint64) int64 { return int64(atomic.LoadUint64(v)) }
	u := atomic.LoadUint64
	out := Peer{
		State: core.PeerState(u(&p.State)), SinceNS: l(&p.SinceNs), Boot: u(&p.Boot),
		Age: time.Duration(u(&p.AgeUs)) * time.Microsecond, AgeAtNS: l(&p.AgeAtNs),
		Flags: parseFlags(u(&p.Flags)), Digest: uint32(u(&p.Digest)), Key: uint8(u(&p.Key)),
		HeardNS: l(&p.HeardNs), KnockedNS: l(&p.KnockedNs),
		Suspects: u(&p.Suspects), Refuted: u(&p.Refuted), Reverted: u(&p.Reverted), Silence: Histogram{MaxNS: u(&p.GapMaxNs)},
	}
	for i := range n {
		word := u(&p.Words[i])
		out.Words, out.Runs = append(out.Words, core.Word(word&^wordRuns)), append(out.Runs, word&wordRuns != 0)
	}
	for b := range p.GapHist {
		out.Silence.Buckets[b] = u(&p.GapHist[b])
	}
	for i := range out.Links {
		out.Links[i] = readPath(&p.Paths[i])
	}
	out.Cross[LanToSpare], out.Cross[SpareToLan] = readPath(&p.Paths[pathLowerLan]), readPath(&p.Paths[pathLowerSpare])
	if !lower {
		slices.Reverse(out.Cross[:])
	}
	return out
}

func readPath(p *bpf.XdphaXdPathState) (out LinkState) {
	u := atomic.LoadUint64
	out = LinkState{
		HeardNS: int64(u(&p.HeardNs)), ProbesAnswered: u(&p.ReplySeq),
		RTTNS: u(&p.RttNs), RTTMaxNS: u(&p.RttMaxNs), GapMaxNS: u(&p.GapMaxNs),
	}
	for b := range p.RttHist {
		out.RTT[b], out.Gap[b] = u(&p.RttHist[b]), u(&p.GapHist[b])
	}
	return out
}

// grantedUntil is until when an identity may be served without its key, by the rule of bpf/gate.h:
// of a pair as long as its right lasts; among many as long as every other candidate's grant does,
// for a frame of since it came here.
func (d *memory) grantedUntil(identity int) int64 {
	if d.cfg.N_nodes == 2 {
		return int64(atomic.LoadUint64(&d.state.ServeUntilNs))
	}
	until, taken := int64(math.MaxInt64), int64(atomic.LoadUint64(&d.state.TakenNs[identity]))
	for node := range int(d.cfg.N_nodes) {
		if node == int(d.cfg.Self) || d.cfg.Identities[identity].Candidates>>node&1 == 0 {
			continue
		}
		granted := int64(atomic.LoadUint64(&d.peers[node].GrantedNs))
		if granted == 0 || granted <= taken {
			return 0
		}
		until = min(until, granted+int64(d.cfg.ServeNs))
	}
	return until
}

// Fenced reports whether a peer is known to be off, by the rule of bpf/ownership.h.
func (s *State) Fenced(node int) bool {
	p := &s.Peers[node]
	return p.State == core.PeerDead && s.FencedNS > p.SinceNS && s.FencedNS > p.HeardNS && s.FencedNS > p.KnockedNS
}

// Granted reports whether the other candidates' frames let an identity be served here: of a pair
// the peer's, or the arbiter's leave.
func (s *State) Granted(identity int) bool {
	return !s.ServeNeeded || s.GrantedUntilNS[identity] > s.AtNS
}

// MayServe reports whether an identity may be served here, once it is owned.
func (s *State) MayServe(identity int) bool {
	return s.Granted(identity) || s.LeaveNS[identity] > s.AtNS
}

// GateOpen reports whether an identity's gate is open, by the rule of bpf/gate.h as far as
// a running supervisor meets it.
func (s *State) GateOpen(identity int) (open bool, reason string) {
	switch {
	case !s.Words[identity].Has(core.Owner):
		return false, "not the owner"
	case !s.MayServe(identity):
		return false, "this node is cut off: neither the peer nor the arbiter lets it serve"
	case s.LeaseUntilNS <= s.AtNS:
		return false, "the supervisor's lease ran out"
	}
	return true, ""
}

var _ [bpf.XdphaXdReasonREASON_COUNT]struct{} = [len(reasons)]struct{}{}

// Peer reads one peer's state alone.
func (d *Datapath) Peer(node int) core.PeerState {
	return core.PeerState(atomic.LoadUint64(&d.peers[node].State))
}

// Suspecting reports whether any peer is suspected.
func (d *Datapath) Suspecting() bool {
	for node := range int(d.cfg.N_nodes) {
		if node != int(d.cfg.Self) && d.Peer(node) == core.PeerSuspect {
			return true
		}
	}
	return false
}
