// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// setting is one per-device sysctl.
type setting struct{ family, name, value string }

// quiet keeps a device from saying or learning anything by itself.
// IPv4 forms of ARP conduct are the maximum of the device's and "all", so the
// device's own values hold whatever the host has set.
func quiet(ipv6 bool) []setting {
	disable := "1"
	if ipv6 {
		disable = "0"
	}
	return []setting{
		{"ipv4", "arp_ignore", "8"},   // XDP answers for the addresses, the stack never
		{"ipv4", "arp_announce", "2"}, // own requests name an address of this device
		{"ipv4", "arp_notify", "0"},
		{"ipv6", "addr_gen_mode", "1"}, // none: no link-local address from the virtual MAC
		{"ipv6", "accept_ra", "0"},
		{"ipv6", "autoconf", "0"},
		{"ipv6", "ndisc_notify", "0"},
		{"ipv6", "disable_ipv6", disable},
	}
}

// setSysctls quiets one of our own devices.
func (h *Host) setSysctls(dev string, ipv6 bool) error {
	if err := h.checkNS(); err != nil {
		return err
	}
	for _, s := range quiet(ipv6) {
		path := filepath.Join(h.proc, s.family, "conf", dev, s.name)
		err := os.WriteFile(path, []byte(s.value), 0)
		// A kernel without IPv6 has nothing to be kept quiet there.
		if errors.Is(err, fs.ErrNotExist) && s.family == "ipv6" && !ipv6 {
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", path, s.value, err)
		}
	}
	return nil
}
