// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strconv"
	"strings"
)

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

	toShift      = 51
	toMask  Word = 31 << toShift // with Yield: who is meant, a node number + 1; 0: nobody in particular
	genMask Word = 1<<48 - 1
)

// Gen returns the generation.
func (w Word) Gen() uint64 { return uint64(w & genMask) }

// To returns the number of the node that a word that yields is meant for, if it names one.
func (w Word) To() (node int, ok bool) {
	n := int(w & toMask >> toShift)
	return n - 1, n != 0
}

// ToNode returns the flag that names a node as the one who is meant.
func ToNode(node int) Word { return Word(node+1) << toShift & toMask }

// Has reports whether all flags in f are set.
func (w Word) Has(f Word) bool { return w&f == f }

// Flags returns the word without its generation.
func (w Word) Flags() Word { return w &^ genMask }

// MakeWord joins flags and a generation.
func MakeWord(flags Word, gen uint64) Word { return flags&^genMask | Word(gen)&genMask }

func (w Word) String() string {
	return strings.Join(append(w.names(strconv.Itoa), fmt.Sprintf("gen %d", w.Gen())), " ")
}

// names are those of its flags; node names a node.
func (w Word) names(node func(int) string) (names []string) {
	for _, f := range []struct {
		b Word
		n string
	}{{Owner, "owner"}, {Yield, "yield"}, {Ready, "ready"}, {Want, "want"}, {Staged, "staged"}, {Demand, "demand"}} {
		if w.Has(f.b) {
			names = append(names, f.n)
		}
	}
	if to, ok := w.To(); ok {
		names = append(names, "to:"+node(to))
	}
	return names
}

// PeerState is the kernel detector's state of a peer.
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
