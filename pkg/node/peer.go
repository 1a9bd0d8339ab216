// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

// peerOf is what a reading has of the other node.
func (n *node) peerOf(s *loader.State) *loader.Peer { return &s.Peers[n.Config.Peer()] }

// heardPeer reports whether the kernel hears a peer: what the last frame said still holds.
func heardPeer(p *loader.Peer) bool { return p.State == core.PeerUp || p.State == core.PeerSuspect }

// peerStatus is the peer's three values: its kernel, its daemon, the services of what it owns.
func (n *node) peerStatus(s *loader.State) control.Peer {
	cfg, peer := n.Config, n.peerOf(s)
	p := control.Peer{
		Name: cfg.Nodes[cfg.Peer()].Name, State: peerState(peer, cfg.Timing.SupervisorLost), Supervisor: control.SupervisorUnknown,
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
	for i, up := range peerServices(cfg, s) {
		p.Services[cfg.Identities[i].Name] = map[bool]string{true: control.ServicesUp, false: control.ServicesDown}[up]
	}
	return p
}

// peerServices is whether the services are up of each identity that the peer owns, as it says. A
// peer of another configuration speaks of other identities.
func peerServices(cfg *config.Config, s *loader.State) map[int]bool {
	up, p := map[int]bool{}, &s.Peers[cfg.Peer()]
	if !heardPeer(p) || p.Digest != cfg.Digest || p.Flags.Part {
		return up
	}
	for i := range cfg.Identities {
		if p.Words[i].Has(core.Owner) && !s.Words[i].Has(core.Owner) {
			up[i] = p.Flags.Services>>i&1 != 0
		}
	}
	return up
}

// watchPeerServices tells of the peer's services that go down or come up. What they are when it
// becomes the owner, or is heard again, is no change.
func (n *node) watchPeerServices(s *loader.State) {
	now := peerServices(n.Config, s)
	for i, id := range n.Config.Identities {
		up, owned := now[i]
		was, known := n.loop.theirs[i]
		if !owned || !known || up == was {
			continue
		}
		word := map[bool]string{true: control.ServicesUp, false: control.ServicesDown}[up]
		n.tell(s.AtNS, "peer-services-"+word, i, fmt.Sprintf("the services of %s on %s are %s", id.Name, n.Config.Nodes[n.Config.Peer()].Name, word), nil)
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

// rightToServe is what is left of it in ns, 0 if it has run out; nil if the gates do not ask for it.
func rightToServe(s *loader.State) *int64 {
	if !s.ServeNeeded {
		return nil
	}
	left := max(0, s.ServeUntilNS-s.AtNS)
	return &left
}
