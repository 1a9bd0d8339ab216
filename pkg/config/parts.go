// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
)

// Part is one piece of what both nodes must agree on. Nodes that do not agree compare them one by
// one, to say where.
type Part struct {
	Name   string
	Digest uint16 // of PartBits bits; 0: there is no such part
}

const (
	// PartBits is what one part's digest takes, PartSlots how many there are on every node. A
	// part's number and its digest fill 16 bits.
	PartBits  = 11
	PartSlots = firstIdentityPart + MaxIdentities

	firstIdentityPart = 7
)

// Parts are the configuration's, each at the same place on both nodes.
func (c *Config) Parts() (parts [PartSlots]Part) {
	put := func(slot int, name string, v any) {
		b, _ := json.Marshal(v) // plain values: Load has done it with all of them
		sum := sha256.Sum256(b)
		parts[slot] = Part{name, max(1, binary.BigEndian.Uint16(sum[:])&(1<<PartBits-1))}
	}
	put(0, "timing", c.Timing)
	put(1, "arbiter", c.Arbiter)
	for i, n := range c.Nodes {
		put(2+i, "node "+n.Name, n)
	}
	put(4, "services", c.Services)
	put(5, "the number of identities", len(c.Identities))
	put(6, "mirrors", c.Mirrors)
	for i, id := range c.Identities {
		put(firstIdentityPart+i, "identity "+id.Name, id)
	}
	return parts
}
