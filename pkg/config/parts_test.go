// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"testing"
)

func TestThePartThatDiffersIsTheOneThatWasChanged(t *testing.T) {
	sample := func() *Config {
		return &Config{Nodes: []Node{{Name: "serv1"}, {Name: "serv2"}}, Identities: []Identity{{Name: "files"}, {Name: "mail"}}}
	}
	const numbers = "the numbers of nodes and identities"
	for _, tt := range []struct {
		want   []string
		change func(*Config)
	}{
		{[]string{"timing"}, func(c *Config) { c.Timing.Probe++ }},
		{[]string{"arbiter"}, func(c *Config) { c.Arbiter.None = true }},
		{[]string{"services"}, func(c *Config) { c.Services = []Service{{Name: "dns"}} }},
		{[]string{"node serv2"}, func(c *Config) { c.Nodes[1].Spare = "eth2" }},
		{[]string{numbers, "node serv3"}, func(c *Config) { c.Nodes = append(c.Nodes, Node{Name: "serv3"}) }},
		{[]string{"identity mail"}, func(c *Config) { c.Identities[1].Home = 1 }},
		{[]string{"identity mail"}, func(c *Config) { c.Identities[1].Prefer = []int{1, 0} }},
		{[]string{numbers, "identity news"}, func(c *Config) { c.Identities = append(c.Identities, Identity{Name: "news"}) }},
	} {
		changed := sample()
		tt.change(changed)
		var differ []string
		for slot, p := range changed.Parts() {
			if p != sample().Parts()[slot] {
				differ = append(differ, p.Name)
			}
		}
		if !slices.Equal(differ, tt.want) {
			t.Errorf("%q differ, want %q", differ, tt.want)
		}
	}
}

// A part's number and its digest share the 16 bits in which they are said.
func TestThePartsOfTheLargestClusterFit(t *testing.T) {
	c := &Config{Nodes: make([]Node, MaxNodes), Identities: make([]Identity, MaxIdentities)}
	for slot, p := range c.Parts() {
		if p.Name == "" || p.Digest == 0 || p.Digest>>PartBits != 0 || slot >= 1<<(16-PartBits) {
			t.Errorf("part %d, %q, with digest %x does not fit", slot, p.Name, p.Digest)
		}
	}
}
