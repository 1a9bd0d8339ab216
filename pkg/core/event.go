// SPDX-License-Identifier: Apache-2.0

package core

// Event is an input of the machine.
type Event interface{ event() }

// Started is the first event: the shell is ready to carry out actions.
type Started struct{}

// Observed is what the kernel's maps say. The shell reads them at every
// ring-buffer hint, after each swap and every 100 ms. Local and PeerWords are in
// the order of Config.Identities.
type Observed struct {
	// At is when the reading began. A reading older than the last swap's result is
	// ignored for that identity. 0: read in order with the swaps.
	At               int64
	Peer             PeerState
	PeerBoot         uint64
	PeerSupervisorOK bool
	PeerStandby      bool
	PeerFrozen       bool
	Local            []Word
	PeerWords        []Word
	MyLan            LanView
	PeerLan          LanView
	Isolated         bool  // the arbiter says that this node is cut off
	Granted          bool  // by the peer, or by listed hosts: this node may serve
	Keys             []Key // in etcd, in the order of Config.Identities
	Fenced           bool  // the kernel knows that the dead peer is off
	// Barred: with the peer dead the kernel would take nothing, off or not: this node's right to
	// serve has run out, or the peer's configuration was another one.
	Barred bool
}

// Key is what is known of an identity's key in etcd.
type Key struct {
	Held   uint64 // the generation at which this node holds it; 0: it does not
	Stored uint64 // the highest one at which anybody ever did, as far as known
}

// LanView is one node's sight of the clients' network.
type LanView struct{ Lan, Spare NIC }

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

// Tick lets timers run out; every 100 ms or earlier.
type Tick struct{}

// Done is the success of an action with that Op (all but Swap).
type Done struct{ Op uint64 }

// Failed is the failure of an action with that Op (all but Swap).
type Failed struct {
	Op  uint64
	Err string
}

// Swapped is the result of a Swap: the word found if it failed, else the new one.
type Swapped struct {
	Op       uint64
	Identity int
	OK       bool
	Current  Word
}

// LinkChanged is a link's loss or return.
type LinkChanged struct {
	Link string
	Up   bool
}

// ServiceState is a service's health after restarts in place: Failed means that
// they are used up. Identity is -1 for a concurrent service.
type ServiceState struct {
	Identity int
	Service  string
	Healthy  bool
	Err      string
}

// CmdMove hands an identity over. To is a node's index, or -1 for the node that
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

func (Started) event()      {}
func (Observed) event()     {}
func (Tick) event()         {}
func (Done) event()         {}
func (Failed) event()       {}
func (Swapped) event()      {}
func (LinkChanged) event()  {}
func (ServiceState) event() {}
func (CmdMove) event()      {}
func (CmdGiveback) event()  {}
func (CmdStandby) event()   {}
func (CmdFreeze) event()    {}
func (CmdLeave) event()     {}
