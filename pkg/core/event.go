// SPDX-License-Identifier: Apache-2.0

package core

// Event is an input of the machine.
type Event interface{ event() }

// Started is the first event: the shell is ready to carry out actions.
type Started struct{}

// Observed is what the kernel's maps say. The shell reads them at every
// ring-buffer hint, after each swap and every 100 ms. What is of identities is in
// the order of Config.Identities.
type Observed struct {
	// At is when the reading began. A reading older than the last swap's result is
	// ignored for that identity. 0: read in order with the swaps.
	At       int64
	Local    []Word
	MyLan    LanView
	Peers    []PeerView // by node number; this node's own is zero
	Isolated bool       // the arbiter says that this node is cut off
	// Granted: this node may serve the identity by the word of all other nodes that may own it (in
	// a pair, of the peer or of listed hosts, and the same for all identities).
	Granted []bool
	Keys    []Key // in etcd
	// Unsynced: this node's copy of the identity's data is not whole, or another node is known to
	// have a newer one.
	Unsynced []bool
	// Unasked: it is so only because the other node, which is heard, has not answered yet whether it has a newer one.
	Unasked []bool `json:",omitempty"`
	Fenced  bool   // the kernel knows that the dead peer is off; in a pair
	// Barred: with the peer dead the kernel would take nothing, off or not: this node's right to
	// serve has run out, or the peer's configuration was another one. In a pair.
	Barred bool
}

func (o Observed) granted(identity int) bool {
	return identity < len(o.Granted) && o.Granted[identity]
}

func (o Observed) unsynced(identity int) bool {
	return identity < len(o.Unsynced) && o.Unsynced[identity]
}

func (o Observed) unasked(identity int) bool {
	return identity < len(o.Unasked) && o.Unasked[identity]
}

// PeerView is what is known of another node, most of it as its last frame said.
type PeerView struct {
	State        PeerState
	Boot         uint64
	SupervisorOK bool
	Standby      bool
	Frozen       bool
	Lan          LanView
	Words        []Word
	// Runs: services of the identity that must run once may run there, whoever owns it.
	Runs []bool `json:",omitempty"`
}

// word is its word of an identity.
func (v PeerView) word(identity int) Word {
	if identity < len(v.Words) {
		return v.Words[identity]
	}
	return 0
}

// Key is what is known of an identity's key in etcd.
type Key struct {
	Held   uint64 // the generation at which this node holds it; 0: it does not
	Stored uint64 // the highest one at which anybody ever did, as far as known
	// Elsewhere: another node holds it, by etcd's last answer.
	Elsewhere bool
}

// LanView is one node's sight of the clients' network.
type LanView struct{ Lan, Spare NIC }

// nics are its NICs, by the numbers of Machine.nics.
func (v LanView) nics() [2]NIC { return [...]NIC{nicLan: v.Lan, nicSpare: v.Spare} }

// NIC is the health of one carrier.
type NIC struct {
	Present  bool
	Carrier  bool
	Reach    int // listed hosts that answer on it
	Majority int // how many must; 0 if none are listed, then the carrier decides
}

// Healthy reports whether clients can be served through the NIC.
func (n NIC) Healthy() bool {
	return n.Present && n.Carrier && (n.Majority == 0 || n.Reach >= n.Majority)
}

// worth orders NICs by the clients that they may reach. How many hosts answer says no more than that:
// a majority of them may be on a switch that is gone for everybody.
func (n NIC) worth() int {
	switch {
	case n.Healthy():
		return 2
	case n.Present && n.Carrier && n.Reach > 0:
		return 1
	}
	return 0
}

// Tick lets timers run out; every 100 ms or earlier.
type Tick struct{}

// Done is the success of an action with that Op (all but Swap).
type Done struct{ Op uint64 }

// Failed is the failure of an action with that Op (all but Swap).
type Failed struct {
	Op  uint64
	Err string
	// Refused: of a StartServices, that this node was not permitted to, which says nothing of them.
	Refused bool `json:",omitzero"`
}

// Swapped is the result of a Swap: the word found if it failed, else the new one.
type Swapped struct {
	Op       uint64
	Identity int
	OK       bool
	Current  Word
}

// LinkChanged is the loss or return of a link to a peer.
type LinkChanged struct {
	Peer int
	Link string
	Up   bool
}

// ServiceState is a service's health after restarts in place: Failed means that
// they are used up. Identity is -1 for a concurrent service. Expired: it is not up,
// but that it failed was so long ago that it may be tried here again.
type ServiceState struct {
	Identity int
	Service  string
	Healthy  bool
	Expired  bool
	Err      string
}

// ServicesEnded tells that an identity's services do not run, past this machine: the guard has ended
// them, or, Refused, one that had ended by itself was not let start again.
type ServicesEnded struct {
	Identity int
	Refused  bool `json:",omitzero"`
}

// CmdMove hands an identity over. To is a node's number, or -1 in a pair for the node that
// does not own it. With Force, a service that does not stop does not hold it up.
type CmdMove struct {
	Op       uint64
	Identity int
	To       int
	Force    bool
}

// CmdGiveback brings every identity that is away from home back to it.
type CmdGiveback struct{ Op uint64 }

// CmdStandby evacuates and holds this node, or ends that.
type CmdStandby struct {
	Op uint64
	On bool
}

// CmdFreeze stops all automatic action, or ends that.
type CmdFreeze struct {
	Op uint64
	On bool
}

// CmdLeave hands everything over; Left follows.
type CmdLeave struct{ Op uint64 }

func (Started) event()       {}
func (Observed) event()      {}
func (Tick) event()          {}
func (Done) event()          {}
func (Failed) event()        {}
func (Swapped) event()       {}
func (LinkChanged) event()   {}
func (ServiceState) event()  {}
func (ServicesEnded) event() {}
func (CmdMove) event()       {}
func (CmdGiveback) event()   {}
func (CmdStandby) event()    {}
func (CmdFreeze) event()     {}
func (CmdLeave) event()      {}
