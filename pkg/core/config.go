// SPDX-License-Identifier: Apache-2.0

package core

import "slices"

// Config is what the machine needs of the configuration.
type Config struct {
	Self       int      // this node's number, which is its place in Nodes
	Nodes      []string // two are a pair, more are many: see the package comment
	Identities []IdentityConfig
	Concurrent []string // services that run on all nodes
	// Vital are those of them without which a node shall own nothing, as long as another one is well.
	Vital []string
	// DemandIfLost: what a peer owns whose supervisor is lost is demanded of its kernel.
	DemandIfLost bool
	// Hold keeps this node, whose kernel's words are new, in standby if a peer serves when it is
	// heard for the first time.
	Hold        bool
	UntilSynced bool  // a hold ends by itself when what was served meanwhile is back
	Etcd        bool  // what no peer's word covers needs its key in etcd; many need it
	Fence       bool  // a dead peer is switched off before anything of it is taken; in a pair
	FenceDelay  int64 // ns that this node waits before it does so
	// EndAfter is after how long without the right to serve an owner stops its services, in ns; 0:
	// it goes on.
	EndAfter int64 `json:",omitzero"`
	Limits   Limits
}

// IdentityConfig is one identity.
type IdentityConfig struct {
	Name string
	Home int
	// Prefer are the nodes that may own it, in order of preference, home first. Empty: all.
	Prefer        []int
	Failback      string // never | manual | auto
	FailbackAfter int64  // ns of an up and armed home node before auto gives it back
	StagingAhead  bool
	Exclusive     []string // services in the order of their start
	// AfterSilence is for how long a silent node may still run them, in ns, counted from its death.
	AfterSilence int64 `json:",omitzero"`
	Mirrored     bool  // it has data that is copied from its owner to the others
	Aside        bool  // this node's daemon found it on the other NIC than its regular one
	Runs         bool  `json:",omitzero"` // services that an earlier daemon has started here may run
	// Floor is the highest generation that this node may have owned before its kernel's words
	// began, which is when it booted: what was promised on the disk then.
	Floor uint64
}

// Limits bound everything that the machine waits for, in ns. A zero means the default.
type Limits struct {
	Stage     int64 // the peer's preparation in a hand-over (5 s)
	Release   int64 // from the release to the peer's taking it (2 s)
	Swap      int64 // a kernel compare-and-swap (1 s)
	Address   int64 // adding or removing addresses (10 s)
	Service   int64 // starting or stopping an identity's services (5 min)
	Persist   int64 // a synced write (10 s)
	LanStable int64 // reach below the majority before it counts (200 ms)
	LanBack   int64 // how long an owner's regular NIC must be well before the identity goes back there (10 s)
	MoveEvery int64 // least time between automatic moves of an identity (10 s)
	Fence     int64 // switching the peer off (10 min)
	Copy      int64 // copying an identity's data while its services run (24 h)
	LastCopy  int64 // and what has changed since, while they are stopped (10 min)
	// PeerServices: a peer that is heard, and says that services run there that shall start here (10 s)
	PeerServices int64 `json:",omitzero"`
}

// many reports that there are more than two nodes.
func (c Config) many() bool { return len(c.Nodes) > 2 }

// complete is the configuration with what it does not say.
func (c Config) complete() Config {
	c.Limits = c.Limits.withDefaults()
	c.Identities = slices.Clone(c.Identities)
	for i := range c.Identities {
		id := &c.Identities[i]
		if len(id.Prefer) > 0 {
			continue
		}
		id.Prefer = []int{id.Home}
		for n := range c.Nodes {
			if n != id.Home {
				id.Prefer = append(id.Prefer, n)
			}
		}
	}
	return c
}

func (l Limits) withDefaults() Limits {
	const ms, s = 1_000_000, 1_000_000_000
	for _, d := range []struct {
		v *int64
		d int64
	}{
		{&l.Stage, 5 * s}, {&l.Release, 2 * s}, {&l.Swap, 1 * s}, {&l.Address, 10 * s},
		{&l.Service, 300 * s}, {&l.Persist, 10 * s}, {&l.LanStable, 200 * ms}, {&l.LanBack, 10 * s}, {&l.MoveEvery, 10 * s},
		{&l.Fence, 600 * s}, {&l.Copy, 86400 * s}, {&l.LastCopy, 600 * s}, {&l.PeerServices, 10 * s},
	} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	return l
}

// Saved is what survives a reboot.
type Saved struct {
	// Generations are promises by identity name: this node owns nothing at a higher one.
	Generations     map[string]uint64
	Standby, Frozen bool
	Held            bool // the standby ends when the data is back
}
