// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"net/netip"
	"net/url"
	"regexp"
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
		Name: r.name.v, Start: r.exec.start.v, Stop: r.exec.stop.v, Promote: r.exec.promote.v, Demote: r.exec.demote.v,
		Systemd: r.systemd.v, OCF: c.ocf(r),
		Restart:    ServiceRestart{Times: or(r.times, defaultRestartTimes), Within: or(r.within, defaultRestartWithin)},
		Concurrent: r.run.v == "concurrent", Warm: r.warm.v, MoveIfUnhealthy: r.onUnhealthy.v == "move",
	}
	c.kind(r, &s)
	c.checks(r, &s)
	c.timeouts(r, &s)
	c.ports(r, &s)
	c.warm(r, &s)
	c.afterSilence(r, &s)
	if r.onUnhealthy.set && !s.Concurrent {
		c.add(r.onUnhealthy.at, "on_unhealthy is for concurrent services; remove it: an exclusive service that fails takes its identity to another node always")
	}
	for _, v := range r.after.items {
		s.After = append(s.After, v.v)
	}
	return s
}

// afterSilence is for what must run once, and long enough for a guard, or none at all.
func (c *checker) afterSilence(r *rawService, s *Service) {
	v := r.afterSilence
	end := c.cfg.Timing.EndServices
	switch {
	case !v.set:
	case s.Concurrent:
		c.add(v.at, "start_after_silence is for exclusive services; remove it: a concurrent one runs on every node")
	case v.v != 0 && v.v < end:
		c.add(v.at, "start_after_silence %s is less than end_services_after (%s), after which a node that is cut off ends the service: it would run twice; write at least %s, or 0s if that is harmless",
			short(v.v), short(end), short(end+silenceMargin))
	default:
		s.AfterSilence = &v.v
	}
}

// kind needs one way to start and stop the service.
func (c *checker) kind(r *rawService, s *Service) {
	const ways = "write exec: {start: COMMAND, stop: COMMAND}, or systemd: UNIT, or ocf: {agent: ocf:PROVIDER:TYPE}"
	switch {
	case r.exec.set && r.systemd.set, r.exec.set && r.ocf.set, r.systemd.set && r.ocf.set:
		later := r.exec.at
		for _, at := range []pos{r.systemd.at, r.ocf.at} {
			if before(later, at) {
				later = at
			}
		}
		c.add(later, "service %s is started in two ways; keep one of exec, systemd and ocf", s.Name)
	case r.exec.set && (!r.exec.start.set || !r.exec.stop.set):
		c.add(r.name.at, "service %s lacks a start or stop command; write exec: {start: COMMAND, stop: COMMAND}", s.Name)
	case !r.exec.set && !r.systemd.set && !r.ocf.set:
		c.add(r.name.at, "service %s lacks a way to start and stop it; %s", s.Name, ways)
	}
	if v := r.systemd; v.set && !unitRE.MatchString(v.v) {
		c.add(v.at, "systemd %q is not a unit's name; write it with its type, as in smbd.service", v.v)
	}
}

// Names of units by systemd.unit(5); those that cannot be started are left out.
var (
	unitRE  = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,240}\.(service|socket|mount|automount|swap|target|path|timer|slice)$`)
	agentRE = regexp.MustCompile(`^ocf:([A-Za-z0-9_][A-Za-z0-9_.-]*):([A-Za-z0-9_][A-Za-z0-9_.-]*)$`)
)

func (c *checker) ocf(r *rawService) *OCF {
	raw := &r.ocf
	if !raw.set {
		return nil
	}
	o := &OCF{Depth: or(raw.depth, 0)}
	m := agentRE.FindStringSubmatch(raw.agent.v)
	switch {
	case !raw.agent.set:
		c.add(raw.at, "ocf has no agent; write agent: ocf:heartbeat:Filesystem, or another one below /usr/lib/ocf/resource.d")
	case m == nil:
		c.add(raw.agent.at, "agent %q is not a resource agent's name; write ocf:PROVIDER:TYPE, as in ocf:heartbeat:Filesystem", raw.agent.v)
	default:
		o.Provider, o.Type = m[1], m[2]
	}
	for _, p := range raw.params {
		if strings.HasPrefix(p.name.v, "CRM_meta_") || p.name.v == "crm_feature_set" {
			c.add(p.name.at, "%s is given to the agent by xdpha; remove it", p.name.v)
			continue
		}
		o.Params = append(o.Params, OCFParam{p.name.v, p.value.v})
	}
	slices.SortFunc(o.Params, func(a, b OCFParam) int { return strings.Compare(a.Name, b.Name) })
	return o
}

// checks says what is asked, how often, and what counts.
func (c *checker) checks(r *rawService, s *Service) {
	k := &r.check
	if r.exec.check.set && k.command.set {
		c.add(k.command.at, "service %s has a check command already, in exec; keep one of them", s.Name)
	}
	s.Check = or(r.exec.check, k.command.v)
	s.Process = k.process.v
	s.TCP = c.tcp(k.tcp)
	s.HTTP = c.http(k)
	s.Every, s.Rise, s.Fall = or(k.every, defaultEvery), or(k.rise, defaultRise), or(k.fall, defaultFall)
	if r.ocf.set {
		// An agent tries by itself before it says that something is wrong, and says how often it may be asked.
		s.Fall = or(k.fall, 1)
		if !s.Probed() {
			s.Every = k.every.v
		}
	}
	asked := r.systemd.set || r.ocf.set || r.exec.check.set || k.command.set || k.tcp.set || k.http.set || k.process.set
	if asked {
		return
	}
	for _, at := range []pos{k.every.at, k.rise.at, k.fall.at, r.checkLimit.at} {
		if at != (pos{}) {
			c.add(at, "service %s has no check that this could apply to; write check: {command: COMMAND}, or tcp, http or process, or leave it out", s.Name)
			break
		}
	}
}

func (c *checker) tcp(v value[string]) netip.AddrPort {
	if !v.set {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddrPort(v.v)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		c.add(v.at, "tcp %q is not ADDRESS:PORT; write it as in \"192.0.2.21:445\" or \"[2001:db8::21]:445\": a name would need a name server to be healthy", v.v)
	}
	return a
}

func (c *checker) http(k *rawCheck) *HTTP {
	if !k.http.set {
		for _, at := range []pos{k.status.at, k.contains.at} {
			if at != (pos{}) {
				c.add(at, "there is no http that this could apply to; write http: \"http://192.0.2.21/\" or leave it out")
				break
			}
		}
		return nil
	}
	u, err := url.Parse(k.http.v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "" {
		c.add(k.http.at, "http %q is not a URL; write it as in \"http://192.0.2.21/status\"", k.http.v)
		return nil
	}
	if u.User != nil {
		c.unshown[k.http.at.line] = true
		c.add(k.http.at, "http has a user name in its URL; write a check command that reads it from a file")
	}
	status := or(k.status, [2]int{200, 399})
	return &HTTP{URL: k.http.v, StatusMin: status[0], StatusMax: status[1], Contains: k.contains.v}
}

// timeouts are the agent's own where an OCF service says nothing.
func (c *checker) timeouts(r *rawService, s *Service) {
	start, stop, check := defaultStartTimeout, defaultStopTimeout, defaultCheckTimeout
	switch {
	case r.systemd.set:
		start, stop = defaultUnitTimeout, defaultUnitTimeout
	case r.ocf.set:
		start, stop, check = 0, 0, 0
	}
	s.Timeout = ServiceTimeout{Start: or(r.startTimeout, start), Stop: or(r.stopTimeout, stop), Check: or(r.checkLimit, check)}
}

// ports are those written, or the one that the tcp check connects to.
func (c *checker) ports(r *rawService, s *Service) {
	for _, p := range r.ports {
		if slices.Contains(s.Ports, uint16(p.v)) {
			c.add(p.at, "port %d is listed twice; remove one of them", p.v)
		}
		s.Ports = append(s.Ports, uint16(p.v))
	}
	if r.ports == nil && s.TCP.IsValid() {
		s.Ports = []uint16{s.TCP.Port()}
	}
}

// warm needs something that can be promoted, and an identity to be promoted for.
func (c *checker) warm(r *rawService, s *Service) {
	both := r.exec.promote.set && r.exec.demote.set
	switch {
	case !s.Warm && (r.exec.promote.set || r.exec.demote.set):
		at := cmp.Or(r.exec.promote.at, r.exec.demote.at)
		c.add(at, "promote and demote are for services that run on the standby too; write warm: true, or remove them")
	case !s.Warm:
	case s.Concurrent:
		c.add(r.warm.at, "service %s is concurrent, so it is active on every node; remove warm, or run: concurrent", s.Name)
	case r.systemd.set:
		c.add(r.warm.at, "a systemd unit cannot be promoted; remove warm, or write exec: {start: …, stop: …, promote: COMMAND, demote: COMMAND}")
	case r.exec.set && !both:
		c.add(r.warm.at, "warm service %s lacks a promote or demote command; write exec: {…, promote: COMMAND, demote: COMMAND}", s.Name)
	}
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
		case s.warm.v && !first.warm.v:
			c.add(v.at, "warm service %s runs on the standby too and cannot wait for %s, which does not; write warm: true there, or remove it here", s.name.v, v.v)
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
