// SPDX-License-Identifier: Apache-2.0

package core

// Action is an output of the machine. Those with an Op are answered by Done or
// Failed (Swap by Swapped). The shell starts actions in order; those of
// different identities, and addresses and services of one identity, run side by
// side. StopServices cancels a StartServices of the same identity in flight. All
// are idempotent. Op numbers of actions and of commands are apart.
type Action interface{ action() }

// Persist writes Saved and syncs it before Done.
type Persist struct {
	Op    uint64
	Saved Saved
}

// Swap changes an identity's word if it still is Old.
type Swap struct {
	Op       uint64
	Identity int
	Old, New Word
}

// Carry lets this node's spare NIC, or its lan NIC, carry an identity from now on: the gate first, and
// then the device, with the addresses if they are on it.
type Carry struct {
	Op        uint64
	Identity  int
	Spare     bool
	Addresses bool
}

// AddAddresses puts an identity's addresses on its carrier.
type AddAddresses struct {
	Op       uint64
	Identity int
}

// RemoveAddresses takes them off.
type RemoveAddresses struct {
	Op       uint64
	Identity int
}

// StartServices starts an identity's exclusive services in order; Generation is
// their fencing token.
type StartServices struct {
	Op         uint64
	Identity   int
	Generation uint64
}

// StopServices stops them in reverse.
type StopServices struct {
	Op       uint64
	Identity int
}

// StartConcurrent starts the services that run on both nodes.
type StartConcurrent struct{ Op uint64 }

// StopConcurrent stops them.
type StopConcurrent struct{ Op uint64 }

// Copy brings an identity's data to a node, as it is when it is begun; with Last its services are
// stopped, and nothing of it changes any more. The copy that goes on beside it all the time is not
// the machine's to order.
type Copy struct {
	Op       uint64
	Identity int
	To       int // a node's number
	Last     bool
}

// CancelCopy ends a Copy that is in flight; its result is not waited for.
type CancelCopy struct{ Op uint64 }

// Fence switches the peer off, tells the kernel, and then is Done.
type Fence struct{ Op uint64 }

// CancelFence ends a Fence that is in flight; its result is not waited for.
type CancelFence struct{ Op uint64 }

// Win wants an identity's key in etcd at a generation, from now on and until GiveUp. Whether this
// node has it is observed.
type Win struct {
	Identity   int
	Generation uint64
}

// GiveUp wants it no more: the kernel no longer counts on it when this is carried out.
type GiveUp struct{ Identity int }

// Announce tells the network where the identity is.
type Announce struct {
	Identity   int
	Generation uint64
}

// Pulse sends a heartbeat now.
type Pulse struct{}

// SetFlags sets what the frames say of this node.
type SetFlags struct{ Standby, Frozen bool }

// Notify tells the administrator. Identity is -1 if it concerns the node.
type Notify struct {
	Kind     string
	Identity int
	Text     string
}

// Reply answers a command; an empty Err is success.
type Reply struct {
	Op  uint64
	Err string
}

// Left ends the machine's work: the shell may exit.
type Left struct{}

func (Persist) action()         {}
func (Swap) action()            {}
func (Carry) action()           {}
func (AddAddresses) action()    {}
func (RemoveAddresses) action() {}
func (StartServices) action()   {}
func (StopServices) action()    {}
func (StartConcurrent) action() {}
func (StopConcurrent) action()  {}
func (Copy) action()            {}
func (CancelCopy) action()      {}
func (Fence) action()           {}
func (CancelFence) action()     {}
func (Win) action()             {}
func (GiveUp) action()          {}
func (Announce) action()        {}
func (Pulse) action()           {}
func (SetFlags) action()        {}
func (Notify) action()          {}
func (Reply) action()           {}
func (Left) action()            {}

// The kinds of Notify.
const (
	KindPeerUp         = "peer-up"
	KindPeerDead       = "peer-dead"
	KindPeerRestarted  = "peer-restarted"
	KindSupervisorLost = "supervisor-lost"
	KindSupervisorBack = "supervisor-back"
	KindTakeover       = "takeover"         // unplanned
	KindHandoverIn     = "hand-over-in"     // planned, to this node
	KindStandDown      = "stand-down"       // demanded of the peer's kernel
	KindClaim          = "claim"            // nobody owned it
	KindResume         = "resume"           // found owned at the start
	KindReclaim        = "reclaim"          // released or lapsed, and not taken
	KindHandover       = "hand-over"        // begun, by this node
	KindHandoverDone   = "hand-over-done"   // the peer owns it
	KindHandoverFailed = "hand-over-failed" // with the reason
	KindMoveHeld       = "move-held"        // it would move, and stays for a while
	KindLost           = "lost"             // unplanned
	KindDemand         = "demand"           // of the peer's kernel
	KindLapsed         = "lapsed"           // the kernel released it, past this node's supervisor
	KindTwoOwners      = "two-owners"
	KindCarrier        = "carrier"        // the node's other NIC carries it
	KindCarrierFailed  = "carrier-failed" // it could not be put there
	KindAddressFailed  = "address-failed"
	KindServiceFailed  = "service-failed"
	KindServiceBack    = "service-back"
	KindServiceExpired = "service-expired" // its failure no longer counts
	KindPersistFailed  = "persist-failed"
	KindLinkLost       = "link-lost"
	KindLinkBack       = "link-back"
	KindLanLost        = "lan-lost"
	KindLanBack        = "lan-back"
	KindIsolated       = "isolated"
	KindIsolatedEnd    = "isolated-end"
	KindHeld           = "held"       // in standby, for its peer has served meanwhile
	KindHoldEnded      = "hold-ended" // its data is back
	KindUnsynced       = "unsynced"   // taken all the same, as ordered
	KindStandby        = "standby"
	KindFreeze         = "freeze"
	KindUncovered      = "uncovered" // nobody serves it and this node may not
	KindLeaving        = "leaving"
	KindKeyWon         = "key-won"    // in etcd
	KindKeyLost        = "key-lost"   // it expired, or etcd was not reached for too long
	KindSuperseded     = "superseded" // etcd knows a higher generation
	KindFenceBegun     = "fence-begun"
	KindFenced         = "fenced"       // the peer is off
	KindFenceFailed    = "fence-failed" // with the reason
	KindFenceCancelled = "fence-cancelled"
)
