// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// devicePrefix begins the name of every identity's device.
const devicePrefix = "xd-"

// maxName is the longest device name (IFNAMSIZ less the closing zero).
const maxName = unix.IFNAMSIZ - 1

// macvlanMode must be VEPA. A private macvlan keeps to itself every broadcast and
// multicast that comes in from its own MAC: on a standby whose device is on the LAN
// NIC, the owner's ARP requests and neighbour solicitations for the standby's own
// addresses would never reach the LAN NIC, nor any answer the owner.
const macvlanMode = netlink.MACVLAN_MODE_VEPA

// DeviceName is the name of an identity's device: xd-<identity>, or, where that
// is longer than a device name may be, its beginning, a tilde and a hash of the whole.
func DeviceName(identity string) string {
	name := devicePrefix + identity
	if len(name) <= maxName {
		return name
	}
	hash := fnv.New32a()
	hash.Write([]byte(identity))
	tail := fmt.Sprintf("~%05x", hash.Sum32()&0xfffff)
	return name[:maxName-len(tail)] + tail
}

// link finds a device; a missing one is nil without an error.
func (h *Host) link(name string) (netlink.Link, error) {
	link, err := dump(func() (netlink.Link, error) { return h.nl.LinkByName(name) })
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device %s: %w", name, err)
	}
	return link, nil
}

// owned finds one of our own devices and refuses another's.
func (h *Host) owned(name string) (netlink.Link, error) {
	link, err := h.link(name)
	if err != nil || link == nil {
		return nil, err
	}
	if alias := link.Attrs().Alias; alias != h.mark {
		return nil, fmt.Errorf("use device %s (%s, alias %q, not %q): %w; rename or remove it", name, link.Type(), alias, h.mark, ErrForeign)
	}
	return link, nil
}

// ensureMacvlan makes the identity's device or adopts the one that is there.
// One of ours on another carrier or with another MAC is made anew.
func (h *Host) ensureMacvlan(name string, carrier netlink.Link, mac net.HardwareAddr) (netlink.Link, error) {
	link, err := h.link(name)
	if err != nil {
		return nil, err
	}
	if link != nil {
		fits := isMacvlan(link, carrier.Attrs().Index, mac)
		switch {
		case link.Attrs().Alias == h.mark && fits:
			return link, nil
		case link.Attrs().Alias == h.mark:
			h.log.Info("device made anew", "device", name, "carrier", carrier.Attrs().Name, "mac", mac)
			if err := h.nl.LinkDel(link); err != nil {
				return nil, fmt.Errorf("remove device %s: %w", name, err)
			}
		case link.Attrs().Alias == "" && fits && link.Attrs().Flags&net.FlagUp == 0:
			// Ours, from a process killed between making and marking it.
			return link, h.markDevice(link)
		default:
			_, err := h.owned(name)
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = name, carrier.Attrs().Index, mac
	err = h.nl.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanMode})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("make macvlan %s on %s: this kernel has no macvlan; it needs CONFIG_MACVLAN (module macvlan): %w", name, carrier.Attrs().Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make macvlan %s with MAC %s on %s: %w", name, mac, carrier.Attrs().Name, err)
	}
	link, err = h.link(name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		return nil, fmt.Errorf("make macvlan %s: it is gone again; is another program removing it?", name)
	}
	return link, h.markDevice(link)
}

func isMacvlan(link netlink.Link, parent int, mac net.HardwareAddr) bool {
	m, ok := link.(*netlink.Macvlan)
	return ok && m.Mode == macvlanMode && m.ParentIndex == parent && bytes.Equal(m.HardwareAddr, mac)
}

func (h *Host) markDevice(link netlink.Link) error {
	if err := h.nl.LinkSetAlias(link, h.mark); err != nil {
		return fmt.Errorf("mark device %s as %q: %w", link.Attrs().Name, h.mark, err)
	}
	return nil
}

func (h *Host) up(link netlink.Link) error {
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set device %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// EnsureTickPair makes or adopts the private veth pair name0, name1 on which the
// pacer's frame circulates, and returns the ends' interface indexes.
func (h *Host) EnsureTickPair(name string) (a, b int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := [2]string{name + "0", name + "1"}
	if len(names[0]) > maxName {
		return 0, 0, fmt.Errorf("make tick pair: name %q is longer than %d", names[0], maxName)
	}
	ends, err := h.tickEnds(names)
	if err != nil {
		return 0, 0, err
	}
	if ends[0] == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = names[0]
		err := h.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: names[1]})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return 0, 0, fmt.Errorf("make veth pair %s, %s: this kernel has no veth; it needs CONFIG_VETH (module veth), or pacer: thread: %w", names[0], names[1], err)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("make veth pair %s, %s: %w", names[0], names[1], err)
		}
		if ends, err = h.tickEnds(names); err != nil {
			return 0, 0, err
		}
		if ends[0] == nil {
			return 0, 0, fmt.Errorf("make veth pair %s, %s: it is gone again; is another program removing it?", names[0], names[1])
		}
	}
	for _, end := range ends {
		if err := h.markDevice(end); err != nil {
			return 0, 0, err
		}
		if err := h.setSysctls(end.Attrs().Name, false); err != nil {
			return 0, 0, err
		}
	}
	for _, end := range ends {
		if err := h.up(end); err != nil {
			return 0, 0, err
		}
	}
	return ends[0].Attrs().Index, ends[1].Attrs().Index, nil
}

// tickEnds finds the pair: both ends, or neither (nil), or says whose they are.
// An unmarked pair that is down comes from a process killed while making it.
func (h *Host) tickEnds(names [2]string) (ends [2]netlink.Link, err error) {
	for i, name := range names {
		if ends[i], err = h.link(name); err != nil {
			return ends, err
		}
	}
	if ends[0] == nil && ends[1] == nil {
		return ends, nil
	}
	paired := ends[0] != nil && ends[1] != nil && ends[0].Type() == "veth" && ends[0].Attrs().ParentIndex == ends[1].Attrs().Index
	for i, end := range ends {
		if end == nil {
			continue
		}
		mine := end.Attrs().Alias == h.mark || end.Attrs().Alias == "" && end.Attrs().Flags&net.FlagUp == 0
		if !paired || !mine {
			return ends, fmt.Errorf("use device %s (%s, alias %q) as one end of the tick pair: %w; rename or remove it", names[i], end.Type(), end.Attrs().Alias, ErrForeign)
		}
	}
	return ends, nil
}
