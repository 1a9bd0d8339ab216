// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"math"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

// peerOf is what a reading has of the other node of a pair.
func (n *node) peerOf(s *loader.State) *loader.Peer { return &s.Peers[n.Config.Peer()] }

// heardPeer reports whether the kernel hears a peer: what the last frame said still holds.
func heardPeer(p *loader.Peer) bool { return p.State == core.PeerUp || p.State == core.PeerSuspect }

// peerStatus is a peer's three values: its kernel, its daemon, the services of what it owns.
func (n *node) peerStatus(s *loader.State, node int) control.Peer {
	cfg, peer := n.Config, &s.Peers[node]
	p := control.Peer{
		Name: cfg.Nodes[node].Name, State: peerState(peer, cfg.Timing.SupervisorLost), Supervisor: control.SupervisorUnknown,
		BootID: fmt.Sprintf("%016x", peer.Boot), SupervisorAgeUS: peer.Age.Microseconds(), Services: map[string]string{},
		Policy: control.Policy{SupervisorLost: control.PolicyWait, AfterUS: cfg.Timing.SupervisorLost.Microseconds()},
	}
	if cfg.Timing.DemandIfLost {
		p.Policy.SupervisorLost = control.PolicyTakeover
	}
	if !heardPeer(peer) {
		return p
	}
	p.Solo, p.Supervisor = peer.Flags.Solo, control.SupervisorUp
	if peer.Age >= cfg.Timing.SupervisorLost {
		p.Supervisor = control.SupervisorLost
	}
	for i, their := range peerServices(cfg, s) {
		if their.node == node {
			p.Services[cfg.Identities[i].Name] = their.word()
		}
	}
	return p
}

// theirServices is whether the services of an identity are up on the peer that owns it.
type theirServices struct {
	node int
	up   bool
}

func (t theirServices) word() string {
	if t.up {
		return control.ServicesUp
	}
	return control.ServicesDown
}

// peerServices is how the services fare of each identity that a peer owns, as it says. A peer of
// another configuration speaks of other identities.
func peerServices(cfg *config.Config, s *loader.State) map[int]theirServices {
	all := map[int]theirServices{}
	for _, node := range cfg.Others() {
		p := &s.Peers[node]
		if !heardPeer(p) || p.Digest != cfg.Digest || p.Flags.Part {
			continue
		}
		for i := range cfg.Identities {
			if p.Words[i].Has(core.Owner) && !s.Words[i].Has(core.Owner) {
				all[i] = theirServices{node, p.Flags.Services>>i&1 != 0}
			}
		}
	}
	return all
}

// watchPeerServices tells of the peers' services that go down or come up. What they are when a peer
// becomes the owner, or is heard again, is no change.
func (n *node) watchPeerServices(s *loader.State) {
	now := peerServices(n.Config, s)
	for i, id := range n.Config.Identities {
		their, owned := now[i]
		was, known := n.loop.theirs[i]
		if !owned || !known || their.node != was.node || their.up == was.up {
			continue
		}
		n.tell(s.AtNS, "peer-services-"+their.word(), i, fmt.Sprintf("the services of %s on %s are %s", id.Name, n.Config.Nodes[their.node].Name, their.word()), nil)
	}
	n.loop.theirs = now
}

// ownServices is a bit for each identity that this node owns and whose services are all up, for
// the peer to know; without services its addresses count.
func (n *node) ownServices(snap core.Snapshot) (bits uint16) {
	up := map[string]bool{}
	for _, svc := range n.services.States() {
		up[svc.Service] = svc.Phase == service.Up // not while its check is bad, however seldom yet
	}
	for i, id := range snap.Identities {
		if n.dp.Word(i).Has(core.Owner) && n.servesAll(i, id, up) {
			bits |= 1 << i
		}
	}
	return bits
}

// servesAll reports whether all is up that belongs to an identity. A daemon that has just taken
// over from an earlier one goes by that one's word until it has looked: nothing has changed.
func (n *node) servesAll(i int, id core.IdentitySnapshot, up map[string]bool) bool {
	names := n.Config.Identities[i].Services
	if len(names) == 0 {
		return id.Addresses == "on"
	}
	if n.loop.unseen[i] = n.loop.unseen[i] && (id.Services == "unknown" || id.Services == "starting"); n.loop.unseen[i] {
		return n.loop.flags.Services>>i&1 != 0
	}
	for _, name := range names {
		if !up[name] {
			return false
		}
	}
	return true
}

// pacerStatus is how well the probes are paced.
func (n *node) pacerStatus(s *loader.State) control.Pacer {
	p := control.Pacer{
		Mode: n.pacer.mode(), Wanted: n.Config.Timing.Pacer, LastTickUS: -1, GapMaxUS: int64(s.TickGapMaxNS / 1000), TokensSent: n.pacer.seeds.Load(),
	}
	if at := n.dp.LastTickNS(); at != 0 {
		p.LastTickUS = max(0, loader.Now()-at) / 1000
	}
	return p
}

// rightToServe is what is left of it in ns, 0 if it has run out, of what is owned here the least;
// nil if the gates do not ask for it. A pair has one right for all.
func (n *node) rightToServe(s *loader.State) *int64 {
	if !s.ServeNeeded {
		return nil
	}
	until := s.ServeUntilNS
	if n.Config.Many() {
		until = math.MaxInt64
		for i, w := range s.Words {
			if w.Has(core.Owner) {
				until = min(until, max(s.GrantedUntilNS[i], s.LeaveNS[i]))
			}
		}
		if until == math.MaxInt64 {
			return nil // nothing is owned
		}
	}
	left := max(0, until-s.AtNS)
	return &left
}
