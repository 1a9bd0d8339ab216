// SPDX-License-Identifier: Apache-2.0

package core

// Snapshot is the machine's state for status; it shares nothing with the machine.
type Snapshot struct {
	Peer             PeerState
	PeerBoot         uint64
	PeerSupervisorOK bool
	PeerStandby      bool
	PeerFrozen       bool
	Standby, Frozen  bool
	Leaving          bool
	Isolated         bool
	Identities       []IdentitySnapshot
	FailedConcurrent []string
}

// IdentitySnapshot is one identity's state.
type IdentitySnapshot struct {
	Name      string
	Home      int
	Owner     int // node index, -1 if nobody is known to own it
	Word      Word
	PeerWord  Word
	Role      string // unknown | standby | armed | owner | yielding | released
	Handover  string // phase of a hand-over from this node, or ""
	Addresses string // unknown | off | adding | on | removing
	Services  string // unknown | stopped | starting | running | stopping
	Failed    []string
	// FailbackAt is when an automatic give-back begins, 0 if none is due.
	FailbackAt int64
	LastCause  string // kind of the last change of owner on this node
}
