// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/metrics"
	"github.com/xdpha/xdpha/pkg/service"
)

// backend is the node as the API sees it.
type backend struct{ n *node }

func (b backend) Events() *control.Hub { return b.n.hub }

// Do gives the core a command and waits for its answer.
func (b backend) Do(ctx context.Context, c control.Command) error {
	n := b.n
	var ev func(op uint64) core.Event
	switch c.Verb {
	case control.Reload:
		return n.reload(ctx)
	case control.ConfirmOff:
		return n.confirmOff(ctx, c.Node)
	case control.Move:
		i := slices.IndexFunc(n.Config.Identities, func(id config.Identity) bool { return id.Name == c.Identity })
		if i < 0 {
			return fmt.Errorf("%w: no identity is named %q", control.ErrNotFound, c.Identity)
		}
		to := -1
		if c.To != "" {
			to = slices.IndexFunc(n.Config.Nodes, func(x config.Node) bool { return x.Name == c.To })
			if to < 0 {
				return fmt.Errorf("%w: no node is named %q", control.ErrNotFound, c.To)
			}
		}
		ev = func(op uint64) core.Event { return core.CmdMove{Op: op, Identity: i, To: to, Force: c.Force} }
	case control.Giveback:
		if c.Identity != "" {
			return b.giveback(ctx, c.Identity)
		}
		ev = func(op uint64) core.Event { return core.CmdGiveback{Op: op} }
	case control.Standby:
		ev = func(op uint64) core.Event { return core.CmdStandby{Op: op, On: c.On} }
	case control.Freeze:
		ev = func(op uint64) core.Event { return core.CmdFreeze{Op: op, On: c.On} }
	default:
		return fmt.Errorf("%w: no such command: %s", control.ErrInvalid, c.Verb)
	}
	reply := make(chan string, 1)
	op := n.effects.commands.Add(1)
	n.post(func() {
		n.loop.replies[op] = reply
		n.step(ev(op))
	})
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", control.ErrUnavailable, ctx.Err())
	case text := <-reply:
		if text != "" {
			return fmt.Errorf("%w: %s", control.ErrRefused, text)
		}
		return nil
	}
}

// giveback of one identity is its move to its home.
func (b backend) giveback(ctx context.Context, identity string) error {
	for _, id := range b.n.Config.Identities {
		if id.Name == identity {
			return b.Do(ctx, control.Command{Verb: control.Move, Identity: identity, To: b.n.Config.Nodes[id.Home].Name})
		}
	}
	return fmt.Errorf("%w: no identity is named %q", control.ErrNotFound, identity)
}

// Ping is the difference of the kernel's histograms over a time.
func (b backend) Ping(ctx context.Context, d time.Duration) (control.Ping, error) {
	count := len(b.n.Config.Identities)
	before := b.n.dp.State(count)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return control.Ping{}, fmt.Errorf("%w: %w", control.ErrUnavailable, ctx.Err())
	case <-timer.C:
	}
	after := b.n.dp.State(count)
	p := control.Ping{ForNS: after.AtNS - before.AtNS}
	for _, node := range b.n.Config.Others() {
		for role, name := range loader.LinkNames {
			if !b.n.linked(role, node) {
				continue
			}
			l := control.PingLink{Name: name, Sent: after.Seq - before.Seq}
			if b.n.Config.Many() {
				l.Node = b.n.Config.Nodes[node].Name
			}
			was, is := before.Peers[node].Links[role].RTT, after.Peers[node].Links[role].RTT
			for i := range is {
				l.RTT.Buckets = append(l.RTT.Buckets, is[i]-was[i])
			}
			l.Lost = l.Sent - min(l.Sent, l.RTT.Count())
			p.Links = append(p.Links, l)
		}
	}
	return p, nil
}

func histogram(buckets [32]uint64, maximum uint64) control.Histogram {
	return control.Histogram{Buckets: buckets[:], MaxNS: maximum}
}

func micros(ns float64) float64 { return ns / 1000 }

// Status is what the node knows.
func (b backend) Status() control.Status {
	n, cfg := b.n, b.n.Config
	s, v := n.dp.State(len(cfg.Identities)), n.view()
	st := control.Status{
		Node: n.self(), Time: time.Now(), Version: n.Version, Cluster: cfg.Cluster,
		Standby: v.snapshot.Standby, Frozen: v.snapshot.Frozen, LastTakeover: n.takeover(last(v.changes)),
		Pacer: n.pacerStatus(&s), Troubles: v.troubleList(),
		Arbiter: n.arbiterStatus(&s, v.fence), Links: n.linksToAll(&s),
	}
	if left := n.rightToServe(&s); left != nil {
		st.RightToServeUS = new(*left / 1000)
	}
	for _, node := range cfg.Others() {
		p := n.peerStatus(&s, node)
		p.Links, p.Cross = n.linksTo(&s, node), n.crossTo(&s, node)
		st.Peers = append(st.Peers, p)
	}
	st.Peer = control.Worst(st.Peers)
	for i, id := range v.snapshot.Identities {
		is := n.identityStatus(i, id, &s)
		is.Takeover, is.Tickle = n.takeover(v.changes[i]), n.tickleStatus(i)
		st.Identities = append(st.Identities, is)
	}
	for _, svc := range n.services.States() {
		st.Services = append(st.Services, control.Service{Name: svc.Service, State: svc.Phase.String(), Restarts: svc.Restarts, Reason: svc.Reason})
	}
	st.Mirrors = n.mirrorStatus()
	return st
}

// linked reports whether a link leads to a peer: one may have no spare NIC.
func (n *node) linked(role, node int) bool {
	return n.dp.Mode(role) != "" && nic(n.Config.Nodes[node], role) != ""
}

// linksTo are the links as far as they lead to one peer.
func (n *node) linksTo(s *loader.State, node int) (links []control.Link) {
	for role, l := range s.Peers[node].Links {
		if n.linked(role, node) {
			links = append(links, n.link(s, role, n.heard(l, s.AtNS), l))
		}
	}
	return links
}

// crossTo are the cross paths to one peer.
func (n *node) crossTo(s *loader.State, node int) (paths []control.Link) {
	if nodes := n.Config.Nodes; nodes[n.Config.Self].Spare == "" || nodes[node].Spare == "" {
		return nil
	}
	for path, l := range s.Peers[node].Cross {
		role := [loader.Crosses]int{loader.LanToSpare: loader.Lan, loader.SpareToLan: loader.Spare}[path]
		if n.dp.Mode(role) == "" {
			continue
		}
		p := n.link(s, role, n.heard(l, s.AtNS), l)
		p.Name = loader.CrossNames[path]
		paths = append(paths, p)
	}
	return paths
}

// linksToAll are the links to all peers together: each is as good as to the one to whom it is worst.
func (n *node) linksToAll(s *loader.State) (links []control.Link) {
	for role := range loader.Links {
		all, up, any := loader.LinkState{}, true, false
		for _, node := range n.Config.Others() {
			if !n.linked(role, node) {
				continue
			}
			l := s.Peers[node].Links[role]
			up = up && n.heard(l, s.AtNS)
			if !any || l.HeardNS < all.HeardNS {
				all.HeardNS, any = l.HeardNS, true
			}
			all.RTTMaxNS, all.GapMaxNS = max(all.RTTMaxNS, l.RTTMaxNS), max(all.GapMaxNS, l.GapMaxNS)
			for i := range l.RTT {
				all.RTT[i] += l.RTT[i]
			}
		}
		if any {
			links = append(links, n.link(s, role, up, all))
		}
	}
	return links
}

func (n *node) link(s *loader.State, role int, up bool, l loader.LinkState) control.Link {
	h := histogram(l.RTT, l.RTTMaxNS)
	link := control.Link{
		Name: loader.LinkNames[role], Interface: nic(n.Config.Nodes[n.Config.Self], role), Mode: n.dp.Mode(role),
		Up: up, LastHeardUS: -1, GapMaxUS: int64(l.GapMaxNS / 1000),
		RTTUS: control.RTT{P50: micros(h.Quantile(0.5)), P99: micros(h.Quantile(0.99)), Max: micros(float64(l.RTTMaxNS))},
	}
	if l.HeardNS != 0 {
		link.LastHeardUS = max(0, s.AtNS-l.HeardNS) / 1000
	}
	return link
}

func peerState(p *loader.Peer, lost time.Duration) string {
	switch {
	case p.State == core.PeerDead:
		return control.PeerDead
	case p.State == core.PeerUnknown:
		return control.PeerUnknown
	case p.Age >= lost:
		return control.PeerSupervisorLost
	default:
		return control.PeerUp
	}
}

func (n *node) identityStatus(i int, id core.IdentitySnapshot, s *loader.State) control.Identity {
	cfg := n.Config.Identities[i]
	out := control.Identity{
		Name: id.Name, Home: n.Config.Nodes[id.Home].Name, Prefer: n.Config.StandIns(&cfg), Generation: s.Words[i].Gen(), Gate: control.GateClosed,
		Armed: s.Words[i].Has(core.Ready), Carrier: loader.LinkNames[n.carriers.of(i)], MAC: net.HardwareAddr(cfg.MAC[:]).String(),
	}
	switch {
	case s.Words[i].Has(core.Owner):
		out.Owner = n.self()
	case id.Owner >= 0 && id.Owner != n.Config.Self: // the core may not have seen yet that it is lost
		out.Owner = n.Config.Nodes[id.Owner].Name
	}
	open, reason := s.GateOpen(i)
	if open {
		out.Gate = control.GateOpen
	}
	out.Reason = reason
	for _, r := range cfg.Addresses {
		out.Addresses = append(out.Addresses, r.String())
	}
	return out
}

func (n *node) arbiterStatus(s *loader.State, fence fenceShown) control.Arbiter {
	a := control.Arbiter{Kind: n.Config.Arbiter.Kind(), Needed: n.majority(), Fence: n.fenceStatus(s, fence), Etcd: n.etcdStatus(s)}
	for i, addr := range n.Config.Arbiter.Reach {
		h := control.ArbiterHost{Address: addr.String(), LastHeardUS: -1}
		if at := max(s.ReachNS[i][loader.Lan], s.ReachNS[i][loader.Spare]); at != 0 {
			h.LastHeardUS = max(0, s.AtNS-at) / 1000
			h.Reached = s.AtNS-at < int64(config.SoloFor)
		}
		if h.Reached {
			a.Reached++
		}
		a.Hosts = append(a.Hosts, h)
	}
	a.Satisfied = a.Reached >= a.Needed && (a.Etcd == nil || a.Etcd.Reached)
	return a
}

// source is the node as Prometheus sees it.
type source struct{ n *node }

func (src source) Snapshot() metrics.Snapshot {
	n, cfg := src.n, src.n.Config
	s, v := n.dp.State(len(cfg.Identities)), n.view()
	m := metrics.Snapshot{
		SelfStalls: s.SelfStalls, PeerServices: map[string]bool{},
		PacerGapMaxNS: s.TickGapMaxNS, LeaseRemainingMinNS: v.leaseMin, RightToServeNS: n.rightToServe(&s),
		Ages:  []metrics.Age{{Node: n.self(), NS: s.AtNS - s.SupervisorAtNS}},
		Build: build(n.Version), Troubles: v.troubleFlags(),
	}
	for _, node := range cfg.Others() {
		p := &s.Peers[node]
		m.Peers = append(m.Peers, n.peerMetrics(&s, node))
		m.Ages = append(m.Ages, metrics.Age{Node: cfg.Nodes[node].Name, NS: int64(p.Age) + max(0, s.AtNS-p.AgeAtNS)})
	}
	m.Etcd = n.etcdMetrics()
	if cfg.Arbiter.Fence != nil {
		m.Fences = v.fence.count
	}
	for i, their := range peerServices(cfg, &s) {
		m.PeerServices[cfg.Identities[i].Name] = their.up
	}
	counters, err := n.dp.Counters()
	if err != nil {
		n.Log.Error("read counters", "err", err)
	}
	for _, c := range counters {
		m.Frames = append(m.Frames, metrics.Frames{Link: c.Link, Kind: c.Kind, Verdict: c.Verdict, Reason: c.Name, Count: c.Count})
	}
	for i, id := range v.snapshot.Identities {
		open, _ := s.GateOpen(i)
		m.Identities = append(m.Identities, metrics.Identity{
			Name: id.Name, Owner: s.Words[i].Has(core.Owner), GateOpen: open, Generation: s.Words[i].Gen(), Conflicts: s.Conflicts[i], Repairs: v.repairs[i], Carrier: loader.LinkNames[n.carriers.of(i)],
			Tickle: n.tickleMetrics(i),
		})
	}
	for _, svc := range n.services.States() {
		up := svc.Phase == service.Up || svc.Phase == service.Failing
		m.Services = append(m.Services, metrics.Service{Name: svc.Service, Up: up, Restarts: svc.Restarts})
	}
	m.Mirrors = n.mirrorMetrics()
	return m
}

// peerMetrics is a peer as Prometheus sees it.
func (n *node) peerMetrics(s *loader.State, node int) metrics.Peer {
	p := &s.Peers[node]
	out := metrics.Peer{
		Name: n.Config.Nodes[node].Name, State: peerState(p, n.Config.Timing.SupervisorLost),
		Suspects: p.Suspects, SuspectsRefuted: p.Refuted, Reverted: p.Reverted, Silence: histogram(p.Silence.Buckets, p.Silence.MaxNS),
	}
	if p.State == core.PeerSuspect {
		out.State = control.PeerSuspect
	}
	for role, l := range p.Links {
		if n.linked(role, node) {
			out.Links = append(out.Links, metrics.Link{Name: loader.LinkNames[role], Up: n.heard(l, s.AtNS), RTT: histogram(l.RTT, l.RTTMaxNS), Gap: histogram(l.Gap, l.GapMaxNS)})
		}
	}
	return out
}

func build(version string) metrics.Build {
	b := metrics.Build{Version: version, GoVersion: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
	}
	return b
}
