// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AddAddresses puts the prepared identity's addresses on its device, in the
// configuration's order: IPv4 as /32, IPv6 as /128 without duplicate address
// detection, neither with a prefix route. One that is there already is a success. All are
// tried; the error names those that failed, the first few of many. The node's own they are
// at once, those too that StageAddresses left there.
func (h *Host) AddAddresses(name string) error {
	defer h.lock(name)()
	p, known := h.recall(name)
	if !known {
		return fmt.Errorf("add addresses of identity %s: %w", name, ErrNotPrepared)
	}
	p.staged, p.owned = false, false
	h.remember(p)
	added := additions{link: p.link}
	err := h.addAddrs(&added, addresses(p.Addresses))
	if err == nil && len(added.there) > 0 {
		err = h.ownStaged(p, added.there)
	}
	if err != nil {
		return fmt.Errorf("add addresses of identity %s: %w", name, err)
	}
	return nil
}

// ownStaged makes addresses that were on the device already the node's own, if StageAddresses left them there.
func (h *Host) ownStaged(p prepared, list []netip.Addr) error {
	have, err := h.localRoutes(p.link)
	if err != nil {
		return err
	}
	local := make(map[netip.Addr]bool, len(have.kernel))
	for _, q := range have.kernel {
		local[q.Addr()] = true
	}
	if !slices.ContainsFunc(list, func(a netip.Addr) bool { return !local[a] }) {
		return nil
	}
	return h.addLocalRoutes(p.link, aggregate(p.Addresses))
}

// additions is what came of adding addresses to a device.
type additions struct {
	link  netlink.Link
	there []netip.Addr // before
	gone  bool         // the device is
	errs  failures
}

func (r *additions) failed(a netip.Addr, err unix.Errno) {
	switch err {
	case unix.EEXIST:
		r.there = append(r.there, a)
	case unix.ENODEV:
		r.gone = true
	default:
		r.errs.add(fmt.Errorf("add %s to %s: %w", a, r.link.Attrs().Name, err))
	}
}

func (r *additions) err() error {
	if r.gone {
		return fmt.Errorf("device %s is gone: %w", r.link.Attrs().Name, ErrNotPrepared)
	}
	return r.errs.err()
}

// addAddrs goes by the index that Prepare found, without a look at the device: this is on
// the way of a takeover, and looking costs as much as several addresses.
func (h *Host) addAddrs(added *additions, list []netip.Addr) error {
	reqs := make([]*nl.NetlinkRequest, len(list))
	for i, a := range list {
		reqs[i] = addrRequest(unix.RTM_NEWADDR, added.link, hostPrefix(a))
	}
	err := h.batch.do(reqs, func(i int, err unix.Errno) { added.failed(list[i], err) })
	return errors.Join(err, added.err())
}

// RemoveAddresses takes every address off the identity's device, staged ones and
// those of an earlier configuration too. A device that is not there has none.
func (h *Host) RemoveAddresses(name string) error {
	defer h.lock(name)()
	link, err := h.owned(DeviceName(name))
	if err != nil {
		return fmt.Errorf("remove addresses of identity %s: %w", name, err)
	}
	if p, known := h.recall(name); known {
		p.staged, p.owned = false, false
		h.remember(p)
	}
	if link == nil {
		return nil
	}
	err = h.clearAddrs(link)
	if err == nil {
		err = h.clearLocalRoutes(link)
	}
	if err != nil {
		return fmt.Errorf("remove addresses of identity %s: %w", name, err)
	}
	return nil
}

// clearLocalRoutes takes out what Own put there.
func (h *Host) clearLocalRoutes(link netlink.Link) error {
	have, err := h.localRoutes(link)
	if err != nil {
		return err
	}
	return h.removeLocalRoutes(link, have.own)
}

// clearAddrs takes off what it finds even where the reading was disturbed: for
// seconds after thousands of IPv6 addresses were added the kernel's work queue
// goes on changing them, and none of the readings would be whole.
func (h *Host) clearAddrs(link netlink.Link) error {
	for range dumpAttempts {
		list, err := h.nl.AddrList(link, netlink.FAMILY_ALL)
		whole := !errors.Is(err, netlink.ErrDumpInterrupted)
		if err != nil && whole {
			return fmt.Errorf("read addresses of %s: %w", link.Attrs().Name, err)
		}
		if err := h.deleteAddrs(link, list); err != nil {
			return err
		}
		if whole {
			return nil
		}
	}
	return fmt.Errorf("read addresses of %s: they changed during each of %d readings", link.Attrs().Name, dumpAttempts)
}

func (h *Host) deleteAddrs(link netlink.Link, list []netlink.Addr) error {
	reqs := make([]*nl.NetlinkRequest, len(list))
	for i, a := range list {
		reqs[i] = addrRequest(unix.RTM_DELADDR, link, prefixOf(a.IPNet, a.IP.To4() == nil))
	}
	var errs failures
	err := h.batch.do(reqs, func(i int, err unix.Errno) {
		if err != unix.EADDRNOTAVAIL && err != unix.ENODEV {
			errs.add(fmt.Errorf("remove %s from %s: %w", list[i].IPNet, link.Attrs().Name, err))
		}
	})
	return errors.Join(err, errs.err())
}

// addrRequest adds or removes one address. IFA_LOCAL alone means no peer.
func addrRequest(kind int, link netlink.Link, p netip.Prefix) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, 0)
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if p.Addr().Is6() {
		msg.Family = unix.AF_INET6
		flags |= unix.IFA_F_NODAD
	}
	msg.Prefixlen, msg.Index = uint8(p.Bits()), uint32(link.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	if kind == unix.RTM_NEWADDR {
		req.Flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	}
	return req
}

// Verify compares the host with what Prepare, AddAddresses or StageAddresses, Own
// and Disown put there. The error is ErrNotPrepared if the device, a rule or a
// route is missing, or the device is down, or staged addresses are the node's own
// and should not be; Prepare repairs it. missing are the addresses that are not on the device.
func (h *Host) Verify(name string) (missing []netip.Addr, err error) {
	defer h.lock(name)()
	p, err := h.preparedLink(name)
	if err != nil {
		return nil, fmt.Errorf("verify identity %s: %w", name, err)
	}
	list, err := h.addrs(p.link)
	if err != nil {
		return nil, fmt.Errorf("verify identity %s: %w", name, err)
	}
	have := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		have[prefixOf(a.IPNet, a.IP.To4() == nil).Addr()] = true
	}
	for _, a := range addresses(p.Addresses) {
		if !have[a] {
			missing = append(missing, a)
		}
	}
	if err = h.verifyPaths(p.Identity, p.link); err == nil {
		err = h.verifyOwnership(p)
	}
	if err != nil {
		return missing, fmt.Errorf("verify identity %s: %w", name, err)
	}
	return missing, nil
}

func (h *Host) verifyPaths(id Identity, link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down: %w", link.Attrs().Name, ErrNotPrepared)
	}
	rules, _, err := h.missingRules(id)
	if err != nil {
		return err
	}
	if len(rules) > 0 {
		return fmt.Errorf("%d rules are missing, the first %s: %w", len(rules), ruleText(rules[0]), ErrNotPrepared)
	}
	tables, err := h.tablesFor(id, link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, want := range tables {
		if err := h.verifyTable(want); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) verifyTable(want wanted) error {
	routes, err := h.routesIn(want.table)
	if err != nil {
		return err
	}
	have := make(map[routeKey]bool, len(routes))
	for _, r := range routes {
		have[routeKeyOf(r)] = true
	}
	for _, r := range want.routes {
		if !have[routeKeyOf(r)] {
			return fmt.Errorf("route to %s is missing from table %d: %w", r.Dst, want.table, ErrNotPrepared)
		}
	}
	return nil
}

// preparedLink is the identity with its device as it is now.
func (h *Host) preparedLink(name string) (prepared, error) {
	p, known := h.recall(name)
	if !known {
		return prepared{}, ErrNotPrepared
	}
	link, err := h.owned(DeviceName(name))
	if err != nil {
		return prepared{}, err
	}
	if link == nil || link.Attrs().Index != p.link.Attrs().Index {
		return prepared{}, fmt.Errorf("device %s is gone or was made anew: %w", DeviceName(name), ErrNotPrepared)
	}
	p.link = link
	return p, nil
}

func (h *Host) addrs(link netlink.Link) ([]netlink.Addr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read addresses of %s: %w", link.Attrs().Name, err)
	}
	return list, nil
}
