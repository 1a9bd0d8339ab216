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

	// For addresses that are kept ahead (see StageAddresses): this table and the
	// next are the identity's own; 0 without. Its rules there take StagePriority, which
	// must be below every identity's Priority, and SourcePriority, which must be above
	// every identity's last; both may be common to all identities.
	StageTable, StagePriority, SourcePriority int
}

// prepared is an identity and its device, as Prepare left them.
type prepared struct {
	Identity
	link   netlink.Link
	staged bool // its addresses are kept ahead ...
	owned  bool // ... and are the node's own all the same
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

// mainPriority is that of the main table's own rule.
const mainPriority = 32766

func (id Identity) check() error {
	const maxPriority = mainPriority - 3
	switch {
	case id.Name == "" || id.Carrier == "":
		return errors.New("name and carrier must be given")
	case id.MAC == [6]byte{} || id.MAC[0]&1 != 0:
		return fmt.Errorf("MAC %s must be a unicast address", net.HardwareAddr(id.MAC[:]))
	case id.Table <= 0 || id.Table >= unix.RT_TABLE_COMPAT && id.Table <= unix.RT_TABLE_LOCAL:
		return fmt.Errorf("table %d must be positive and none of the system's own (252 to 255)", id.Table)
	case id.Priority <= 0 || id.Priority > maxPriority:
		return fmt.Errorf("priority %d must be within 1 and %d", id.Priority, maxPriority)
	case id.StageTable != 0:
		return id.checkStage()
	}
	return nil
}

func (id Identity) checkStage() error {
	switch t := id.StageTable; {
	case t <= 0 || t+1 >= unix.RT_TABLE_COMPAT && t <= unix.RT_TABLE_LOCAL:
		return fmt.Errorf("stage table %d and the next must be positive and none of the system's own (252 to 255)", t)
	case t == id.Table || t+1 == id.Table:
		return fmt.Errorf("stage table %d and the next must not be table %d", t, id.Table)
	case id.StagePriority <= 0 || id.StagePriority >= id.Priority:
		return fmt.Errorf("stage priority %d must be positive and below priority %d", id.StagePriority, id.Priority)
	case id.SourcePriority <= id.Priority+2 || id.SourcePriority >= mainPriority:
		return fmt.Errorf("source priority %d must be above %d and below %d", id.SourcePriority, id.Priority+2, mainPriority)
	}
	return nil
}

// tables are the identity's own.
func (id Identity) tables() []int {
	if id.StageTable == 0 {
		return []int{id.Table}
	}
	return []int{id.Table, id.StageTable, sourceTable(id.StageTable)}
}

// Prepare puts the identity's device, rules and routes in place, without its
// addresses. It may be repeated: it repairs what is missing, follows the lan
// NIC's routes and a changed configuration (addresses no longer in it leave the
// device), and adopts what a killed process left, addresses included.
func (h *Host) Prepare(id Identity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.lock(id.Name)()
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
	if other, taken := h.holder(dev); taken && other != id.Name {
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
	p, _ := h.recall(id.Name)
	p.Identity, p.link = id, link
	if id.StageTable == 0 {
		p.staged, p.owned = false, false
	}
	if err := h.ensureOwnership(p); err != nil {
		return err
	}
	h.remember(p)
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
	for _, table := range id.tables() {
		delete(tables, table)
	}
	if len(tables) == 0 {
		return nil
	}
	if err := h.removeTables(tables); err != nil {
		return err
	}
	return h.ensureRules(id) // the rule into main may have been common to both
}

// Remove takes an identity off the host, with its addresses. It needs no
// Prepare in this process; one that is not there is no error.
func (h *Host) Remove(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.lock(name)()
	link, err := h.owned(DeviceName(name))
	if err == nil && link != nil {
		err = h.removeDevice(link)
	}
	if p, known := h.recall(name); err == nil && known {
		tables := make(map[int]bool)
		for _, table := range p.tables() {
			tables[table] = true
		}
		err = h.removeTables(tables)
	}
	if err != nil {
		return fmt.Errorf("remove identity %s: %w", name, err)
	}
	h.forget(DeviceName(name))
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
		if err := h.removeWhole(link); err != nil {
			errs = append(errs, err)
		}
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

// removeWhole removes a device and what this process knows of its identity, if it does.
func (h *Host) removeWhole(link netlink.Link) error {
	dev := link.Attrs().Name
	if name, taken := h.holder(dev); taken {
		defer h.lock(name)()
	}
	if err := h.removeDevice(link); err != nil {
		return err
	}
	h.forget(dev)
	return nil
}

// removeDevice removes one of our own devices and first the rules that lead to it.
func (h *Host) removeDevice(link netlink.Link) error {
	tables, err := h.tablesOf(link)
	if err != nil {
		return err
	}
	if err := h.removeTables(tables); err != nil {
		return err
	}
	err = h.nl.LinkDel(link)
	// The other end of a veth pair goes with the first, a macvlan with its carrier.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// tablesOf are the tables of a device's identity: those that hold routes of
// ours through it, and beside a table of deliveries that of the sources.
func (h *Host) tablesOf(link netlink.Link) (map[int]bool, error) {
	routes, err := h.routesIn(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return nil, err
	}
	tables := make(map[int]bool)
	for _, r := range routes {
		if r.LinkIndex != link.Attrs().Index || r.Protocol != Protocol || r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		tables[r.Table] = true
		if r.Type == unix.RTN_LOCAL {
			tables[sourceTable(r.Table)] = true
		}
	}
	return tables, nil
}

// removeTables empties an identity's tables, and first removes the rules that lead there.
func (h *Host) removeTables(tables map[int]bool) error {
	if err := h.removeRules(func(r netlink.Rule) bool { return tables[r.Table] }); err != nil {
		return err
	}
	for table := range tables {
		if err := h.deleteSurplusRoutes(table, nil); err != nil {
			return err
		}
	}
	return nil
}
