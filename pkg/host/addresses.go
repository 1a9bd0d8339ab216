// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddresses puts the prepared identity's addresses on its device, in the
// configuration's order: IPv4 as /32, IPv6 as /128 without duplicate address
// detection, neither with a prefix route. One that is there already is a success. All are
// tried; the error names those that failed.
func (h *Host) AddAddresses(name string) error {
	h.mu.Lock()
	p, known := h.identities[name]
	h.mu.Unlock()
	if !known {
		return fmt.Errorf("add addresses of identity %s: %w", name, ErrNotPrepared)
	}
	// By the index that Prepare found, without a look at the device: this is on
	// the way of a takeover, and looking costs as much as several addresses.
	var errs []error
	for _, a := range addresses(p.Addresses) {
		err := h.nl.AddrAdd(p.link, hostAddr(a))
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("add addresses of identity %s: device %s is gone: %w", name, p.link.Attrs().Name, ErrNotPrepared)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add %s to %s: %w", a, p.link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
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
	list, err := h.addrs(link)
	if err != nil {
		return err
	}
	return h.deleteAddrs(link, list)
}

func (h *Host) deleteAddrs(link netlink.Link, list []netlink.Addr) error {
	var errs []error
	for _, a := range list {
		err := h.nl.AddrDel(link, &a)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove %s from %s: %w", a.IPNet, link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
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

func hostAddr(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NOPREFIXROUTE}
	if a.Is6() {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return addr
}
