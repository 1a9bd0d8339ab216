// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ground is what a measurement stands on: two network namespaces, and a bpffs for pins. All
// its work is done on one thread, for it is the thread that is in a namespace.
type ground struct {
	spaces [2]netns.NsHandle
	dir    string
}

func newGround() (_ *ground, err error) {
	g := &ground{spaces: [2]netns.NsHandle{netns.None(), netns.None()}}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if err := g.private(); err != nil {
		return nil, err
	}
	for i := range g.spaces {
		if g.spaces[i], err = quietNamespace(); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// private gives the thread a mount namespace with a bpffs of its own.
func (g *ground) private() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w (the benchmark needs root)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if g.dir, err = os.MkdirTemp("", "xdpha-bench-"); err != nil {
		return fmt.Errorf("make a directory for pins: %w", err)
	}
	if err := unix.Mount("xdpha-bench", g.dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs: %w", err)
	}
	return nil
}

// quietNamespace makes a network namespace without IPv6, and enters it.
func quietNamespace() (netns.NsHandle, error) {
	h, err := netns.New()
	if err != nil {
		return netns.None(), fmt.Errorf("make a network namespace: %w", err)
	}
	return h, sysctlIPv6("default/disable_ipv6", "1")
}

func sysctlIPv6(name, value string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0)
	if err != nil && (hasIPv6() || !errors.Is(err, fs.ErrNotExist)) { // a kernel without IPv6 is quiet enough
		return fmt.Errorf("set IPv6's %s: %w", name, err)
	}
	return nil
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func (g *ground) enter(space int) error {
	if err := netns.Set(g.spaces[space]); err != nil {
		return fmt.Errorf("enter namespace %d: %w", space, err)
	}
	return nil
}

func (g *ground) pins(name string) string { return filepath.Join(g.dir, name) }

// join lays a pair of this name at both ends; the thread is in namespace 0.
func (g *ground) join(name string, macs [2][6]byte) error {
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr(macs[0][:])},
		PeerName:  name, PeerNamespace: netlink.NsFd(int(g.spaces[1])), PeerHardwareAddr: net.HardwareAddr(macs[1][:]),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth pair %s: %w", name, err)
	}
	return nil
}

func setUp(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, fmt.Errorf("set %s up: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// close ends what would outlive the thread: descriptors and an empty directory.
func (g *ground) close() {
	for _, h := range g.spaces {
		if h.IsOpen() {
			_ = h.Close()
		}
	}
	if g.dir != "" {
		_ = unix.Unmount(g.dir, unix.MNT_DETACH)
		_ = os.Remove(g.dir)
	}
}
