// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

// Identity is what Prepare puts on the host.
type Identity struct {
	Name      string
	MAC       [6]byte
	Carrier   string // the NIC that carries the virtual MAC; must be up
	Lan       string // the NIC whose routes the identity's replies follow; may be the carrier
	Addresses []config.AddressRange
	Table     int // a routing table of the identity's own
	Priority  int // its rules take Priority, Priority+1 and Priority+2
}

// prepared is an identity and its device, as Prepare left them.
type prepared struct {
	Identity
	link netlink.Link
}

func (id Identity) hasIPv6() bool {
	return slices.ContainsFunc(id.Addresses, func(r config.AddressRange) bool { return r.First.Is6() })
}

func (id Identity) families() []int {
	var list []int
	if slices.ContainsFunc(id.Addresses, func(r config.AddressRange) bool { return r.First.Is4() }) {
		list = append(list, unix.AF_INET)
	}
	if id.hasIPv6() {
		list = append(list, unix.AF_INET6)
	}
	return list
}

func (id Identity) check() error {
	const maxPriority = 32766 - 3 // below the main table's own rule
	switch {
	case id.Name == "" || id.Carrier == "":
		return errors.New("name and carrier must be given")
	case id.MAC == [6]byte{} || id.MAC[0]&1 != 0:
		return fmt.Errorf("MAC %s must be a unicast address", net.HardwareAddr(id.MAC[:]))
	case id.Table <= 0 || id.Table >= unix.RT_TABLE_COMPAT && id.Table <= unix.RT_TABLE_LOCAL:
		return fmt.Errorf("table %d must be positive and none of the system's own (252 to 255)", id.Table)
	case id.Priority <= 0 || id.Priority > maxPriority:
		return fmt.Errorf("priority %d must be within 1 and %d", id.Priority, maxPriority)
	}
	return nil
}

// Prepare puts the identity's device, rules and routes in place, without its
// addresses. It may be repeated: it repairs what is missing, follows the lan
// NIC's routes and a changed configuration (addresses no longer in it leave the
// device), and adopts what a killed process left, addresses included.
func (h *Host) Prepare(id Identity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.prepare(id); err != nil {
		return fmt.Errorf("prepare identity %s: %w", id.Name, err)
	}
	return nil
}

func (h *Host) prepare(id Identity) error {
	if err := id.check(); err != nil {
		return err
	}
	dev := DeviceName(id.Name)
	if other, taken := h.devices[dev]; taken && other != id.Name {
		return fmt.Errorf("its device %s is identity %s's already; rename one of the two", dev, other)
	}
	carrier, err := h.link(id.Carrier)
	if err != nil {
		return err
	}
	if carrier == nil {
		return fmt.Errorf("carrier %s: no such device", id.Carrier)
	}
	link, err := h.ensureMacvlan(dev, carrier, id.MAC[:])
	if err != nil {
		return err
	}
	if err := h.setSysctls(dev, id.hasIPv6()); err != nil {
		return err
	}
	if err := h.up(link); err != nil {
		return err
	}
	// Routes before rules: a rule is never there without the routes by which
	// a later process sees whose it is.
	if err := h.ensureRoutes(id, link); err != nil {
		return err
	}
	if err := h.ensureRules(id); err != nil {
		return err
	}
	if err := h.dropOutdated(id, link); err != nil {
		return err
	}
	h.identities[id.Name], h.devices[dev] = prepared{id, link}, id.Name
	return nil
}

// dropOutdated removes what an earlier configuration put on the identity's
// device: addresses, and rules and routes in another table.
func (h *Host) dropOutdated(id Identity, link netlink.Link) error {
	list, err := h.addrs(link)
	if err != nil {
		return err
	}
	want := make(map[netip.Addr]bool) // there may be thousands
	for _, a := range addresses(id.Addresses) {
		want[a] = true
	}
	list = slices.DeleteFunc(list, func(a netlink.Addr) bool { return want[prefixOf(a.IPNet, a.IP.To4() == nil).Addr()] })
	if err := h.deleteAddrs(link, list); err != nil {
		return err
	}
	tables, err := h.tablesOf(link)
	if err != nil {
		return err
	}
	delete(tables, id.Table)
	if len(tables) == 0 {
		return nil
	}
	if err := h.removeRules(func(r netlink.Rule) bool { return tables[r.Table] }); err != nil {
		return err
	}
	for table := range tables {
		if err := h.deleteSurplusRoutes(table, nil); err != nil {
			return err
		}
	}
	return h.ensureRules(id) // the rule into main may have been common to both
}

// Remove takes an identity off the host, with its addresses. It needs no
// Prepare in this process; one that is not there is no error.
func (h *Host) Remove(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := h.owned(DeviceName(name))
	if err == nil && link != nil {
		err = h.removeDevice(link)
	}
	if p, known := h.identities[name]; err == nil && known {
		err = h.removeRules(func(r netlink.Rule) bool { return r.Table == p.Table })
	}
	if err != nil {
		return fmt.Errorf("remove identity %s: %w", name, err)
	}
	delete(h.identities, name)
	delete(h.devices, DeviceName(name))
	return nil
}

// RemoveAll takes off the host every device that bears the mark, with its rules
// and routes, whichever process made them, and rules of ours that lead nowhere.
// Identities named in keep stay (and tick pairs, if any is named).
func (h *Host) RemoveAll(mark string, keep ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := dump(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("remove devices marked %q: read devices: %w", mark, err)
	}
	var errs []error
	for _, link := range links {
		kept := slices.ContainsFunc(keep, func(name string) bool { return DeviceName(name) == link.Attrs().Name }) ||
			len(keep) > 0 && link.Type() == "veth"
		if link.Attrs().Alias != mark || kept {
			continue
		}
		if err := h.removeDevice(link); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(h.identities, h.devices[link.Attrs().Name])
		delete(h.devices, link.Attrs().Name)
	}
	// A rule whose routes went with a device that somebody else removed.
	if err := h.removeOrphanRules(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove devices marked %q: %w", mark, err)
	}
	return nil
}

// removeDevice removes one of our own devices and first the rules that lead to it.
func (h *Host) removeDevice(link netlink.Link) error {
	tables, err := h.tablesOf(link)
	if err != nil {
		return err
	}
	if err := h.removeRules(func(r netlink.Rule) bool { return tables[r.Table] }); err != nil {
		return err
	}
	err = h.nl.LinkDel(link)
	// The other end of a veth pair goes with the first, a macvlan with its carrier.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// tablesOf are the tables that hold routes of ours through a device.
func (h *Host) tablesOf(link netlink.Link) (map[int]bool, error) {
	routes, err := h.routesIn(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return nil, err
	}
	tables := make(map[int]bool)
	for _, r := range routes {
		if r.LinkIndex == link.Attrs().Index && r.Protocol == Protocol {
			tables[r.Table] = true
		}
	}
	return tables, nil
}
