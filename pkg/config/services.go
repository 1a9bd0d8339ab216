// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
)

// services checks each one, who runs it, and the order between them.
func (c *checker) services() {
	raw := c.raw.services
	if len(raw) > MaxServices {
		c.add(raw[MaxServices].name.at, "%d services, the limit is %d; start some from one command", len(raw), MaxServices)
		return
	}
	slices.SortFunc(raw, byName(func(r *rawService) string { return r.name.v }))
	byKey := map[string]*rawService{}
	for i := range raw {
		byKey[raw[i].name.v] = &raw[i]
		c.cfg.Services = append(c.cfg.Services, c.service(&raw[i]))
	}
	owner, allKnown := c.owners(byKey)
	for i := range raw {
		if s := &raw[i]; allKnown && s.run.v != "concurrent" && owner[s.name.v] == "" {
			c.add(s.name.at, "exclusive service %s is in no identity and would never run; list it in an identity's services, or write run: concurrent", s.name.v)
		}
		c.after(&raw[i], byKey, owner)
	}
	c.cycles(raw, byKey)
}

func (c *checker) service(r *rawService) Service {
	s := Service{
		Name: r.name.v, Start: r.start.v, Stop: r.stop.v, Check: r.check.v,
		Every: or(r.every, defaultEvery), Rise: or(r.rise, defaultRise), Fall: or(r.fall, defaultFall),
		Timeout: ServiceTimeout{
			Start: or(r.startTimeout, defaultStartTimeout),
			Stop:  or(r.stopTimeout, defaultStopTimeout),
			Check: or(r.checkLimit, defaultCheckTimeout),
		},
		Restart:    ServiceRestart{Times: or(r.times, defaultRestartTimes), Within: or(r.within, defaultRestartWithin)},
		Concurrent: r.run.v == "concurrent",
	}
	if !r.start.set || !r.stop.set {
		c.add(r.name.at, "service %s lacks a start or stop command; write exec: {start: COMMAND, stop: COMMAND}", r.name.v)
	}
	if !r.check.set {
		for _, at := range []pos{r.every.at, r.rise.at, r.fall.at, r.checkLimit.at} {
			if at != (pos{}) {
				c.add(at, "service %s has no check command that this could apply to; write exec: {check: COMMAND} or leave it out", r.name.v)
				break
			}
		}
	}
	for _, v := range r.after.items {
		s.After = append(s.After, v.v)
	}
	return s
}

// owners maps each exclusive service to the one identity that lists it.
// A name nobody defined may be a service misspelt, so it says that too.
func (c *checker) owners(byKey map[string]*rawService) (owner map[string]string, allKnown bool) {
	owner, allKnown = map[string]string{}, true
	for _, id := range c.raw.identities {
		for _, v := range id.services.items {
			s := byKey[v.v]
			switch other := owner[v.v]; {
			case s == nil:
				allKnown = false
				c.add(v.at, "service %s is not in services; %s", v.v, defined(v.v, byKey))
			case s.run.v == "concurrent":
				c.add(v.at, "service %s is concurrent and runs on every node whoever owns %s; remove it here, or its run: concurrent", v.v, id.name.v)
			case other == id.name.v:
				c.add(v.at, "service %s is listed twice; remove one of them", v.v)
			case other != "":
				c.add(v.at, "exclusive service %s is in identity %s too and would run twice; remove it from one, or write run: concurrent", v.v, other)
			default:
				owner[v.v] = id.name.v
			}
		}
	}
	return owner, allKnown
}

// defined says what to write for a service that nobody defined.
func defined(name string, byKey map[string]*rawService) string {
	var known []string
	for k := range byKey {
		known = append(known, k)
	}
	if len(known) == 0 {
		return "define it below services"
	}
	slices.Sort(known)
	return instead(name, known) + ", or define it below services"
}

// after can order only what runs on the same node.
func (c *checker) after(s *rawService, byKey map[string]*rawService, owner map[string]string) {
	seen := map[string]bool{}
	for _, v := range s.after.items {
		first := byKey[v.v]
		switch {
		case first == nil:
			c.add(v.at, "after names %s, which is not in services; %s", v.v, defined(v.v, byKey))
		case seen[v.v]:
			c.add(v.at, "after names %s twice; remove one of them", v.v)
		case first.run.v == "concurrent":
		case s.run.v == "concurrent":
			c.add(v.at, "concurrent service %s cannot wait for the exclusive %s, which runs on one node only; remove it", s.name.v, v.v)
		case owner[s.name.v] != owner[v.v] && owner[s.name.v] != "" && owner[v.v] != "":
			c.add(v.at, "service %s of identity %s cannot wait for %s of identity %s, which can be on another node; put both into one identity",
				s.name.v, owner[s.name.v], v.v, owner[v.v])
		}
		seen[v.v] = true
	}
}

// cycles reports each loop in after once, at the entry that closes it.
func (c *checker) cycles(raw []rawService, byKey map[string]*rawService) {
	done := map[string]bool{}
	var path []string
	var visit func(s *rawService)
	visit = func(s *rawService) {
		path = append(path, s.name.v)
		for _, v := range s.after.items {
			if i := slices.Index(path, v.v); i >= 0 {
				c.add(v.at, "after goes in a circle: %s; remove one of these", strings.Join(append(slices.Clone(path[i:]), v.v), " after "))
			} else if next := byKey[v.v]; next != nil && !done[v.v] {
				visit(next)
			}
		}
		path = path[:len(path)-1]
		done[s.name.v] = true
	}
	for i := range raw {
		if !done[raw[i].name.v] {
			visit(&raw[i])
		}
	}
}
