// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is what there is to know of a NIC.
type Link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr
	Up      bool // switched on
	Carrier bool // the cable has a signal
	MTU     int
	Driver  string // as ethtool -i names it; empty if it does not say
}

// LinkInfo reads one NIC.
func (h *Host) LinkInfo(ifname string) (Link, error) {
	found, err := h.link(ifname)
	if err != nil {
		return Link{}, err
	}
	if found == nil {
		return Link{}, fmt.Errorf("read device %s: %w", ifname, unix.ENODEV)
	}
	link := linkOf(found)
	if info, err := unix.IoctlGetEthtoolDrvinfo(h.ctl, ifname); err == nil {
		link.Driver = unix.ByteSliceToString(info.Driver[:])
	}
	return link, nil
}

// IsGone reports whether an error says that there is no such device.
func IsGone(err error) bool { return errors.Is(err, unix.ENODEV) }

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	return Link{
		Name: a.Name, Index: a.Index, MAC: a.HardwareAddr, MTU: a.MTU,
		Up:      a.RawFlags&unix.IFF_UP != 0,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
}
