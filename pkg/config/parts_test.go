// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"testing"
)

func TestThePartThatDiffersIsTheOneThatWasChanged(t *testing.T) {
	sample := func() *Config {
		return &Config{Nodes: [2]Node{{Name: "serv1"}, {Name: "serv2"}}, Identities: []Identity{{Name: "files"}, {Name: "mail"}}}
	}
	for want, change := range map[string]func(*Config){
		"timing":                   func(c *Config) { c.Timing.Probe++ },
		"arbiter":                  func(c *Config) { c.Arbiter.None = true },
		"node serv2":               func(c *Config) { c.Nodes[1].Spare = "eth2" },
		"services":                 func(c *Config) { c.Services = []Service{{Name: "dns"}} },
		"mirrors":                  func(c *Config) { c.Mirrors = []Mirror{{Name: "mails"}} },
		"identity mail":            func(c *Config) { c.Identities[1].Home = 1 },
		"the number of identities": func(c *Config) { c.Identities = append(c.Identities, Identity{Name: "news"}) },
	} {
		changed := sample()
		change(changed)
		var differ []string
		for slot, p := range changed.Parts() {
			if p.Digest>>PartBits != 0 || slot >= 1<<(16-PartBits) {
				t.Errorf("part %d, %q, with digest %x does not fit", slot, p.Name, p.Digest)
			}
			if p != sample().Parts()[slot] {
				differ = append(differ, p.Name)
			}
		}
		differ = slices.DeleteFunc(differ, func(name string) bool { return name == "identity news" }) // goes with their number
		if !slices.Equal(differ, []string{want}) {
			t.Errorf("%s was changed, %q differ", want, differ)
		}
	}
}
