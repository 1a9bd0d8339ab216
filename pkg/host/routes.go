// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An identity's replies leave by its own device, so with its own MAC: the
// identity's table holds its subnets and the lan NIC's routes, all through that
// device. Three rules for each block of addresses:
//
//	P    from BLOCK lookup T    suppress_prefixlength 0   the LAN and what is behind its routers
//	P+1  from BLOCK lookup main suppress_prefixlength 0   other networks of the host: crossover, containers
//	P+2  from BLOCK lookup T                              the default route
//
// Strict reverse path filtering asks the same rules with the addresses
// exchanged, and so accepts what comes in by the device. Packets from the host's own
// addresses match none of the rules.
func rulesFor(id Identity) []netlink.Rule {
	var list []netlink.Rule
	for _, block := range aggregate(id.Addresses) {
		for i, step := range []struct{ table, suppress int }{{id.Table, 0}, {unix.RT_TABLE_MAIN, 0}, {id.Table, -1}} {
			r := netlink.NewRule()
			r.Family, r.Src = unix.AF_INET, ipNet(block)
			if block.Addr().Is6() {
				r.Family = unix.AF_INET6
			}
			r.Priority, r.Table, r.SuppressPrefixlen, r.Protocol = id.Priority+i, step.table, step.suppress, Protocol
			list = append(list, *r)
		}
	}
	return list
}

// ruleKey is what makes two rules of ours the same.
type ruleKey struct {
	src                       netip.Prefix
	priority, table, suppress int
}

func keyOf(r netlink.Rule) ruleKey {
	return ruleKey{prefixOf(r.Src, r.Family == unix.AF_INET6), r.Priority, r.Table, r.SuppressPrefixlen}
}

// ownRules lists the rules of our protocol, of both families.
func (h *Host) ownRules() ([]netlink.Rule, error) {
	var own []netlink.Rule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return h.nl.RuleList(family) })
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol == Protocol {
				r.Family = family
				own = append(own, r)
			}
		}
	}
	return own, nil
}

// missingRules lists what of the identity's rules is not there, and what is
// there for its table but no longer wanted.
func (h *Host) missingRules(id Identity) (missing, surplus []netlink.Rule, err error) {
	have, err := h.ownRules()
	if err != nil {
		return nil, nil, err
	}
	want := rulesFor(id)
	for _, w := range want {
		if !slices.ContainsFunc(have, func(r netlink.Rule) bool { return keyOf(r) == keyOf(w) }) {
			missing = append(missing, w)
		}
	}
	chains := chainsOf(have, func(r netlink.Rule) bool { return r.Table == id.Table })
	for _, r := range have {
		if chains[chainKey(r)] && !slices.ContainsFunc(want, func(w netlink.Rule) bool { return keyOf(r) == keyOf(w) }) {
			surplus = append(surplus, r)
		}
	}
	return missing, surplus, nil
}

// chainsOf names the blocks of addresses that have a rule that match accepts:
// the rule into main of the same block belongs to them too.
func chainsOf(rules []netlink.Rule, match func(netlink.Rule) bool) map[netip.Prefix]bool {
	chains := make(map[netip.Prefix]bool)
	for _, r := range rules {
		if match(r) {
			chains[chainKey(r)] = true
		}
	}
	return chains
}

func chainKey(r netlink.Rule) netip.Prefix { return prefixOf(r.Src, r.Family == unix.AF_INET6) }

func (h *Host) ensureRules(id Identity) error {
	missing, surplus, err := h.missingRules(id)
	if err != nil {
		return err
	}
	for _, r := range missing {
		if err := h.addRule(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule from %s lookup %d at %d: %w", r.Src, r.Table, r.Priority, err)
		}
	}
	return h.deleteRules(surplus)
}

// addRule is netlink's RuleAdd for the rules made here. That one (v1.3.1) leaves
// out suppress_prefixlength where the table's number is above 255.
func (h *Host) addRule(r netlink.Rule) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.Sockets = h.rules
	ones, _ := r.Src.Mask.Size()
	// struct fib_rule_hdr has the layout of struct rtmsg; its action is where that has the type.
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(r.Family), Src_len: uint8(ones), Type: nl.FR_ACT_TO_TBL}})
	req.AddData(nl.NewRtAttr(nl.FRA_SRC, r.Src.IP))
	req.AddData(nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(uint32(r.Table))))
	req.AddData(nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(uint32(r.Priority))))
	req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(r.Protocol)))
	if r.SuppressPrefixlen >= 0 {
		req.AddData(nl.NewRtAttr(nl.FRA_SUPPRESS_PREFIXLEN, nl.Uint32Attr(uint32(r.SuppressPrefixlen))))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// removeRules removes every rule of our protocol that match accepts, and the others of its block.
func (h *Host) removeRules(match func(netlink.Rule) bool) error {
	rules, err := h.ownRules()
	if err != nil {
		return err
	}
	chains := chainsOf(rules, match)
	return h.deleteRules(slices.DeleteFunc(rules, func(r netlink.Rule) bool { return !chains[chainKey(r)] }))
}

func (h *Host) deleteRules(rules []netlink.Rule) error {
	for _, r := range rules {
		if err := h.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule from %s lookup %d at %d: %w", r.Src, r.Table, r.Priority, err)
		}
	}
	return nil
}

// removeOrphanRules removes rules of our protocol into tables that hold no route of ours.
func (h *Host) removeOrphanRules() error {
	routes, err := h.routesIn(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return err
	}
	rules, err := h.ownRules()
	if err != nil {
		return err
	}
	live := chainsOf(rules, func(rule netlink.Rule) bool {
		return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Table == rule.Table && r.Protocol == Protocol })
	})
	return h.deleteRules(slices.DeleteFunc(rules, func(r netlink.Rule) bool { return live[chainKey(r)] }))
}

// routesIn lists a table's routes of both families; RT_TABLE_UNSPEC means all tables'.
func (h *Host) routesIn(table int) ([]netlink.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	return routes, nil
}

// routesFor lists the routes that the identity's table shall hold, those
// without a gateway first, so that gateways can be resolved.
func (h *Host) routesFor(id Identity, dev int) ([]netlink.Route, error) {
	var direct, routed []netlink.Route
	have := make(map[netip.Prefix]bool)
	for _, p := range subnets(id.Addresses) {
		r := netlink.Route{Family: unix.AF_INET, Scope: netlink.SCOPE_LINK, Dst: ipNet(p)}
		if p.Addr().Is6() {
			r.Family, r.Scope = unix.AF_INET6, netlink.SCOPE_UNIVERSE
		}
		direct, have[p] = append(direct, r), true
	}
	if id.Lan != "" {
		copies, err := h.lanRoutes(id)
		if err != nil {
			return nil, err
		}
		for _, r := range copies {
			switch {
			case r.Gw != nil || r.Via != nil:
				routed = append(routed, r)
			case !have[prefixOf(r.Dst, r.Family == unix.AF_INET6)]:
				direct = append(direct, r)
			}
		}
	}
	list := append(direct, routed...)
	for i := range list {
		list[i].LinkIndex, list[i].Table, list[i].Protocol = dev, id.Table, Protocol
	}
	return list, nil
}

// lanRoutes copies what the main table holds for the lan NIC alone (a multi-path
// route over several NICs is not the lan NIC's). Preferred sources are left out:
// the identity's packets have theirs.
func (h *Host) lanRoutes(id Identity) ([]netlink.Route, error) {
	lan, err := h.link(id.Lan)
	if err != nil {
		return nil, err
	}
	if lan == nil {
		return nil, fmt.Errorf("lan %s: no such device", id.Lan)
	}
	routes, err := h.routesIn(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	families := id.families()
	var copies []netlink.Route
	for _, r := range routes {
		dst := prefixOf(r.Dst, r.Family == unix.AF_INET6)
		if r.LinkIndex != lan.Attrs().Index || r.Type != unix.RTN_UNICAST || !slices.Contains(families, r.Family) ||
			dst.Addr().IsLinkLocalUnicast() || dst.Addr().IsMulticast() {
			continue
		}
		c := netlink.Route{Family: r.Family, Scope: r.Scope, Dst: ipNet(dst), Gw: r.Gw, Via: r.Via, Priority: r.Priority, MTU: r.MTU}
		if r.Family == unix.AF_INET && (r.Gw != nil || r.Via != nil) {
			c.Flags = int(netlink.FLAG_ONLINK) // no own address on the device to resolve it by
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// routeKey is what makes two routes of one table the same.
type routeKey struct {
	dst      netip.Prefix
	gw       string
	priority int
}

func routeKeyOf(r netlink.Route) routeKey {
	k := routeKey{dst: prefixOf(r.Dst, r.Family == unix.AF_INET6), gw: r.Gw.String(), priority: r.Priority}
	if r.Family == unix.AF_INET6 && k.priority == 0 {
		k.priority = 1024 // IP6_RT_PRIO_USER, which the kernel writes for 0
	}
	return k
}

func (h *Host) ensureRoutes(id Identity, link netlink.Link) error {
	have, err := h.routesIn(id.Table)
	if err != nil {
		return err
	}
	for _, r := range have {
		if r.Protocol != Protocol || r.LinkIndex != link.Attrs().Index {
			return fmt.Errorf("use routing table %d: it holds a route to %s of protocol %d through interface %d: %w; choose another table",
				id.Table, prefixOf(r.Dst, r.Family == unix.AF_INET6), r.Protocol, r.LinkIndex, ErrForeign)
		}
	}
	want, err := h.routesFor(id, link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, r := range want {
		if slices.ContainsFunc(have, func(o netlink.Route) bool { return routeKeyOf(o) == routeKeyOf(r) }) {
			continue
		}
		if err := h.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route to %s via %s in table %d: %w", r.Dst, r.Gw, id.Table, err)
		}
	}
	return h.deleteSurplusRoutes(id.Table, want)
}

// deleteSurplusRoutes reads the table again: a replacement may have taken the old one's place.
func (h *Host) deleteSurplusRoutes(table int, want []netlink.Route) error {
	have, err := h.routesIn(table)
	if err != nil {
		return err
	}
	for _, r := range have {
		if r.Protocol != Protocol || slices.ContainsFunc(want, func(w netlink.Route) bool { return routeKeyOf(w) == routeKeyOf(r) }) {
			continue
		}
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s via %s from table %d: %w", r.Dst, r.Gw, table, err)
		}
	}
	return nil
}
