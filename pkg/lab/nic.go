// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Unplug takes a NIC out of a node: it is gone, and all that was on it.
func (l *Lab) Unplug(node string, role Role) error {
	p, err := l.FindPort(node, role)
	if err != nil {
		return err
	}
	return l.onNIC(p, func(nl *netlink.Handle, link netlink.Link) error { return nl.LinkDel(link) })
}

// Plug puts a NIC of the same name into a node, a new one to its kernel, with the node's own
// addresses. It is on.
func (l *Lab) Plug(node string, role Role) error {
	p, err := l.FindPort(node, role)
	if err != nil {
		return err
	}
	if err := l.addCable(p); err != nil {
		return err
	}
	return l.managed(p)
}

// managed does for a NIC that has come up what the node's network manager would do.
func (l *Lab) managed(p Port) error {
	one := l.spaceOf(p.Node)
	one.addrs = map[string][]string{p.NIC: one.addrs[p.NIC]}
	if err := l.address(one); err != nil {
		return err
	}
	return l.awaitCarrier([]Port{p})
}

// Rename gives a node's NIC another name.
func (l *Lab) Rename(node string, from, to string) error {
	return l.onNIC(Port{Node: node, NIC: from}, func(nl *netlink.Handle, link netlink.Link) error { return nl.LinkSetName(link, to) })
}

// SwitchNIC switches a node's NIC off, or on again, as `ip link set` does.
func (l *Lab) SwitchNIC(node string, role Role, on bool) error {
	p, err := l.FindPort(node, role)
	if err != nil {
		return err
	}
	if !on {
		return l.onNIC(p, func(nl *netlink.Handle, link netlink.Link) error { return nl.LinkSetDown(link) })
	}
	if err := l.onNIC(p, func(nl *netlink.Handle, link netlink.Link) error { return nl.LinkSetUp(link) }); err != nil {
		return err
	}
	return l.managed(p)
}

func (l *Lab) onNIC(p Port, f func(*netlink.Handle, netlink.Link) error) error {
	n := l.space(p.Node)
	if n == nil {
		return fmt.Errorf("find NIC %s: the lab has no %s", p.NIC, p.Node)
	}
	return n.do(func() error {
		link, err := n.nl.LinkByName(p.NIC)
		if err == nil {
			err = f(n.nl, link)
		}
		if err != nil {
			return fmt.Errorf("change NIC %s of %s: %w", p.NIC, p.Node, err)
		}
		return nil
	})
}
