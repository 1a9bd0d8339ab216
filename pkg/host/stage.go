// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Addresses that are kept ahead, on a standby behind its gate, must not be the standby's
// own: for each the kernel puts a local route into table local, which is asked
// first, and the standby's programs would reach themselves. So those routes are
// taken out, and two tables beside the identity's own stand in for them, S and S+1:
//
//	before all others  iif DEVICE lookup S           local BLOCK dev DEVICE            deliveries
//	after all others   to BLOCK iif lo lookup S+1    BLOCK [via GW] dev LAN src OWN    sources, IPv6 only
//
// What comes in by the device is delivered, from the moment on at which the
// gate opens; what the standby itself sends goes to the LAN, where the owner
// answers. Own puts local routes back, one for each block and not for each address,
// so that the rest of the owner (bind, its own programs) takes it for its own.
//
// The sources are there because an IPv6 socket prefers as its source the very
// address that it talks to, if any device has it (RFC 6724, rule 1); only a
// route's preferred source comes before that. Their rules come last, so that what an
// identity that is owned here sends to this one still leaves by its own device.

// localMetric keeps our local routes apart from the kernel's own (metric 0) for the same address.
const localMetric = int(Protocol)

// sourceTable is the one beside a table of deliveries, deliveryTable the way back.
func sourceTable(deliveries int) int { return deliveries + 1 }
func deliveryTable(sources int) int  { return sources - 1 }

func stageRules(id Identity) []netlink.Rule {
	var list []netlink.Rule
	for _, family := range id.families() {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Protocol = family, id.StagePriority, id.StageTable, Protocol
		r.IifName = DeviceName(id.Name)
		list = append(list, *r)
	}
	for _, block := range aggregate(id.Addresses) {
		if block.Addr().Is4() {
			continue
		}
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Protocol = unix.AF_INET6, id.SourcePriority, sourceTable(id.StageTable), Protocol
		r.IifName, r.Dst = "lo", ipNet(block) // lo: what this host itself sends
		list = append(list, *r)
	}
	return list
}

func deliveries(id Identity, dev int) []netlink.Route {
	var list []netlink.Route
	for _, block := range aggregate(id.Addresses) {
		list = append(list, localRoute(block, dev, id.StageTable))
	}
	return list
}

func localRoute(p netip.Prefix, dev, table int) netlink.Route {
	r := netlink.Route{Family: unix.AF_INET, Dst: ipNet(p), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: dev, Table: table, Protocol: Protocol}
	if p.Addr().Is6() {
		r.Family, r.Scope = unix.AF_INET6, netlink.SCOPE_UNIVERSE
	}
	return r
}

// sources repeats for each IPv6 block the lan NIC's route to it, with a source. A
// block that the lan NIC does not lead to, or for which it has no address, has none.
func (h *Host) sources(id Identity) ([]netlink.Route, error) {
	if id.Lan == "" || !id.hasIPv6() {
		return nil, nil
	}
	lan, routes, err := h.mainRoutes(id)
	if err != nil {
		return nil, err
	}
	if lan == nil {
		return nil, nil
	}
	addrs, err := h.addrs(lan)
	if err != nil {
		return nil, err
	}
	var list []netlink.Route
	for _, block := range aggregate(id.Addresses) {
		if !block.Addr().Is6() {
			continue
		}
		via, src := routeTo(routes, block), sourceFor(addrs, block)
		if via == nil || src == nil {
			continue
		}
		list = append(list, netlink.Route{
			Family: unix.AF_INET6, Dst: ipNet(block), Gw: via.Gw, Src: src.IP, MTU: via.MTU,
			LinkIndex: lan.Attrs().Index, Table: sourceTable(id.StageTable), Protocol: Protocol,
		})
	}
	return list, nil
}

// routeTo is the closest of the routes that cover a block.
func routeTo(routes []netlink.Route, block netip.Prefix) *netlink.Route {
	var best *netlink.Route
	length := func(r *netlink.Route) int { n, _ := r.Dst.Mask.Size(); return n }
	for i := range routes {
		r := &routes[i]
		p := prefixOf(r.Dst, r.Family == unix.AF_INET6)
		if p.Bits() > block.Bits() || !p.Contains(block.Addr()) {
			continue
		}
		if best == nil || length(r) > length(best) || length(r) == length(best) && r.Priority < best.Priority {
			best = r
		}
	}
	return best
}

// sourceFor is the host's lasting address that has most in common with a block (RFC 6724, rule 8).
func sourceFor(addrs []netlink.Addr, block netip.Prefix) *netlink.Addr {
	const unfit = unix.IFA_F_TENTATIVE | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED | unix.IFA_F_TEMPORARY
	var best *netlink.Addr
	common := -1
	for i, a := range addrs {
		if a.IP.To4() != nil || a.Flags&unfit != 0 || a.Scope != int(netlink.SCOPE_UNIVERSE) {
			continue
		}
		if n := commonBits(prefixOf(a.IPNet, true).Addr(), block.Addr()); n > common {
			best, common = &addrs[i], n
		}
	}
	return best
}

func commonBits(a, b netip.Addr) int {
	n := 0
	for p, err := a.Prefix(0); err == nil && p.Contains(b); p, err = a.Prefix(n) {
		n++
	}
	return n - 1
}

// StageAddresses puts the prepared identity's addresses on its device ahead of a
// takeover: frames that come in by the device are delivered and answered, but to
// the node's own programs the addresses are the LAN's, until Own. It does not
// change which of the two holds; for addresses that another process left, as
// AddAddresses puts them, it is Disown's state that they get unless Own was called before.
//
// While disowned, an IPv4 address cannot be bound to (EADDRNOTAVAIL; with IP_FREEBIND it
// can, and the socket gets what comes in), nor does netfilter's "addrtype LOCAL" match
// it: both go by table local. An IPv6 address can be bound to. Each address is the
// node's own for a moment while it is added. Where the lan NIC has no lasting IPv6 address, the node's programs
// would talk to an IPv6 address of the identity from that very address, and its gate stops
// them; Prepare follows the lan NIC's addresses, as it follows its routes.
func (h *Host) StageAddresses(name string) error {
	defer h.lock(name)()
	p, err := h.stageable(name)
	if err == nil {
		err = h.stage(p)
	}
	if err != nil {
		return fmt.Errorf("stage addresses of identity %s: %w", name, err)
	}
	return nil
}

func (h *Host) stage(p prepared) error {
	if !p.staged {
		have, err := h.localRoutes(p.link)
		if err != nil {
			return err
		}
		p.staged, p.owned = true, len(have.own) > 0
		h.remember(p)
	}
	var v4, v6 []netip.Addr
	for _, a := range addresses(p.Addresses) {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	if err := errors.Join(h.stageIPv4(p.link, v4), h.stageIPv6(p.link, v6)); err != nil {
		return err
	}
	return h.ensureOwnership(p) // for those that were there before
}

// stageIPv4 takes each local route out right after the address that brought it.
func (h *Host) stageIPv4(link netlink.Link, list []netip.Addr) error {
	var reqs []*nl.NetlinkRequest
	for _, a := range list {
		reqs = append(reqs, addrRequest(unix.RTM_NEWADDR, link, hostPrefix(a)), kernelRouteRequest(hostPrefix(a), link))
	}
	result := additions{link: link}
	err := h.batch.do(reqs, func(i int, err unix.Errno) {
		if i%2 == 0 {
			result.failed(list[i/2], err)
		} else if err != unix.ESRCH {
			result.errs.add(fmt.Errorf("remove the local route to %s: %w", list[i/2], err))
		}
	})
	return errors.Join(err, result.err())
}

// stageIPv6 has to wait for each batch's local routes: the kernel adds them from a work queue.
func (h *Host) stageIPv6(link netlink.Link, list []netip.Addr) error {
	if len(list) == 0 {
		return nil
	}
	watch := localWatch{host: h, link: link}
	if err := watch.open(); err != nil {
		return err
	}
	defer watch.close()
	for part := range slices.Chunk(list, batchSize) {
		added := additions{link: link}
		if err := h.addAddrs(&added, part); err != nil {
			return err
		}
		pending := make(map[netip.Addr]bool, len(part))
		for _, a := range part {
			pending[a] = true
		}
		for _, a := range added.there {
			delete(pending, a) // its route came long ago
		}
		if err := watch.await(pending); err != nil {
			return err
		}
		var out []netip.Prefix
		for _, a := range part {
			out = append(out, hostPrefix(a))
		}
		if err := h.removeKernelRoutes(link, out); err != nil {
			return err
		}
	}
	return nil
}

// localWatch follows the local routes that a device's IPv6 addresses get.
type localWatch struct {
	host   *Host
	link   netlink.Link
	socket *nl.NetlinkSocket
}

func (w *localWatch) open() error {
	if err := w.host.checkNS(); err != nil {
		return err
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	limit := unix.NsecToTimeval(int64(socketTimeout))
	err = s.SetReceiveTimeout(&limit)
	if err == nil && w.host.rcv > 0 {
		err = s.SetReceiveBufferSize(w.host.rcv, false)
	}
	if err != nil {
		s.Close()
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	w.socket = s
	return nil
}

func (w *localWatch) close() {
	if w.socket != nil {
		w.socket.Close()
		w.socket = nil
	}
}

// await returns when every pending address has had its local route.
func (w *localWatch) await(pending map[netip.Addr]bool) error {
	for len(pending) > 0 {
		msgs, _, err := w.socket.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			err = w.again(pending)
		}
		if err != nil {
			return fmt.Errorf("wait for local routes to %d IPv6 addresses on %s: %w", len(pending), w.link.Attrs().Name, err)
		}
		for _, m := range msgs {
			if r, ok := newRoute(m); ok && r.Table == unix.RT_TABLE_LOCAL && r.Type == unix.RTN_LOCAL && r.LinkIndex == w.link.Attrs().Index {
				delete(pending, prefixOf(r.Dst, true).Addr())
			}
		}
	}
	return nil
}

// again subscribes anew after messages were lost, and then looks at what is there:
// the old socket goes on losing messages, without saying so, until it was read empty.
func (w *localWatch) again(pending map[netip.Addr]bool) error {
	w.close()
	if err := w.open(); err != nil {
		return err
	}
	have, err := w.host.localRoutes(w.link)
	for began := time.Now(); errors.Is(err, netlink.ErrDumpInterrupted) && time.Since(began) < socketTimeout; {
		have, err = w.host.localRoutes(w.link) // the work queue is busy with at most one batch
	}
	if err != nil {
		return err
	}
	for _, p := range have.kernel {
		delete(pending, p.Addr())
	}
	return nil
}

// newRoute reads what a message about a new route says of it.
func newRoute(m syscall.NetlinkMessage) (r netlink.Route, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return r, false
	}
	msg := nl.DeserializeRtMsg(m.Data)
	attrs, err := nl.ParseRouteAttr(m.Data[msg.Len():])
	if err != nil {
		return r, false
	}
	r.Table, r.Type = int(msg.Table), int(msg.Type)
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.RTA_DST && len(a.Value) == 16:
			r.Dst = ipNet(netip.PrefixFrom(netip.AddrFrom16([16]byte(a.Value)), int(msg.Dst_len)))
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
			r.LinkIndex = int(nl.NativeEndian().Uint32(a.Value))
		}
	}
	return r, true
}

// Own makes a prepared identity's staged addresses the node's own, at a takeover:
// one local route for each block of addresses. It may come before StageAddresses,
// to make AddAddresses' addresses staged ones without a gap.
func (h *Host) Own(name string) error {
	defer h.lock(name)()
	p, err := h.stageable(name)
	if err == nil {
		p.owned = true
		h.remember(p)
		err = h.addLocalRoutes(p.link, aggregate(p.Addresses))
	}
	if err != nil {
		return fmt.Errorf("own identity %s: %w", name, err)
	}
	return nil
}

// Disown makes them the LAN's again.
func (h *Host) Disown(name string) error {
	defer h.lock(name)()
	p, err := h.stageable(name)
	if err == nil {
		p.staged, p.owned = true, false
		h.remember(p)
		err = h.ensureOwnership(p)
	}
	if err != nil {
		return fmt.Errorf("disown identity %s: %w", name, err)
	}
	return nil
}

func (h *Host) stageable(name string) (prepared, error) {
	p, known := h.recall(name)
	if !known {
		return p, ErrNotPrepared
	}
	if p.StageTable == 0 {
		return p, errors.New("it was prepared without a stage table")
	}
	return p, nil
}

// locals are the blocks that are the node's own by a device.
type locals struct {
	own    []netip.Prefix // by our routes
	kernel []netip.Prefix // by those that come with an address
}

func (h *Host) localRoutes(link netlink.Link) (l locals, err error) {
	routes, err := h.routesIn(unix.RT_TABLE_LOCAL)
	if err != nil {
		return l, err
	}
	for _, r := range routes {
		if r.LinkIndex != link.Attrs().Index || r.Type != unix.RTN_LOCAL {
			continue
		}
		p := prefixOf(r.Dst, r.Family == unix.AF_INET6)
		switch r.Protocol {
		case Protocol:
			l.own = append(l.own, p)
		case unix.RTPROT_KERNEL:
			l.kernel = append(l.kernel, p)
		}
	}
	return l, nil
}

// ensureOwnership brings table local to what Own or Disown made of it. Addresses
// that are not staged in this process keep what they were found with.
func (h *Host) ensureOwnership(p prepared) error {
	have, err := h.localRoutes(p.link)
	if err != nil {
		return err
	}
	var want []netip.Prefix
	if p.owned || !p.staged && len(have.own) > 0 {
		want = aggregate(p.Addresses)
	}
	if err := h.addLocalRoutes(p.link, want); err != nil {
		return err
	}
	if p.staged {
		if err := h.removeKernelRoutes(p.link, have.kernel); err != nil {
			return err
		}
	}
	return h.removeLocalRoutes(p.link, slices.DeleteFunc(have.own, func(q netip.Prefix) bool { return slices.Contains(want, q) }))
}

// verifyOwnership tells what ensureOwnership would change of staged addresses.
func (h *Host) verifyOwnership(p prepared) error {
	if !p.staged {
		return nil
	}
	have, err := h.localRoutes(p.link)
	if err != nil {
		return err
	}
	if !p.owned {
		if l := append(have.own, have.kernel...); len(l) > 0 {
			return fmt.Errorf("%d local routes make staged addresses this node's own, the first %s: %w", len(l), l[0], ErrNotPrepared)
		}
		return nil
	}
	for _, block := range aggregate(p.Addresses) {
		if !slices.Contains(have.own, block) {
			return fmt.Errorf("local route to %s is missing: %w", block, ErrNotPrepared)
		}
	}
	return nil
}

func (h *Host) addLocalRoutes(link netlink.Link, blocks []netip.Prefix) error {
	return h.changeLocalRoutes("add", link, blocks, unix.EEXIST, func(p netip.Prefix) *nl.NetlinkRequest {
		return localRouteRequest(unix.RTM_NEWROUTE, p, link, Protocol, localMetric)
	})
}

func (h *Host) removeLocalRoutes(link netlink.Link, blocks []netip.Prefix) error {
	return h.changeLocalRoutes("remove", link, blocks, unix.ESRCH, func(p netip.Prefix) *nl.NetlinkRequest {
		return localRouteRequest(unix.RTM_DELROUTE, p, link, Protocol, localMetric)
	})
}

// removeKernelRoutes takes out the local routes that the kernel made with the addresses.
func (h *Host) removeKernelRoutes(link netlink.Link, list []netip.Prefix) error {
	return h.changeLocalRoutes("remove", link, list, unix.ESRCH, func(p netip.Prefix) *nl.NetlinkRequest { return kernelRouteRequest(p, link) })
}

func (h *Host) changeLocalRoutes(verb string, link netlink.Link, list []netip.Prefix, done unix.Errno, request func(netip.Prefix) *nl.NetlinkRequest) error {
	reqs := make([]*nl.NetlinkRequest, len(list))
	for i, p := range list {
		reqs[i] = request(p)
	}
	var errs failures
	gone := false
	err := h.batch.do(reqs, func(i int, err unix.Errno) {
		switch err {
		case done:
		case unix.ENODEV:
			gone = true
		default:
			errs.add(fmt.Errorf("%s local route to %s by %s: %w", verb, list[i], link.Attrs().Name, err))
		}
	})
	if gone {
		return fmt.Errorf("device %s is gone: %w", link.Attrs().Name, ErrNotPrepared)
	}
	return errors.Join(err, errs.err())
}

func kernelRouteRequest(p netip.Prefix, link netlink.Link) *nl.NetlinkRequest {
	return localRouteRequest(unix.RTM_DELROUTE, p, link, unix.RTPROT_KERNEL, 0)
}

func localRouteRequest(kind int, p netip.Prefix, link netlink.Link, protocol, metric int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, 0)
	if kind == unix.RTM_NEWROUTE {
		req.Flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: unix.AF_INET, Dst_len: uint8(p.Bits()), Table: unix.RT_TABLE_LOCAL,
		Protocol: uint8(protocol), Scope: unix.RT_SCOPE_HOST, Type: unix.RTN_LOCAL,
	}}
	if p.Addr().Is6() {
		msg.Family, msg.Scope = unix.AF_INET6, unix.RT_SCOPE_UNIVERSE
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(link.Attrs().Index))))
	if metric > 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(metric))))
	}
	return req
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
