// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/wire"
)

// partEvery is how long each part is said: longer than a peer takes to look again.
const partEvery = 3 * lookEvery

// parts is what nodes of different configurations do to find out where they differ. To such a peer
// the services' bits of a frame mean nothing, so they carry the digests of the configuration's
// parts, one after the other. The digest of the whole is in every frame all the time.
type parts struct {
	mine   [config.PartSlots]config.Part
	theirs map[int]uint16
	digest uint32 // the peer's as a whole, whose parts they are
	slot   int
	saidNS int64
}

func partWord(slot int, digest uint16) uint16 { return uint16(slot)<<config.PartBits | digest }

func splitPart(w uint16) (slot int, digest uint16) {
	return int(w >> config.PartBits), w & (1<<config.PartBits - 1)
}

// say goes on to the next part when the last one was said for long enough.
func (p *parts) say(now int64) uint16 {
	if now-p.saidNS >= int64(partEvery) {
		p.slot, p.saidNS = (p.slot+1)%len(p.mine), now
	}
	return partWord(p.slot, p.mine[p.slot].Digest)
}

// hear takes a part that the peer says.
func (p *parts) hear(digest uint32, word uint16) {
	if digest != p.digest || p.theirs == nil {
		p.digest, p.theirs = digest, map[int]uint16{}
	}
	if slot, d := splitPart(word); slot < len(p.mine) {
		p.theirs[slot] = d
	}
}

// difference names the parts that differ; known is false until all were heard.
func (p *parts) difference() (names []string, known bool) {
	for slot, part := range p.mine {
		d, heard := p.theirs[slot]
		if !heard {
			return nil, false
		}
		if d == part.Digest {
			continue
		}
		if part.Name == "" {
			part.Name = fmt.Sprintf("an identity more there (number %d by name)", slot-firstIdentity+1)
		}
		names = append(names, part.Name)
	}
	return names, true
}

const firstIdentity = config.PartSlots - config.MaxIdentities

// differs reports a living peer of another configuration, and tells of it: at once, and again when
// it is known in what.
func (n *node) differs(s *loader.State) bool {
	p := n.peerOf(s)
	yes := p.State == core.PeerUp && p.Digest != n.Config.Digest
	n.loop.differs = yes
	if !yes {
		n.setFlags(func(f *loader.Flags) { f.Part = false })
		if p.State == core.PeerUp {
			n.loop.parts.theirs = nil
			n.tellTrouble(troubleConfig, 0, "", "the nodes' configurations are the same again")
		}
		return false
	}
	said := n.loop.parts.say(s.AtNS)
	n.setFlags(func(f *loader.Flags) { f.Part, f.Services = true, said })
	if p.Flags.Part {
		n.loop.parts.hear(p.Digest, p.Flags.Services)
	}
	text := fmt.Sprintf("%s's configuration is another one (digest %08x, here %08x): no identity moves until both are the same", n.Config.Nodes[n.Config.Peer()].Name, p.Digest, n.Config.Digest)
	names, known := n.loop.parts.difference()
	switch {
	case known && len(names) > 0:
		text += "; they differ in: " + strings.Join(names, ", ") + "; compare by 'xdpha check'"
	case known:
		text += "; where, their parts do not tell: compare the files"
	}
	if n.trouble(troubleConfig, 0, text) || known && text != n.loop.difference {
		n.tell(s.AtNS, troubleConfig, -1, text, nil)
	}
	if known {
		n.loop.difference = text
	}
	return true
}

// watchStrangers tells of a neighbour on the crossover that speaks another version or has another secret.
func (n *node) watchStrangers(s *loader.State) {
	text := ""
	switch {
	case s.StrangerNS == 0 || s.AtNS-s.StrangerNS >= int64(time.Second):
	case s.StrangerSays != wire.Version:
		text = fmt.Sprintf("the crossover brings heartbeats of version %d, this node speaks %d: install the same xdpha on both nodes, one after the other; until then a node that boots takes nothing", s.StrangerSays, wire.Version)
	default:
		text = "the crossover brings heartbeats signed with another secret: copy the secret file; until then a node that boots takes nothing"
	}
	n.tellTrouble(troubleStranger, 0, text, "the crossover brings no such heartbeats any more")
}
