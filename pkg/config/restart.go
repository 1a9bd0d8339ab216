// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
)

// setting is one that only a start follows; get reads it of what a T was made of.
type setting[T any] struct {
	name string
	get  func(*T) any
}

var fileSettings = []setting[Config]{
	{"cluster", func(c *Config) any { return c.Cluster }},
	{"node", func(c *Config) any { return c.Nodes[c.Self].Name }},
	{"hold", func(c *Config) any { return c.Hold }},
	{"timing.profile", func(c *Config) any { return c.Timing.Profile }},
	{"timing.probe", func(c *Config) any { return c.Timing.Probe }},
	{"timing.dead_after", func(c *Config) any { return c.Timing.DeadAfter }},
	{"timing.supervisor_lease", func(c *Config) any { return c.Timing.SupervisorLease }},
	{"timing.boot_hold", func(c *Config) any { return c.Timing.BootHold }},
	{"timing.linger", func(c *Config) any { return c.Timing.Linger }},
	{"timing.solo_without_supervisor", func(c *Config) any { return c.Timing.SoloKeep }},
	{"timing.peer_supervisor_lost", func(c *Config) any { return c.Timing.DemandIfLost }},
	{"timing.pacer", func(c *Config) any { return c.Timing.Pacer }},
	{"arbiter", func(c *Config) any { return c.Arbiter }},
	{"metrics.listen", func(c *Config) any { return c.Metrics.Listen }},
}

var nodeSettings = []setting[Node]{
	{"lan", func(n *Node) any { return n.Lan }},
	{"crossover", func(n *Node) any { return n.Crossover }},
	{"spare", func(n *Node) any { return n.Spare }},
	{"addresses", func(n *Node) any { return [2]any{n.LanAddr, n.CrossAddr} }},
}

var identitySettings = []setting[Identity]{
	{"home", func(i *Identity) any { return i.Home }},
	{"mac", func(i *Identity) any { return i.MAC }},
	{"addresses", func(i *Identity) any { return i.Addresses }},
	{"staging", func(i *Identity) any { return i.StagingAhead }},
	{"services", func(i *Identity) any { return i.Services }},
	{"mirror", func(i *Identity) any { return i.Mirror }},
	{"failback", func(i *Identity) any { return i.Failback }},
	{"failback_after", func(i *Identity) any { return i.FailbackAfter }},
}

var serviceSettings = []setting[Service]{
	{"exec", func(s *Service) any { return [3]string{s.Start, s.Stop, s.Check} }},
	{"check", func(s *Service) any { return [3]any{s.Every, s.Rise, s.Fall} }},
	{"timeout", func(s *Service) any { return s.Timeout }},
	{"restart", func(s *Service) any { return s.Restart }},
	{"after", func(s *Service) any { return s.After }},
	{"run", func(s *Service) any { return s.Concurrent }},
}

var mirrorSettings = []setting[Mirror]{
	{"paths", func(m *Mirror) any { return m.Paths }},
	{"every", func(m *Mirror) any { return m.Every }},
	{"on_change", func(m *Mirror) any { return m.OnChange }},
	{"exclude", func(m *Mirror) any { return m.Exclude }},
	{"bandwidth", func(m *Mirror) any { return m.BytesPerSecond }},
}

// NeedRestart names the settings in which a configuration differs from a running one and which a
// daemon follows at its start only: all but the secrets and the hooks.
func NeedRestart(running, file *Config) (names []string) {
	names = differing("", fileSettings, running, file)
	names = append(names, members("nodes", nodeSettings, running.Nodes[:], file.Nodes[:], func(n *Node) string { return n.Name })...)
	names = append(names, members("identities", identitySettings, running.Identities, file.Identities, func(i *Identity) string { return i.Name })...)
	names = append(names, members("services", serviceSettings, running.Services, file.Services, func(s *Service) string { return s.Name })...)
	return append(names, members("mirrors", mirrorSettings, running.Mirrors, file.Mirrors, func(m *Mirror) string { return m.Name })...)
}

func differing[T any](path string, settings []setting[T], a, b *T) (names []string) {
	for _, s := range settings {
		if !reflect.DeepEqual(s.get(a), s.get(b)) {
			names = append(names, path+s.name)
		}
	}
	return names
}

// members compares what bears the same name; what only one side has is named whole.
func members[T any](path string, settings []setting[T], a, b []T, name func(*T) string) (names []string) {
	find := func(list []T, want string) int {
		return slices.IndexFunc(list, func(x T) bool { return name(&x) == want })
	}
	for i := range a {
		at := path + "." + name(&a[i])
		if j := find(b, name(&a[i])); j >= 0 {
			names = append(names, differing(at+".", settings, &a[i], &b[j])...)
		} else {
			names = append(names, at)
		}
	}
	for j := range b {
		if find(a, name(&b[j])) < 0 {
			names = append(names, path+"."+name(&b[j]))
		}
	}
	return names
}
