// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/line"
	"github.com/xdpha/xdpha/pkg/metrics"
	"github.com/xdpha/xdpha/pkg/tickle"
)

// prepareLine makes this node's end of what the daemons say to each other, and what is said.
func (n *node) prepareLine() (err error) {
	tickles := slices.ContainsFunc(n.Config.Identities, func(id config.Identity) bool { return !id.NoTickle })
	if !tickles && len(n.Config.Mirrors) == 0 {
		return nil
	}
	if n.line, err = line.New(n.Config, n.Log); err != nil {
		return err
	}
	if tickles {
		n.tickles = tickle.New(tickle.Options{
			Config: n.Config, Line: n.line, Log: n.Log, Owned: n.ownedAt, Owns: n.otherOwns, Heard: n.talksTo,
		})
	}
	return n.prepareMirrors()
}

// useLineKeys follows the secrets of a configuration that was read again.
func (n *node) useLineKeys() error {
	if n.line == nil {
		return nil
	}
	return n.line.UseKeys(n.loop.config)
}

// ownedAt is the generation at which this node owns an identity, if it does.
func (n *node) ownedAt(identity int) (generation uint64, yes bool) {
	word := n.dp.Word(identity)
	return word.Gen(), word.Has(core.Owner)
}

// otherOwns reports whether another node says in its heartbeats that it owns an identity at a generation,
// and this one does not.
func (n *node) otherOwns(node, identity int, generation uint64) bool {
	s := n.dp.State(len(n.Config.Identities))
	p := &s.Peers[node]
	word := p.Words[identity]
	return !n.hasOther(p) && word.Has(core.Owner) && word.Gen() == generation && !s.Words[identity].Has(core.Owner)
}

// talksTo reports whether a node's daemon is up.
func (n *node) talksTo(node int) bool {
	s := n.dp.State(0)
	p := &s.Peers[node]
	return p.State == core.PeerUp && p.Age < n.Config.Timing.SupervisorLost
}

// tickle tells clients of an identity's earlier owner that their connections are gone, if the port can be
// connected to again: who is told earlier asks again in vain, and then only after a second. Whatever waits
// in the addresses' lane is done first.
func (n *node) tickle(identity int, ready func(port uint16) bool) {
	if n.tickles == nil {
		return
	}
	n.effects.addresses[identity].put(func(ctx context.Context) {
		if n.Config.Identities[identity].StagingAhead {
			if err := n.followOwner(identity); err != nil {
				n.Log.Warn("tickle", "identity", n.Config.Identities[identity].Name, "err", err)
			}
		}
		clients, sent, err := n.tickles.Tickle(ctx, identity, ready)
		if err != nil {
			n.tell(loader.Now(), "tickle-failed", identity, err.Error(), nil)
		}
		if sent > 0 {
			text := fmt.Sprintf("%d of %d clients were sent what makes them notice that their connection is gone", sent, clients)
			n.tell(loader.Now(), "tickled", identity, text, map[string]any{"clients": clients, "sent": sent})
		}
	})
}

// tickleAtOnce is for those who wait for none of the identity's services: there is none, or theirs is a concurrent one.
func (n *node) tickleAtOnce(identity int) {
	alone := len(n.Config.Identities[identity].Services) == 0
	n.tickle(identity, func(port uint16) bool {
		return alone || slices.ContainsFunc(n.Config.Services, func(s config.Service) bool { return s.Concurrent && slices.Contains(s.Ports, port) })
	})
}

// anyPort is for those who are left when the services have started, or will not.
func anyPort(uint16) bool { return true }

func (n *node) tickleStatus(identity int) *control.Tickle {
	if n.tickles == nil || n.Config.Identities[identity].NoTickle {
		return nil
	}
	s := n.tickles.State(identity)
	return &control.Tickle{Known: s.Known, Sent: s.Sent}
}

func (n *node) tickleMetrics(identity int) *metrics.Tickle {
	if n.tickles == nil || n.Config.Identities[identity].NoTickle {
		return nil
	}
	s := n.tickles.State(identity)
	return &metrics.Tickle{Known: s.Known, Sent: s.Sent}
}
