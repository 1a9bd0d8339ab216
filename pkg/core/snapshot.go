// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"slices"
)

// Snapshot is the machine's state for status; it shares nothing with the machine.
type Snapshot struct {
	Peers            []PeerView // by node number; this node's own is zero
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
	Owner     int // a node's number, -1 if none is known to own it
	Heir      int // who would take it from there, -1 if nobody could
	Word      Word
	Role      string // unknown | standby | armed | owner | yielding | released
	Handover  string // phase of a hand-over from this node, or ""
	Carrier   string // this node's NIC for it: lan | spare
	Addresses string // unknown | off | adding | on | removing
	Services  string // unknown | stopped | waiting | starting | running | stopping
	Failed    []string
	// FailbackAt is when an automatic give-back begins, 0 if none is due.
	FailbackAt int64
	LastCause  string // kind of the last change of owner on this node
}

var (
	addrNames = [...]string{"unknown", "off", "adding", "on", "removing"}
	svcNames  = [...]string{"unknown", "stopped", "starting", "running", "stopping"}
)

// Snapshot returns the machine's state for status.
func (m *Machine) Snapshot() Snapshot {
	s := Snapshot{
		Peers:   m.obs.clone().Peers,
		Standby: m.durable.Standby || m.held, Frozen: m.durable.Frozen, Leaving: m.leaving, Isolated: m.obs.Isolated,
		FailedConcurrent: slices.Sorted(maps.Keys(m.failed)),
	}
	for _, id := range m.ids {
		owner := -1
		switch {
		case id.word.Has(Owner):
			owner = m.cfg.Self
		case m.peerOwns(id):
			owner = id.peer
		}
		s.Identities = append(s.Identities, IdentitySnapshot{
			Name: id.cfg.Name, Home: id.cfg.Home, Owner: owner, Heir: m.heir(id), Word: id.word,
			Role: id.role.String(), Handover: id.ho.phase.String(),
			Carrier: nicNames[m.carrierOf(id)], Addresses: addrNames[id.addr.state], Services: id.services(),
			Failed: slices.Sorted(maps.Keys(id.failed)), FailbackAt: m.failbackAt(id), LastCause: id.cause,
		})
	}
	return s
}

// services is where they are; waiting ones are stopped, and would start if another node had ended them.
func (id *identity) services() string {
	if w := id.wait; id.svc.state == actOff && id.word.Has(Owner) && w.gen == id.word.Gen() && w.told != waitNone && !w.over {
		return "waiting"
	}
	return svcNames[id.svc.state]
}
