// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
)

// Part is one piece of what all nodes must agree on. Nodes that do not agree compare them one by
// one, to say where.
type Part struct {
	Name   string
	Digest uint16 // of PartBits bits; 0: there is no such part
}

const (
	// PartBits is what one part's digest takes, PartSlots how many there are on every node. A
	// part's number and its digest fill 16 bits.
	PartBits  = 10
	PartSlots = mirrorsPart + 1

	// The parts of the first node and the first identity; the others follow, in the order of their names.
	FirstNodePart     = 4
	FirstIdentityPart = FirstNodePart + MaxNodes

	mirrorsPart = FirstIdentityPart + MaxIdentities
)

// Parts are the configuration's, each at the same place on every node.
func (c *Config) Parts() (parts [PartSlots]Part) {
	put := func(slot int, name string, v any) {
		b, _ := json.Marshal(v) // plain values: Load has done it with all of them
		sum := sha256.Sum256(b)
		parts[slot] = Part{name, max(1, binary.BigEndian.Uint16(sum[:])&(1<<PartBits-1))}
	}
	put(0, "timing", c.Timing.agreed())
	put(1, "arbiter", c.Arbiter)
	put(2, "services", c.Services)
	put(3, "the numbers of nodes and identities", [2]int{len(c.Nodes), len(c.Identities)})
	for i, n := range c.Nodes {
		put(FirstNodePart+i, "node "+n.Name, n)
	}
	for i, id := range c.Identities {
		put(FirstIdentityPart+i, "identity "+id.Name, id)
	}
	put(mirrorsPart, "mirrors", c.Mirrors)
	return parts
}
