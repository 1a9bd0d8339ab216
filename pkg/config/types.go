// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"slices"
	"time"
)

// Config is a checked configuration. Every value in it is usable as it is:
// names are resolved, timings that must stand in a relation do.
type Config struct {
	Path    string
	Cluster string
	// Hold (hold: manual): a node that comes back is in standby if another one serves. HoldUntilSynced:
	// and no longer than until its mirrors have brought its data back.
	Hold            bool
	HoldUntilSynced bool `json:",omitzero"` // files without it keep their digest
	// ClusterID is the cluster's name as carried by every frame.
	ClusterID uint32
	// Keys are the cluster's secrets, the signing one first; one or two.
	Keys []Key
	// Nodes are two to MaxNodes, in the order of their names; Self indexes this one.
	Nodes      []Node
	Self       int
	Timing     Timing
	Arbiter    Arbiter
	Identities []Identity // in the order of their names
	Services   []Service  // in the order of their names
	Mirrors    []Mirror   `json:",omitempty"` // in the order of their names
	Hooks      Hooks
	Metrics    Metrics
	// Digest names what all nodes must agree on (all but Path, Self, Hooks, Metrics and the keys).
	Digest uint32
}

// Key is what is derived from one line of the secret file: a SipHash-2-4 key for the heartbeats, and
// the key that those of the connections between the daemons are derived from.
type Key struct {
	K0, K1 uint64
	ID     uint8 // tells the receiver which key signed
	Line   [32]byte
}

// Many reports a cluster of more than two nodes. A pair needs no etcd, and has rules of its own.
func (c *Config) Many() bool { return len(c.Nodes) > 2 }

// Others are the indexes of all nodes but this one, in their order.
func (c *Config) Others() (others []int) {
	for i := range c.Nodes {
		if i != c.Self {
			others = append(others, i)
		}
	}
	return others
}

// StandIns are the names of who takes an identity when its home cannot, in this order.
func (c *Config) StandIns(id *Identity) (names []string) {
	for _, node := range id.Prefer[min(1, len(id.Prefer)):] {
		names = append(names, c.Nodes[node].Name)
	}
	return names
}

// Peer is the index of the other node of a pair.
func (c *Config) Peer() int { return c.Others()[0] }

// Node is one of the servers.
type Node struct {
	Name                  string
	Lan, Crossover, Spare string // interface names; Spare may be empty
	LanAddr, CrossAddr    netip.Prefix
}

// Timing holds the derived timings too: nothing else computes them.
type Timing struct {
	Profile         string
	Probe           time.Duration
	DeadAfter       time.Duration
	SuspectAfter    time.Duration // silence that starts the confirming burst
	ConfirmProbes   int           // own probes that must be unanswered before DEAD
	SupervisorLease time.Duration
	BootHold        time.Duration // silence since the start after which a peer never heard is dead
	SoloKeep        bool          // solo_without_supervisor: keep; never with more than two nodes
	// ServeFor is the right to serve, L: how long after a frame that the peer counts as life, or
	// a question that a majority of the listed hosts answered, the gates stay open.
	ServeFor time.Duration
	Linger   time.Duration // ε: how long a frame may stay under way behind the gate
	Pacer    string        // kernel | thread | auto
	// SupervisorLost is the silence of the peer's daemon after which it counts as lost.
	SupervisorLost time.Duration
	DemandIfLost   bool // peer_supervisor_lost: takeover
	// EndServices is after how long without the right to serve a node's guard ends what must run once.
	EndServices time.Duration `json:",omitzero"`
	// AwaitServices (await_services): see Config.AwaitServices; 0: as it is derived.
	AwaitServices time.Duration `json:",omitzero"`
	// UpDelay is how long an identity's regular NIC must be well before it is carried there again.
	UpDelay time.Duration `json:",omitzero"`
}

// agreed is without what the file leaves out since there is such a setting: nodes of two versions agree.
func (t Timing) agreed() Timing {
	if t.EndServices == defaultEndServices {
		t.EndServices = 0
	}
	if t.AwaitServices == defaultAwaitServices {
		t.AwaitServices = 0
	}
	if t.UpDelay == defaultUpDelay {
		t.UpDelay = 0
	}
	return t
}

// Arbiter is what decides while the peer is silent.
type Arbiter struct {
	None  bool
	Reach []netip.Addr // IPv4 hosts; the majority is len/2+1
	Fence *Fence       `json:",omitempty"` // nil: nobody is switched off
	Etcd  *Etcd        `json:",omitempty"` // nil: it is not asked
}

// Kind names it.
func (a Arbiter) Kind() string {
	switch {
	case a.None:
		return "none"
	case a.Etcd != nil:
		return "etcd"
	case a.Fence == nil:
		return "reach"
	case len(a.Reach) == 0:
		return "fence"
	}
	return "reach+fence"
}

// AsksForRight reports whether a node that is cut off stops to serve: it needs the peer's or the
// arbiter's word. With a fence agent alone it keeps what it has, until it is switched off.
func (a Arbiter) AsksForRight() bool { return len(a.Reach) > 0 || a.Etcd != nil }

// MutualKill reports whether two nodes that live and do not hear each other may switch each other
// off: they begin in the same instant, and no majority tells them apart.
func (a Arbiter) MutualKill() bool {
	return a.Fence != nil && a.Fence.Nodes[0].Delay == a.Fence.Nodes[1].Delay
}

// Identity is what moves.
type Identity struct {
	Name string
	Home int // index into Config.Nodes
	// Prefer are the candidates, who alone ever own it: indexes into Config.Nodes, home first, then
	// who takes it when those before cannot. At least two.
	Prefer        []int `json:",omitempty"`
	MAC           [6]byte
	Addresses     []AddressRange
	StagingAhead  bool
	Services      []string
	Mirror        []string
	NoTickle      bool   `json:",omitempty"` // clients are not told that their connections are gone
	Failback      string // never | manual | auto
	FailbackAfter time.Duration
}

// Has reports whether an address is the identity's.
func (i Identity) Has(a netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(r AddressRange) bool { return r.Contains(a) })
}

// Candidate reports whether a node may ever own the identity.
func (i Identity) Candidate(node int) bool { return slices.Contains(i.Prefer, node) }

// AddressRange is first..last inside one prefix length, both included.
type AddressRange struct {
	First, Last netip.Addr
	Bits        int
}

// Hooks are commands told of events, JSON on stdin.
type Hooks struct{ Events string }

// Metrics says where Prometheus scrapes; empty Listen means nowhere.
type Metrics struct{ Listen string }
