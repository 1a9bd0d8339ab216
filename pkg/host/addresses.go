// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AddAddresses puts the prepared identity's addresses on its device, in the
// configuration's order: IPv4 as /32, IPv6 as /128 without duplicate address
// detection, neither with a prefix route. One that is there already is a success. All are
// tried; the error names those that failed, the first few of many.
func (h *Host) AddAddresses(name string) error {
	h.mu.Lock()
	p, known := h.identities[name]
	h.mu.Unlock()
	if !known {
		return fmt.Errorf("add addresses of identity %s: %w", name, ErrNotPrepared)
	}
	if err := h.addAddrs(p.link, addresses(p.Addresses)); err != nil {
		return fmt.Errorf("add addresses of identity %s: %w", name, err)
	}
	return nil
}

// addAddrs goes by the index that Prepare found, without a look at the device: this is on
// the way of a takeover, and looking costs as much as several addresses.
func (h *Host) addAddrs(link netlink.Link, list []netip.Addr) error {
	reqs := make([]*nl.NetlinkRequest, len(list))
	for i, a := range list {
		reqs[i] = addrRequest(unix.RTM_NEWADDR, link, netip.PrefixFrom(a, a.BitLen()))
	}
	var errs failures
	gone := false
	err := h.batch.do(reqs, func(i int, err unix.Errno) {
		switch err {
		case unix.EEXIST:
		case unix.ENODEV:
			gone = true
		default:
			errs.add(fmt.Errorf("add %s to %s: %w", list[i], link.Attrs().Name, err))
		}
	})
	if gone {
		return fmt.Errorf("device %s is gone: %w", link.Attrs().Name, ErrNotPrepared)
	}
	return errors.Join(err, errs.err())
}

// RemoveAddresses takes every address off the identity's device, those of an
// earlier configuration too. A device that is not there has none.
func (h *Host) RemoveAddresses(name string) error {
	link, err := h.owned(DeviceName(name))
	if err != nil {
		return fmt.Errorf("remove addresses of identity %s: %w", name, err)
	}
	if link == nil {
		return nil
	}
	if err := h.clearAddrs(link); err != nil {
		return fmt.Errorf("remove addresses of identity %s: %w", name, err)
	}
	return nil
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

// Verify compares the host with what Prepare and AddAddresses put there. The
// error is ErrNotPrepared if the device, a rule or a route is missing or the
// device is down; missing are the addresses that are not on the device.
func (h *Host) Verify(name string) (missing []netip.Addr, err error) {
	id, link, err := h.preparedLink(name)
	if err != nil {
		return nil, fmt.Errorf("verify identity %s: %w", name, err)
	}
	list, err := h.addrs(link)
	if err != nil {
		return nil, fmt.Errorf("verify identity %s: %w", name, err)
	}
	have := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		have[prefixOf(a.IPNet, a.IP.To4() == nil).Addr()] = true
	}
	for _, a := range addresses(id.Addresses) {
		if !have[a] {
			missing = append(missing, a)
		}
	}
	if err := h.verifyPaths(id, link); err != nil {
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
		return fmt.Errorf("%d rules are missing, the first from %s: %w", len(rules), rules[0].Src, ErrNotPrepared)
	}
	routes, err := h.routesIn(id.Table)
	if err != nil {
		return err
	}
	have := make(map[routeKey]bool, len(routes))
	for _, r := range routes {
		have[routeKeyOf(r)] = true
	}
	want, err := h.routesFor(id, link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, r := range want {
		if !have[routeKeyOf(r)] {
			return fmt.Errorf("route to %s is missing from table %d: %w", r.Dst, id.Table, ErrNotPrepared)
		}
	}
	return nil
}

func (h *Host) preparedLink(name string) (Identity, netlink.Link, error) {
	h.mu.Lock()
	p, known := h.identities[name]
	h.mu.Unlock()
	if !known {
		return Identity{}, nil, ErrNotPrepared
	}
	link, err := h.owned(DeviceName(name))
	if err != nil {
		return Identity{}, nil, err
	}
	if link == nil || link.Attrs().Index != p.link.Attrs().Index {
		return Identity{}, nil, fmt.Errorf("device %s is gone or was made anew: %w", DeviceName(name), ErrNotPrepared)
	}
	return p.Identity, link, nil
}

func (h *Host) addrs(link netlink.Link) ([]netlink.Addr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read addresses of %s: %w", link.Attrs().Name, err)
	}
	return list, nil
}
