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
	if id.StageTable != 0 {
		list = append(list, stageRules(id)...)
	}
	return list
}

// ruleKey is what makes two rules of ours the same.
type ruleKey struct {
	chain
	priority, table, suppress int
}

func keyOf(r netlink.Rule) ruleKey {
	return ruleKey{chainOf(r), r.Priority, r.Table, r.SuppressPrefixlen}
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
	tables := id.tables()
	chains := chainsOf(have, func(r netlink.Rule) bool { return slices.Contains(tables, r.Table) })
	for _, r := range have {
		if chains[chainOf(r)] && !slices.ContainsFunc(want, func(w netlink.Rule) bool { return keyOf(r) == keyOf(w) }) {
			surplus = append(surplus, r)
		}
	}
	return missing, surplus, nil
}

// chain is what one identity's rules select packets by. Those into its table and
// that into main, which are tried one after the other, have it in common.
type chain struct {
	src, dst netip.Prefix
	iif      string
}

func chainOf(r netlink.Rule) chain {
	v6 := r.Family == unix.AF_INET6
	return chain{prefixOf(r.Src, v6), prefixOf(r.Dst, v6), r.IifName}
}

// chainsOf names the chains that have a rule that match accepts.
func chainsOf(rules []netlink.Rule, match func(netlink.Rule) bool) map[chain]bool {
	chains := make(map[chain]bool)
	for _, r := range rules {
		if match(r) {
			chains[chainOf(r)] = true
		}
	}
	return chains
}

func (h *Host) ensureRules(id Identity) error {
	missing, surplus, err := h.missingRules(id)
	if err != nil {
		return err
	}
	for _, r := range missing {
		if err := h.addRule(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule %s: %w", ruleText(r), err)
		}
	}
	return h.deleteRules(surplus)
}

func ruleText(r netlink.Rule) string {
	c := chainOf(r)
	switch {
	case r.Dst != nil:
		return fmt.Sprintf("to %s iif %s lookup %d at %d", c.dst, c.iif, r.Table, r.Priority)
	case c.iif != "":
		return fmt.Sprintf("iif %s lookup %d at %d", c.iif, r.Table, r.Priority)
	}
	return fmt.Sprintf("from %s lookup %d at %d", c.src, r.Table, r.Priority)
}

// addRule is netlink's RuleAdd for the rules made here. That one (v1.3.1) leaves
// out suppress_prefixlength where the table's number is above 255.
func (h *Host) addRule(r netlink.Rule) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.Sockets = h.rules
	// struct fib_rule_hdr has the layout of struct rtmsg; its action is where that has the type.
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(r.Family), Type: nl.FR_ACT_TO_TBL}}
	req.AddData(msg)
	c := chainOf(r)
	if r.Src != nil {
		msg.Src_len = uint8(c.src.Bits())
		req.AddData(nl.NewRtAttr(nl.FRA_SRC, c.src.Addr().AsSlice()))
	}
	if r.Dst != nil {
		msg.Dst_len = uint8(c.dst.Bits())
		req.AddData(nl.NewRtAttr(nl.FRA_DST, c.dst.Addr().AsSlice()))
	}
	if r.IifName != "" {
		req.AddData(nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.IifName)))
	}
	req.AddData(nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(uint32(r.Table))))
	req.AddData(nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(uint32(r.Priority))))
	req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(r.Protocol)))
	if r.SuppressPrefixlen >= 0 {
		req.AddData(nl.NewRtAttr(nl.FRA_SUPPRESS_PREFIXLEN, nl.Uint32Attr(uint32(r.SuppressPrefixlen))))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// removeRules removes every rule of our protocol that match accepts, and the others of its chain.
func (h *Host) removeRules(match func(netlink.Rule) bool) error {
	rules, err := h.ownRules()
	if err != nil {
		return err
	}
	chains := chainsOf(rules, match)
	return h.deleteRules(slices.DeleteFunc(rules, func(r netlink.Rule) bool { return !chains[chainOf(r)] }))
}

func (h *Host) deleteRules(rules []netlink.Rule) error {
	for _, r := range rules {
		if err := h.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule %s: %w", ruleText(r), err)
		}
	}
	return nil
}

// removeOrphanRules removes rules of our protocol into tables that hold no route
// of ours, and the sources (see stageRules) whose deliveries are gone: those routes do not go with the device.
func (h *Host) removeOrphanRules() error {
	routes, err := h.routesIn(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return err
	}
	rules, err := h.ownRules()
	if err != nil {
		return err
	}
	holds := func(table int) bool {
		return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Table == table && r.Protocol == Protocol })
	}
	live := chainsOf(rules, func(rule netlink.Rule) bool {
		return rule.Dst == nil && holds(rule.Table) || rule.Dst != nil && holds(deliveryTable(rule.Table))
	})
	dead := slices.DeleteFunc(rules, func(r netlink.Rule) bool { return live[chainOf(r)] })
	if err := h.deleteRules(dead); err != nil {
		return err
	}
	for _, r := range dead {
		if r.Dst == nil {
			continue
		}
		if err := h.deleteSurplusRoutes(r.Table, nil); err != nil {
			return err
		}
	}
	return nil
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

// lanRoutes copies what the main table holds for the lan NIC. Preferred sources are left out:
// the identity's packets have theirs.
func (h *Host) lanRoutes(id Identity) ([]netlink.Route, error) {
	_, routes, err := h.mainRoutes(id)
	if err != nil {
		return nil, err
	}
	for i, r := range routes {
		c := netlink.Route{Family: r.Family, Scope: r.Scope, Dst: r.Dst, Gw: r.Gw, Via: r.Via, Priority: r.Priority, MTU: r.MTU}
		if r.Family == unix.AF_INET && (r.Gw != nil || r.Via != nil) {
			c.Flags = int(netlink.FLAG_ONLINK) // no own address on the device to resolve it by
		}
		routes[i] = c
	}
	return routes, nil
}

// mainRoutes are the main table's for the lan NIC alone (a multi-path route over several NICs
// is not the lan NIC's). A lan NIC that is gone has none.
func (h *Host) mainRoutes(id Identity) (lan netlink.Link, list []netlink.Route, err error) {
	lan, err = h.link(id.Lan)
	if err != nil {
		return nil, nil, err
	}
	if lan == nil {
		return nil, nil, nil
	}
	routes, err := h.routesIn(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, nil, err
	}
	families := id.families()
	for _, r := range routes {
		dst := prefixOf(r.Dst, r.Family == unix.AF_INET6)
		if r.LinkIndex != lan.Attrs().Index || r.Type != unix.RTN_UNICAST || !slices.Contains(families, r.Family) ||
			dst.Addr().IsLinkLocalUnicast() || dst.Addr().IsMulticast() {
			continue
		}
		r.Dst = ipNet(dst)
		list = append(list, r)
	}
	return lan, list, nil
}

// routeKey is what makes two routes of one table the same.
type routeKey struct {
	dst              netip.Prefix
	gw, src          string
	device, priority int
}

func routeKeyOf(r netlink.Route) routeKey {
	k := routeKey{dst: prefixOf(r.Dst, r.Family == unix.AF_INET6), gw: r.Gw.String(), src: r.Src.String(), device: r.LinkIndex, priority: r.Priority}
	if r.Family == unix.AF_INET6 && k.priority == 0 {
		k.priority = 1024 // IP6_RT_PRIO_USER, which the kernel writes for 0
	}
	return k
}

// wanted is what one table shall hold.
type wanted struct {
	table  int
	routes []netlink.Route
	ours   func(netlink.Route) bool // beside the protocol: what of a route tells that it was made here
	keep   bool                     // what there is beside them stays
}

// tablesFor lists what the identity's tables shall hold.
func (h *Host) tablesFor(id Identity, dev int) ([]wanted, error) {
	routes, err := h.routesFor(id, dev)
	if err != nil {
		return nil, err
	}
	keep, err := h.lanRests(id)
	if err != nil {
		return nil, err
	}
	byDevice := func(r netlink.Route) bool { return r.LinkIndex == dev }
	list := []wanted{{id.Table, routes, byDevice, keep}}
	if id.StageTable == 0 {
		return list, nil
	}
	sources, err := h.sources(id)
	if err != nil {
		return nil, err
	}
	return append(list,
		wanted{id.StageTable, deliveries(id, dev), func(r netlink.Route) bool { return byDevice(r) && r.Type == unix.RTN_LOCAL }, false},
		wanted{sourceTable(id.StageTable), sources, func(r netlink.Route) bool { return !byDevice(r) }, keep}), nil
}

// lanRests reports whether the lan NIC is gone or switched off. The host has lost its routes there
// with it, and what they were is not known before it is back: an identity that another NIC carries
// must not lose its router too.
func (h *Host) lanRests(id Identity) (bool, error) {
	if id.Lan == "" {
		return false, nil
	}
	lan, err := h.link(id.Lan)
	return lan == nil || lan.Attrs().RawFlags&unix.IFF_UP == 0, err
}

func (h *Host) ensureRoutes(id Identity, link netlink.Link) error {
	tables, err := h.tablesFor(id, link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, want := range tables {
		if err := h.ensureTable(want); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) ensureTable(want wanted) error {
	have, err := h.routesIn(want.table)
	if err != nil {
		return err
	}
	for _, r := range have {
		if r.Protocol != Protocol || !want.ours(r) {
			return fmt.Errorf("use routing table %d: it holds a route to %s of protocol %d through interface %d: %w; choose another table",
				want.table, prefixOf(r.Dst, r.Family == unix.AF_INET6), r.Protocol, r.LinkIndex, ErrForeign)
		}
	}
	for _, r := range want.routes {
		if slices.ContainsFunc(have, func(o netlink.Route) bool { return routeKeyOf(o) == routeKeyOf(r) }) {
			continue
		}
		if err := h.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route to %s via %s in table %d: %w", r.Dst, r.Gw, want.table, err)
		}
	}
	if want.keep {
		return nil
	}
	return h.deleteSurplusRoutes(want.table, want.routes)
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
