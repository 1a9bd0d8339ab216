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
	theirs map[int]*theirParts // by node
	slot   int
	saidNS int64
}

// theirParts are those that a peer has said.
type theirParts struct {
	digest uint32 // of its configuration as a whole, whose parts they are
	slots  map[int]uint16
	told   string // where they differ, as last told
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

// of is what a peer has said of its configuration with that digest.
func (p *parts) of(node int, digest uint32) *theirParts {
	if p.theirs == nil {
		p.theirs = map[int]*theirParts{}
	}
	if t := p.theirs[node]; t == nil || t.digest != digest {
		p.theirs[node] = &theirParts{digest: digest, slots: map[int]uint16{}}
	}
	return p.theirs[node]
}

// hear takes a part that the peer says.
func (t *theirParts) hear(word uint16) {
	if slot, d := splitPart(word); slot < config.PartSlots {
		t.slots[slot] = d
	}
}

// difference names the parts that differ from a peer's; known is false until all were heard.
func (p *parts) difference(t *theirParts) (names []string, known bool) {
	for slot, part := range p.mine {
		d, heard := t.slots[slot]
		if !heard {
			return nil, false
		}
		if d == part.Digest {
			continue
		}
		if part.Name == "" {
			part.Name = oneMore(slot)
		}
		names = append(names, part.Name)
	}
	return names, true
}

// oneMore says what a peer has that this node's configuration does not.
func oneMore(slot int) string {
	if slot < config.FirstIdentityPart {
		return fmt.Sprintf("a node more there (number %d by name)", slot-config.FirstNodePart+1)
	}
	return fmt.Sprintf("an identity more there (number %d by name)", slot-config.FirstIdentityPart+1)
}

// hasOther reports a living peer of another configuration.
func (n *node) hasOther(p *loader.Peer) bool {
	return p.State == core.PeerUp && p.Digest != n.Config.Digest
}

// compareConfigs tells of living peers of another configuration: at once, and again when it is known
// in what they differ. As long as there is one, the frames say parts to all.
func (n *node) compareConfigs(s *loader.State) {
	n.loop.differs = false
	for _, node := range n.Config.Others() {
		p := &s.Peers[node]
		switch {
		case n.hasOther(p):
			n.loop.differs = true
			n.tellDifference(s.AtNS, node, p)
		case p.State == core.PeerUp:
			delete(n.loop.parts.theirs, node)
			n.tellTrouble(troubleConfig, node, "", fmt.Sprintf("%s's configuration is the same again", n.Config.Nodes[node].Name))
		}
	}
	if !n.loop.differs {
		n.setFlags(func(f *loader.Flags) { f.Part = false })
		return
	}
	said := n.loop.parts.say(s.AtNS)
	n.setFlags(func(f *loader.Flags) { f.Part, f.Services = true, said })
}

func (n *node) tellDifference(at int64, node int, p *loader.Peer) {
	theirs := n.loop.parts.of(node, p.Digest)
	if p.Flags.Part {
		theirs.hear(p.Flags.Services)
	}
	text := fmt.Sprintf("%s's configuration is another one (digest %08x, here %08x): no identity moves until both are the same", n.Config.Nodes[node].Name, p.Digest, n.Config.Digest)
	names, known := n.loop.parts.difference(theirs)
	switch {
	case known && len(names) > 0:
		text += "; they differ in: " + strings.Join(names, ", ") + "; compare by 'xdpha check'"
	case known:
		text += "; where, their parts do not tell: compare the files"
	}
	if n.trouble(troubleConfig, node, text) || known && text != theirs.told {
		n.tell(at, troubleConfig, -1, text, nil)
	}
	if known {
		theirs.told = text
	}
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
