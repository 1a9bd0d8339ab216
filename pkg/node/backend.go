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
	case control.Move:
		i := slices.IndexFunc(n.Config.Identities, func(id config.Identity) bool { return id.Name == c.Identity })
		if i < 0 {
			return fmt.Errorf("%w: no identity is named %q", control.ErrNotFound, c.Identity)
		}
		to := -1
		if c.To != "" {
			to = slices.IndexFunc(n.Config.Nodes[:], func(x config.Node) bool { return x.Name == c.To })
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
	for role, name := range loader.LinkNames {
		if b.n.dp.Mode(role) == "" {
			continue
		}
		l := control.PingLink{Name: name, Sent: after.Seq - before.Seq}
		for i := range after.Links[role].RTT {
			l.RTT.Buckets = append(l.RTT.Buckets, after.Links[role].RTT[i]-before.Links[role].RTT[i])
		}
		l.Lost = l.Sent - min(l.Sent, l.RTT.Count())
		p.Links = append(p.Links, l)
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
		Peer: n.peerStatus(&s), Pacer: n.pacerStatus(&s), Troubles: v.troubleList(),
		Arbiter: n.arbiterStatus(&s, v.fence),
	}
	if left := rightToServe(&s); left != nil {
		st.RightToServeUS = new(*left / 1000)
	}
	for role, l := range s.Links {
		mode := n.dp.Mode(role)
		if mode == "" {
			continue
		}
		h := histogram(l.RTT, l.RTTMaxNS)
		link := control.Link{
			Name: loader.LinkNames[role], Interface: nic(cfg.Nodes[cfg.Self], role), Mode: mode,
			Up: n.heard(l, s.AtNS), LastHeardUS: -1, GapMaxUS: int64(l.GapMaxNS / 1000),
			RTTUS: control.RTT{P50: micros(h.Quantile(0.5)), P99: micros(h.Quantile(0.99)), Max: micros(float64(l.RTTMaxNS))},
		}
		if l.HeardNS != 0 {
			link.LastHeardUS = max(0, s.AtNS-l.HeardNS) / 1000
		}
		st.Links = append(st.Links, link)
	}
	for i, id := range v.snapshot.Identities {
		is := n.identityStatus(i, id, &s)
		is.Takeover = n.takeover(v.changes[i])
		st.Identities = append(st.Identities, is)
	}
	for _, svc := range n.services.States() {
		st.Services = append(st.Services, control.Service{Name: svc.Service, State: svc.Phase.String(), Restarts: svc.Restarts, Reason: svc.Reason})
	}
	st.Mirrors = n.mirrorStatus()
	return st
}

func peerState(s *loader.State, lost time.Duration) string {
	switch {
	case s.Peer == core.PeerDead:
		return control.PeerDead
	case s.Peer == core.PeerUnknown:
		return control.PeerUnknown
	case s.PeerAge >= lost:
		return control.PeerSupervisorLost
	default:
		return control.PeerUp
	}
}

func (n *node) identityStatus(i int, id core.IdentitySnapshot, s *loader.State) control.Identity {
	cfg := n.Config.Identities[i]
	out := control.Identity{
		Name: id.Name, Home: n.Config.Nodes[id.Home].Name, Generation: s.Words[i].Gen(), Gate: control.GateClosed,
		Armed: s.Words[i].Has(core.Ready), MAC: net.HardwareAddr(cfg.MAC[:]).String(),
	}
	switch {
	case s.Words[i].Has(core.Owner):
		out.Owner = n.self()
	case id.Owner == n.Config.Peer():
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
		PeerState: peerState(&s, cfg.Timing.SupervisorLost), Suspects: s.Suspects, SuspectsRefuted: s.Refuted, SelfStalls: s.SelfStalls,
		PacerGapMaxNS: s.TickGapMaxNS, LeaseRemainingMinNS: v.leaseMin, RightToServeNS: rightToServe(&s),
		Reverted: s.Reverted, Silence: histogram(s.Silence.Buckets, s.Silence.MaxNS), PeerServices: map[string]bool{},
		Ages: []metrics.Age{
			{Node: n.self(), NS: s.AtNS - s.SupervisorAtNS},
			{Node: cfg.Nodes[cfg.Peer()].Name, NS: int64(s.PeerAge) + max(0, s.AtNS-s.PeerAgeAtNS)},
		},
		Build: build(n.Version), Troubles: v.troubleFlags(),
	}
	if s.Peer == core.PeerSuspect {
		m.PeerState = "suspect"
	}
	m.Etcd = n.etcdMetrics()
	if cfg.Arbiter.Fence != nil {
		m.Fences = v.fence.count
	}
	for role, l := range s.Links {
		if n.dp.Mode(role) != "" {
			m.Links = append(m.Links, metrics.Link{Name: loader.LinkNames[role], Up: n.heard(l, s.AtNS), RTT: histogram(l.RTT, l.RTTMaxNS), Gap: histogram(l.Gap, l.GapMaxNS)})
		}
	}
	for i, up := range peerServices(cfg, &s) {
		m.PeerServices[cfg.Identities[i].Name] = up
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
			Name: id.Name, Owner: s.Words[i].Has(core.Owner), GateOpen: open, Generation: s.Words[i].Gen(), Conflicts: s.Conflicts[i], Repairs: v.repairs[i],
		})
	}
	for _, svc := range n.services.States() {
		up := svc.Phase == service.Up || svc.Phase == service.Failing
		m.Services = append(m.Services, metrics.Service{Name: svc.Service, Up: up, Restarts: svc.Restarts})
	}
	m.Mirrors = n.mirrorMetrics()
	return m
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
