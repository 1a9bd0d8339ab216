// SPDX-License-Identifier: Apache-2.0

package core

import "fmt"

// Word is an identity's ownership word as the kernel holds it and as frames
// carry it: flags in the high bits, the generation below. It changes by
// compare-and-swap only.
type Word uint64

// The flags of a Word.
const (
	Owner  Word = 1 << 63 // this node's gate may open
	Yield  Word = 1 << 62 // with Owner: wants the peer to take it; alone: released to the peer
	Ready  Word = 1 << 61 // not owner: armed, the kernel may take it at the next generation of this node's
	Want   Word = 1 << 60 // not owner: asks the owner for a hand-over
	Staged Word = 1 << 59 // not owner: addresses are in place behind the closed gate
	Demand Word = 1 << 58 // not owner, with Ready: asks the owner's kernel to release it at once

	genMask Word = 1<<56 - 1
)

// Gen returns the generation.
func (w Word) Gen() uint64 { return uint64(w & genMask) }

// Has reports whether all flags in f are set.
func (w Word) Has(f Word) bool { return w&f == f }

// Flags returns the word without its generation.
func (w Word) Flags() Word { return w &^ genMask }

// MakeWord joins flags and a generation.
func MakeWord(flags Word, gen uint64) Word { return flags&^genMask | Word(gen)&genMask }

func (w Word) String() string {
	s := ""
	for _, f := range []struct {
		b Word
		n string
	}{{Owner, "owner"}, {Yield, "yield"}, {Ready, "ready"}, {Want, "want"}, {Staged, "staged"}, {Demand, "demand"}} {
		if w.Has(f.b) {
			s += f.n + " "
		}
	}
	return fmt.Sprintf("%sgen %d", s, w.Gen())
}

// PeerState is the kernel detector's state of the peer.
type PeerState uint32

// The states, as numbered in bpf/abi.h.
const (
	PeerUnknown PeerState = iota // never heard since this start
	PeerUp
	PeerSuspect
	PeerDead
)

func (s PeerState) String() string {
	if int(s) < len(peerStateNames) {
		return peerStateNames[s]
	}
	return fmt.Sprintf("state %d", uint32(s))
}

var peerStateNames = [...]string{"unknown", "up", "suspect", "dead"}
