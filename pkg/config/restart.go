// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
)

// setting is one that only a start follows; get reads it of what a T was made of, in its configuration.
type setting[T any] struct {
	name string
	get  func(*Config, *T) any
}

var fileSettings = []setting[Config]{
	{"cluster", func(c, _ *Config) any { return c.Cluster }},
	{"node", func(c, _ *Config) any { return c.Nodes[c.Self].Name }},
	{"hold", func(c, _ *Config) any { return [2]bool{c.Hold, c.HoldUntilSynced} }},
	{"timing.profile", func(c, _ *Config) any { return c.Timing.Profile }},
	{"timing.probe", func(c, _ *Config) any { return c.Timing.Probe }},
	{"timing.dead_after", func(c, _ *Config) any { return c.Timing.DeadAfter }},
	{"timing.supervisor_lease", func(c, _ *Config) any { return c.Timing.SupervisorLease }},
	{"timing.boot_hold", func(c, _ *Config) any { return c.Timing.BootHold }},
	{"timing.linger", func(c, _ *Config) any { return c.Timing.Linger }},
	{"timing.solo_without_supervisor", func(c, _ *Config) any { return c.Timing.SoloKeep }},
	{"timing.peer_supervisor_lost", func(c, _ *Config) any { return c.Timing.DemandIfLost }},
	{"timing.end_services_after", func(c, _ *Config) any { return c.Timing.EndServices }},
	{"timing.await_services", func(c, _ *Config) any { return c.Timing.AwaitServices }},
	{"timing.updelay", func(c, _ *Config) any { return c.Timing.UpDelay }},
	{"timing.pacer", func(c, _ *Config) any { return c.Timing.Pacer }},
	{"arbiter", func(c, _ *Config) any { return c.Arbiter }},
	{"metrics.listen", func(c, _ *Config) any { return c.Metrics.Listen }},
}

var nodeSettings = []setting[Node]{
	{"lan", func(_ *Config, n *Node) any { return n.Lan }},
	{"crossover", func(_ *Config, n *Node) any { return n.Crossover }},
	{"spare", func(_ *Config, n *Node) any { return n.Spare }},
	{"addresses", func(_ *Config, n *Node) any { return [2]any{n.LanAddr, n.CrossAddr} }},
}

var identitySettings = []setting[Identity]{
	{"home", func(c *Config, i *Identity) any { return c.Nodes[i.Home].Name }},
	{"prefer", func(c *Config, i *Identity) any {
		if !c.Many() {
			return nil // it is the other node, and no setting
		}
		return c.StandIns(i)
	}},
	{"mac", func(_ *Config, i *Identity) any { return i.MAC }},
	{"addresses", func(_ *Config, i *Identity) any { return i.Addresses }},
	{"staging", func(_ *Config, i *Identity) any { return i.StagingAhead }},
	{"services", func(_ *Config, i *Identity) any { return i.Services }},
	{"mirror", func(_ *Config, i *Identity) any { return i.Mirror }},
	{"tickle", func(_ *Config, i *Identity) any { return i.NoTickle }},
	{"failback", func(_ *Config, i *Identity) any { return i.Failback }},
	{"failback_after", func(_ *Config, i *Identity) any { return i.FailbackAfter }},
}

var serviceSettings = []setting[Service]{
	{"exec", func(_ *Config, s *Service) any { return [4]string{s.Start, s.Stop, s.Promote, s.Demote} }},
	{"systemd", func(_ *Config, s *Service) any { return s.Systemd }},
	{"ocf", func(_ *Config, s *Service) any { return s.OCF }},
	{"check", func(_ *Config, s *Service) any {
		return [7]any{s.Check, s.TCP, s.HTTP, s.Process, s.Every, s.Rise, s.Fall}
	}},
	{"timeout", func(_ *Config, s *Service) any { return s.Timeout }},
	{"restart", func(_ *Config, s *Service) any { return s.Restart }},
	{"after", func(_ *Config, s *Service) any { return s.After }},
	{"run", func(_ *Config, s *Service) any { return s.Concurrent }},
	{"warm", func(_ *Config, s *Service) any { return s.Warm }},
	{"on_unhealthy", func(_ *Config, s *Service) any { return s.MoveIfUnhealthy }},
	{"start_after_silence", func(_ *Config, s *Service) any { return s.AfterSilence }},
	{"ports", func(_ *Config, s *Service) any { return s.Ports }},
}

var mirrorSettings = []setting[Mirror]{
	{"paths", func(_ *Config, m *Mirror) any { return m.Paths }},
	{"every", func(_ *Config, m *Mirror) any { return m.Every }},
	{"on_change", func(_ *Config, m *Mirror) any { return m.OnChange }},
	{"exclude", func(_ *Config, m *Mirror) any { return m.Exclude }},
	{"bandwidth", func(_ *Config, m *Mirror) any { return m.BytesPerSecond }},
}

// NeedRestart names the settings in which a configuration differs from a running one and which a
// daemon follows at its start only: all but the secrets and the hooks.
func NeedRestart(running, file *Config) (names []string) {
	compare := comparison{running, file}
	names = differing(compare, "", fileSettings, running, file)
	names = append(names, members(compare, "nodes", nodeSettings, func(c *Config) []Node { return c.Nodes }, func(n *Node) string { return n.Name })...)
	names = append(names, members(compare, "identities", identitySettings, func(c *Config) []Identity { return c.Identities }, func(i *Identity) string { return i.Name })...)
	names = append(names, members(compare, "services", serviceSettings, func(c *Config) []Service { return c.Services }, func(s *Service) string { return s.Name })...)
	return append(names, members(compare, "mirrors", mirrorSettings, func(c *Config) []Mirror { return c.Mirrors }, func(m *Mirror) string { return m.Name })...)
}

// comparison is of two configurations.
type comparison struct{ running, file *Config }

func differing[T any](of comparison, path string, settings []setting[T], a, b *T) (names []string) {
	for _, s := range settings {
		if !reflect.DeepEqual(s.get(of.running, a), s.get(of.file, b)) {
			names = append(names, path+s.name)
		}
	}
	return names
}

// members compares what bears the same name; what only one side has is named whole.
func members[T any](of comparison, path string, settings []setting[T], list func(*Config) []T, name func(*T) string) (names []string) {
	find := func(list []T, want string) int {
		return slices.IndexFunc(list, func(x T) bool { return name(&x) == want })
	}
	a, b := list(of.running), list(of.file)
	for i := range a {
		at := path + "." + name(&a[i])
		if j := find(b, name(&a[i])); j >= 0 {
			names = append(names, differing(of, at+".", settings, &a[i], &b[j])...)
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
