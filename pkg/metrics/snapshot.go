// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/xdpha/xdpha/pkg/control"
)

// Source gives the values of one scrape.
type Source interface{ Snapshot() Snapshot }

// Snapshot is what a scrape reports. Counters count from Since on and never go
// back while Since stays.
type Snapshot struct {
	Since               time.Time // when the counters began; zero: unknown
	Peers               []Peer
	Frames              []Frames
	Identities          []Identity
	Services            []Service
	Mirrors             []Mirror
	Ages                []Age
	SelfStalls          uint64
	PeerServices        map[string]bool   // by identity that a peer owns; empty unless it is heard
	RightToServeNS      *int64            // what is left of it; nil with arbiter none
	Etcd                *Etcd             // nil without it
	Fences              map[string]uint64 // by result; nil without a fence agent
	Troubles            map[string]bool   // every kind: whether it is there
	PacerGapMaxNS       uint64
	LeaseRemainingMinNS int64 // negative: it had run out
	Build               Build
}

// Peer is another node as this one sees it.
type Peer struct {
	Name            string
	State           string // a control.Peer's State, or control.PeerSuspect
	Suspects        uint64
	SuspectsRefuted uint64
	Reverted        uint64            // deaths taken back
	Silence         control.Histogram // on all links at once
	Links           []Link
}

// Link is one link's round trips and the gaps between frames from a peer.
type Link struct {
	Name     string
	Up       bool // the peer is heard on it
	RTT, Gap control.Histogram
}

// Frames is one of the kernel's counters.
type Frames struct {
	Link, Kind, Verdict, Reason string
	Count                       uint64
}

// Identity is one identity on this node.
type Identity struct {
	Name       string
	Owner      bool // this node owns it
	GateOpen   bool
	Generation uint64
	Conflicts  uint64
	Repairs    map[string]uint64 // by what was put back
	Carrier    string            // the link whose NIC carries it
	Tickle     *Tickle           // nil: clients are not told of a takeover
}

// Tickle is how many connections are known whose clients a new owner tells of a takeover, and how many it has told.
type Tickle struct {
	Known int
	Sent  uint64
}

// Service is one service on this node.
type Service struct {
	Name     string
	Up       bool
	Restarts uint64
}

// Mirror is one mirror set.
type Mirror struct {
	Set          string
	LagSeconds   float64 // below zero: there is no complete copy since the daemon's start
	Good, Failed uint64  // runs
	SentBytes    uint64
}

// Age is the time since a node's supervisor gave a sign of life.
type Age struct {
	Node string
	NS   int64
}

// Build names the program.
type Build struct{ Version, Revision, GoVersion string }

// Etcd is how the arbiter etcd fares.
type Etcd struct {
	Reached bool
	Held    map[string]bool // by identity: this node holds its key
}
