// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/xdpha/xdpha/bpf"
)

// ABI is the version of what kernel and user space share (bpf/abi.h).
const ABI = bpf.XdphaXdAbiXDPHA_ABI

// The links, as numbered in bpf/abi.h.
const (
	Crossover = iota
	Lan
	Spare
	Links
)

// The cross paths, as this node sees them: from its lan NIC to a peer's spare one, and the other way round.
const (
	LanToSpare = iota
	SpareToLan
	Crosses
)

// CrossNames are the cross paths' names, by number.
var CrossNames = [Crosses]string{"lan-spare", "spare-lan"}

// The same as numbered in bpf/abi.h: of the node with the lower number it is the lan, or the spare NIC.
const (
	pathLowerLan = Links + iota
	pathLowerSpare
)

// LinkNames are the links' names, by number.
var LinkNames = [Links]string{"crossover", "lan", "spare"}

// Limits of bpf/limits.h.
const (
	MaxNodes      = 16
	MaxIdentities = 16
	MaxReach      = 8
)

// Config is what the datapath is told before it starts.
type Config struct {
	ClusterID, Digest uint32
	Nodes             int // how many there are; 2 are a pair
	Self              int // this node's number
	Probe             time.Duration
	SuspectAfter      time.Duration
	DeadAfter         time.Duration
	BootHold          time.Duration
	ConfirmProbes     int
	SoloKeep          bool          // of a pair
	ServeFor          time.Duration // how long the right to serve lasts; 0: not asked for
	Verdict           Verdict
	Keys              []Key // the signing one first; one or two
	Links             [Links]LinkConfig
	Remote            [MaxNodes][Links]netip.Addr // IPv4 addresses of the other nodes, by number; none: the node has no such link
	OwnAddress        netip.Addr                  // the node's own IPv4 address on lan
	Identities        []IdentityConfig
	Reach             []netip.Addr // of a pair; empty: no majority is asked for
}

// Verdict says whose word it takes, beside the detector's, to own what a dead peer owned.
type Verdict uint32

// As numbered in bpf/abi.h.
const (
	VerdictKernel = Verdict(bpf.XdphaXdVerdictVERDICT_KERNEL) // nobody's
	VerdictEtcd   = Verdict(bpf.XdphaXdVerdictVERDICT_ETCD)   // etcd's, by identity: see SetLeave
	VerdictFence  = Verdict(bpf.XdphaXdVerdictVERDICT_FENCE)  // a fence agent's: see SetFenced
)

// LinkConfig is one NIC towards the other nodes; Index 0: there is none.
type LinkConfig struct {
	Index int
	MAC   [6]byte
	Local netip.Addr // IPv4
}

// IdentityConfig is one identity.
type IdentityConfig struct {
	Carrier    int // ifindex of the NIC that carries it on this node
	MAC        [6]byte
	Addresses  []netip.Addr
	Ports      []uint16 // TCP ports behind which a service must be ready: see SetReady
	Candidates uint16   // a bit for each node that may ever own it; of a pair both may
	Floor      uint64   // the highest generation that this node may have owned before it booted
}

func be(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func (c *Config) abi() (v bpf.XdphaXdConfig, err error) {
	if err := checkKeys(c.Keys); err != nil {
		return v, err
	}
	switch {
	case len(c.Identities) > MaxIdentities:
		return v, fmt.Errorf("configure datapath: %d identities, it takes %d", len(c.Identities), MaxIdentities)
	case len(c.Reach) > MaxReach:
		return v, fmt.Errorf("configure datapath: %d hosts to reach, it takes %d", len(c.Reach), MaxReach)
	}
	if err := c.checkNodes(); err != nil {
		return v, err
	}
	v.Abi, v.ClusterId, v.Digest = ABI, c.ClusterID, c.Digest
	v.Self, v.N_identities = uint8(c.Self), uint8(len(c.Identities))
	v.N_nodes, v.N_reach, v.Verdict, v.SoloKeep = uint8(c.Nodes), uint8(len(c.Reach)), bpf.XdphaXdVerdict(c.Verdict), b2u(c.SoloKeep)
	v.ConfirmProbes, v.OwnBe = uint32(c.ConfirmProbes), be(c.OwnAddress)
	v.ProbeNs, v.SuspectNs = uint64(c.Probe), uint64(c.SuspectAfter)
	v.DeadNs, v.HoldNs, v.ServeNs = uint64(c.DeadAfter), uint64(c.BootHold), uint64(c.ServeFor)
	for i, l := range c.Links {
		v.Links[i].Ifindex, v.Links[i].Mac = uint32(l.Index), l.MAC
		v.Links[i].LocalBe = be(l.Local)
	}
	for node := range c.Remote {
		for link, a := range c.Remote[node] {
			v.RemoteBe[node][link] = be(a)
		}
	}
	for i, id := range c.Identities {
		v.Identities[i].Carrier, v.Identities[i].Mac, v.Identities[i].Candidates = uint32(id.Carrier), id.MAC, id.Candidates
		if len(id.Ports) > 0 {
			v.WithPorts |= 1 << i
		}
		for _, a := range slices.Backward(id.Addresses) { // the first of each family is left
			if a.Is4() {
				v.Identities[i].AnnouncedBe = be(a)
			} else {
				v.Identities[i].Announced6 = a.As16()
			}
		}
	}
	for i, a := range c.Reach {
		v.ReachBe[i] = be(a)
	}
	return v, nil
}

// checkNodes refuses what the kernel's rules for this number of nodes would not be safe with.
func (c *Config) checkNodes() error {
	switch {
	case c.Nodes < 2 || c.Nodes > MaxNodes:
		return fmt.Errorf("configure datapath: %d nodes, it takes 2 to %d", c.Nodes, MaxNodes)
	case c.Self < 0 || c.Self >= c.Nodes:
		return fmt.Errorf("configure datapath: this is node %d, they are numbered from 0 to %d", c.Self, c.Nodes-1)
	case c.Nodes > 2 && (c.Verdict != VerdictEtcd || c.ServeFor <= 0):
		return fmt.Errorf("configure datapath: %d nodes, more than two are arbitrated by etcd and grant the right to serve", c.Nodes)
	case c.Nodes > 2 && len(c.Reach) > 0:
		return fmt.Errorf("configure datapath: %d nodes, hosts to reach are for two", c.Nodes)
	}
	for i, id := range c.Identities {
		if id.Candidates == 0 || int(id.Candidates) >= 1<<c.Nodes {
			return fmt.Errorf("configure datapath: identity %d has the candidates %#b, it takes some of %d nodes", i, id.Candidates, c.Nodes)
		}
	}
	return nil
}

// macKey is a MAC as the key of the map macs.
func macKey(m [6]byte) uint64 {
	var b [8]byte
	copy(b[:], m[:])
	return binary.LittleEndian.Uint64(b[:])
}
