// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/arbiter"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
)

// Routing tables and rule priorities of the identities: far from what distributions use. What
// comes in by an identity's device is looked up before all others, what the host's programs
// say of themselves after them.
const (
	firstTable      = 7364
	firstStageTable = firstTable + config.MaxIdentities // two each
	stagePriority   = firstPriority - 1
	firstPriority   = 7364 // three each
	sourcePriority  = firstPriority + 3*config.MaxIdentities
	tickPair        = "xdtick"
)

type tickEnds struct{ start, end int } // interface indexes

// nic is the name of a link's NIC on a node; empty: there is none.
func nic(n config.Node, role int) string {
	return [loader.Links]string{n.Crossover, n.Lan, n.Spare}[role]
}

// hostIdentity is an identity as it stands on this host.
func (n *node) hostIdentity(i int) host.Identity {
	self, id := n.Config.Nodes[n.Config.Self], n.Config.Identities[i]
	h := host.Identity{
		Name: id.Name, MAC: id.MAC, Carrier: nic(self, n.carriers.of(i)), Lan: self.Lan,
		Addresses: id.Addresses, Table: firstTable + i, Priority: firstPriority + 3*i,
	}
	if id.StagingAhead {
		h.StageTable, h.StagePriority, h.SourcePriority = firstStageTable+2*i, stagePriority, sourcePriority
	}
	return h
}

// prepareDatapath puts the programs on every NIC.
func (n *node) prepareDatapath() (t tickEnds, err error) {
	lc, err := n.datapathConfig()
	if err != nil {
		return t, err
	}
	n.dp, err = loader.Open(lc, loader.Options{PinDir: n.PinDir, Lease: n.Config.Timing.SupervisorLease, Log: n.Log, Anew: n.removeDevices})
	if err != nil {
		return t, err
	}
	for i, id := range n.Config.Identities {
		if !n.dp.Adopted() && len(id.Services) > 0 {
			n.dp.SetRunning(i) // an earlier daemon's may run: nobody has looked yet
		}
	}
	// Fresh words stay 0: with the promised generations in them the first frame would
	// close a peer that owns. The core raises them when it knows that nobody does.
	for role, l := range lc.Links {
		if l.Index == 0 {
			continue
		}
		if err := n.dp.AttachNIC(role, l.Index); err != nil {
			return t, err
		}
	}
	if t.start, t.end, err = n.host.EnsureTickPair(tickPair); err != nil {
		return t, err
	}
	if err := n.dp.AttachTick(t.end); err != nil {
		return t, err
	}
	n.dp.Renew(loader.Now(), n.Config.Timing.SupervisorLease)
	return t, n.dp.Start()
}

// mark is what all devices of a node bear.
func mark(cfg *config.Config) string { return host.Mark(cfg.Cluster, cfg.Nodes[cfg.Self].Name) }

// removeDevices takes off what this run or an earlier one left: without its gate nothing may answer.
func (n *node) removeDevices() error { return n.host.RemoveAll(mark(n.Config)) }

// prepareIdentities comes after the gates: what is kept ahead is answered for as soon as a device is there.
func (n *node) prepareIdentities() error {
	for i := range n.Config.Identities {
		if err := n.prepareIdentity(i); err != nil && !errors.Is(err, errNoNIC) {
			return err
		}
	}
	return nil
}

func (n *node) datapathConfig() (loader.Config, error) {
	cfg, t := n.Config, n.Config.Timing
	lc := loader.Config{
		ClusterID: cfg.ClusterID, Digest: cfg.Digest, Nodes: len(cfg.Nodes), Self: cfg.Self,
		Probe: t.Probe, SuspectAfter: t.SuspectAfter, DeadAfter: t.DeadAfter, BootHold: t.BootHold,
		ServeFor: t.ServeFor, ConfirmProbes: t.ConfirmProbes, SoloKeep: t.SoloKeep, OwnAddress: cfg.Nodes[cfg.Self].LanAddr.Addr(),
		Reach: cfg.Arbiter.Reach, Keys: datapathKeys(cfg),
	}
	if !cfg.Arbiter.AsksForRight() {
		lc.ServeFor = 0 // it keeps always
	}
	if cfg.Arbiter.Fence != nil {
		lc.Verdict = loader.VerdictFence
	}
	if cfg.Arbiter.Etcd != nil {
		lc.Verdict = loader.VerdictEtcd
	}
	for role := range loader.Links {
		name := nic(cfg.Nodes[cfg.Self], role)
		if name == "" {
			continue
		}
		lc.Links[role] = loader.LinkConfig{Local: linkAddress(cfg, role, cfg.Self)}
		for _, node := range cfg.Others() {
			if nic(cfg.Nodes[node], role) != "" {
				lc.Remote[node][role] = linkAddress(cfg, role, node)
			}
		}
		if n.places[role].Load() == 0 {
			continue // as DropNIC leaves it
		}
		l, err := n.host.LinkInfo(name)
		if err != nil {
			return lc, err
		}
		lc.Links[role].Index, lc.Links[role].MAC = l.Index, [6]byte(l.MAC)
	}
	for i, id := range cfg.Identities {
		ic := loader.IdentityConfig{
			MAC: id.MAC, Carrier: lc.Links[n.carriers.of(i)].Index, Floor: n.store.saved.Generations[id.Name],
		}
		for _, node := range id.Prefer {
			ic.Candidates |= 1 << node
		}
		for _, s := range cfg.Services {
			if slices.Contains(id.Services, s.Name) {
				ic.Ports = append(ic.Ports, s.Ports...)
			}
		}
		for _, r := range id.Addresses {
			for a := range r.All() {
				ic.Addresses = append(ic.Addresses, a)
			}
		}
		lc.Identities = append(lc.Identities, ic)
	}
	return lc, nil
}

// linkAddress is what a heartbeat on a link bears as a node's address. A spare NIC has
// none of its own: it bears a link-local one (RFC 3927) made of the cluster and the node,
// that no stack ever sees.
func linkAddress(cfg *config.Config, role, node int) netip.Addr {
	switch role {
	case loader.Crossover:
		return cfg.Nodes[node].CrossAddr.Addr()
	case loader.Lan:
		return cfg.Nodes[node].LanAddr.Addr()
	}
	a, room := [4]byte{169, 254, 0, 0}, uint16(1)
	if cfg.Many() {
		room = config.MaxNodes - 1
	}
	binary.BigEndian.PutUint16(a[2:], 0x0100+uint16(cfg.ClusterID%0xfd00)&^room|uint16(node))
	return netip.AddrFrom4(a)
}

func coreConfig(cfg *config.Config, booted bool, floor func(identity int) uint64, aside, runs func(identity int) bool, agent *arbiter.Agent) core.Config {
	c := core.Config{Self: cfg.Self, Hold: cfg.Hold && booted, UntilSynced: cfg.HoldUntilSynced, DemandIfLost: cfg.Timing.DemandIfLost, Etcd: cfg.Arbiter.Etcd != nil}
	for _, node := range cfg.Nodes {
		c.Nodes = append(c.Nodes, node.Name)
	}
	if f := cfg.Arbiter.Fence; f != nil {
		c.Fence, c.FenceDelay, c.Limits.Fence = true, int64(f.Nodes[cfg.Peer()].Delay), int64(agent.Limit()+fenceGrace)
	}
	c.Limits.LanBack = int64(cfg.Timing.UpDelay)
	if c.Limits.PeerServices = int64(cfg.AwaitServices()); cfg.Arbiter.AsksForRight() {
		c.EndAfter = int64(cfg.Timing.EndServices / 2) // the guard, which asks nobody, comes later
	}
	for i, id := range cfg.Identities {
		c.Identities = append(c.Identities, core.IdentityConfig{
			Name: id.Name, Home: id.Home, Prefer: id.Prefer, Failback: id.Failback, FailbackAfter: int64(id.FailbackAfter),
			StagingAhead: id.StagingAhead, Exclusive: id.Services, Mirrored: len(id.Mirror) > 0, Floor: floor(i), Aside: aside(i), Runs: runs(i),
			AfterSilence: int64(cfg.AfterSilence(id)),
		})
	}
	for _, s := range cfg.Services {
		if s.Concurrent {
			c.Concurrent = append(c.Concurrent, s.Name)
		}
		if s.MoveIfUnhealthy {
			c.Vital = append(c.Vital, s.Name)
		}
	}
	return c
}
