// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is all that the daemon may change of a namespace, as text.
func (c *cluster) host(t *testing.T, node string) string {
	t.Helper()
	var b strings.Builder
	must(t, c.Do(node, func() error { return describeHost(&b) }))
	return b.String()
}

func describeHost(b *strings.Builder) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintln(b, "link", a.Index, a.Name, l.Type(), a.Flags, a.HardwareAddr, a.Alias, a.MTU, "promisc", a.Promisc, "xdp", a.Xdp != nil && a.Xdp.Attached)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, x := range addrs {
			fmt.Fprintln(b, " address", x.IPNet, x.Flags, x.Scope)
		}
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			fmt.Fprintln(b, " qdisc", q)
		}
		for _, parent := range []uint32{netlink.HANDLE_MIN_EGRESS, netlink.HANDLE_MIN_INGRESS} {
			filters, err := netlink.FilterList(l, parent)
			if err == nil && len(filters) > 0 {
				fmt.Fprintln(b, " filters", len(filters))
			}
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXEgress, ebpf.AttachTCXIngress} {
			q, err := link.QueryPrograms(link.QueryOptions{Target: a.Index, Attach: at})
			if err == nil && len(q.Programs) > 0 {
				fmt.Fprintln(b, " tcx", at, len(q.Programs))
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			fmt.Fprintln(b, "rule", family, r.Priority, r.Src, r.Table, r.SuppressPrefixlen)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			fmt.Fprintln(b, "route", family, r)
		}
	}
	return nil
}

// sysctls are the namespace's own, without those of devices that xdpha made.
func (c *cluster) sysctls(t *testing.T, node string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, c.Do(node, func() error {
		// By the thread: /proc/sys/net is of the namespace of whoever opens it.
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			dev := filepath.Base(filepath.Dir(path))
			if d.IsDir() || strings.HasPrefix(dev, "xd-") || strings.HasPrefix(dev, "xdtick") {
				return nil
			}
			// Some are for writing only, some want a value first; what can be read is compared.
			if b, err := os.ReadFile(path); err == nil {
				all[path] = string(b)
			}
			return nil
		})
	}))
	if len(all) < 100 {
		t.Fatalf("only %d sysctls could be read", len(all))
	}
	return all
}

func sameSysctls(t *testing.T, when string, before, after map[string]string) {
	t.Helper()
	if maps.Equal(before, after) {
		return
	}
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%s: %s was %q, is %q", when, k, v, after[k])
		}
	}
	for k := range after {
		if _, known := before[k]; !known {
			t.Errorf("%s: %s is new", when, k)
		}
	}
}

// pins lists what a node has pinned.
func (c *cluster) pins(t *testing.T, node string) (list []string) {
	t.Helper()
	dir := c.Node(node).PinDir
	paths, err := filepath.Glob(dir + "*/*")
	must(t, err)
	dirs, err := filepath.Glob(dir + "*")
	must(t, err)
	return append(dirs, paths...)
}
