// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

// Options of a lab; the zero value is usable.
type Options struct {
	// Nodes is how many there are, two to MaxNodes; 0 is two.
	Nodes int
	// Log is told of what is done; nil is silent.
	Log *slog.Logger
	// Executable is what nodes run; empty means this program.
	Executable string
	// HandOver asks a node's daemon to hand an identity to the other node. It makes the fault "handover".
	HandOver func(ctx context.Context, n *Node, identity string) error
	// root is where labs live; tests have their own.
	root string
}

// Lab is a running lab. Its methods may be called from several goroutines.
type Lab struct {
	// Dir holds everything of this lab: ns/, bpf/, the configuration, a directory per node.
	Dir string
	// Nodes are serv1, serv2 and so on.
	Nodes []*Node

	opt    Options
	log    *slog.Logger
	lock   *os.File
	cables *loader.Lab

	mu       sync.Mutex // guards spaces, cables' links and recorded
	spaces   map[string]*namespace
	recorded map[int][][]byte // by port: frames of the peer, for an attacker

	ports   []Port // all cables
	broken  breakages
	parting sync.Mutex         // guards parted, and who hears whom
	parted  map[[2]string]bool // by Part
	cabling sync.Mutex         // held while cables get or lose their carrier, or are replaced

	closeOnce sync.Once
	closeErr  error
	stopAfter func() bool
}

var labCount atomic.Uint32

// New builds the lab, after removing what crashed runs left. It is closed when
// ctx ends, or by Close.
func New(ctx context.Context, opt Options) (_ *Lab, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.root == "" {
		opt.root = Root
	}
	if opt.Executable == "" {
		if opt.Executable, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
	}
	id := strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(int(labCount.Add(1)))
	if opt.Nodes = max(2, opt.Nodes); opt.Nodes > MaxNodes {
		return nil, fmt.Errorf("make a lab of %d nodes: there is room for %d", opt.Nodes, MaxNodes)
	}
	l := &Lab{opt: opt, log: opt.Log, spaces: map[string]*namespace{}, recorded: map[int][][]byte{}, ports: portsOfMany(opt.Nodes), parted: map[[2]string]bool{}}
	l.broken.ports = l.ports
	if l.Dir, l.lock, err = claim(opt.root, id, opt.Log); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := l.build(); err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	l.stopAfter = context.AfterFunc(ctx, func() { _ = l.Close() }) // Close reports to its next caller too
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Lab) build() (err error) {
	if err := mountLab(l.Dir); err != nil {
		return err
	}
	for i := range l.size() {
		n, err := newNode(l, server(i))
		if err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, n)
	}
	if l.cables, err = loader.LoadLab(); err != nil {
		return err
	}
	for i, id := range Identities {
		if err := l.cables.Watch(i, id.MAC); err != nil {
			return err
		}
	}
	spaces := spacesOfMany(l.size())
	for _, s := range spaces {
		if err := l.addSpace(s); err != nil {
			return err
		}
	}
	for _, p := range l.ports {
		if err := l.addCable(p); err != nil {
			return err
		}
	}
	for _, s := range spaces {
		if err := l.address(s); err != nil {
			return err
		}
	}
	return l.awaitCarrier(l.ports)
}

// size is the number of nodes.
func (l *Lab) size() int { return max(2, l.opt.Nodes) }

// spaceOf is a node's namespace as it is made.
func (l *Lab) spaceOf(node string) space {
	all := spacesOfMany(l.size())
	return all[slices.IndexFunc(all, func(s space) bool { return s.name == node })]
}

// addSpace makes a namespace, quiet and with its bridge if it is a switch.
func (l *Lab) addSpace(s space) error {
	n, err := newNamespace(s.name, filepath.Join(l.Dir, "ns", s.name))
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.spaces[s.name] = n
	l.mu.Unlock()
	return n.do(func() error {
		if err := setSysctls(s); err != nil {
			return fmt.Errorf("prepare %s: %w", s.name, err)
		}
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		if err := n.nl.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring up lo in %s: %w", s.name, err)
		}
		if !s.isSwitch {
			return nil
		}
		off := false // snooping would send queries of its own and wait before it floods
		br := &netlink.Bridge{LinkAttrs: upAttrs("br"), MulticastSnooping: &off}
		if err := n.nl.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge in %s: %w", s.name, err)
		}
		return nil
	})
}

// setSysctls makes a namespace behave the same on every machine; rp_filter and
// IPv6 as Debian with systemd has them, but no frame that nobody asked for.
func setSysctls(s space) error {
	set := [][2]string{
		{"ipv6/conf/default/addr_gen_mode", "1"}, {"ipv6/conf/all/addr_gen_mode", "1"},
		{"ipv6/conf/default/router_solicitations", "0"}, {"ipv6/conf/default/accept_ra", "0"},
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "2"},
	}
	if s.isSwitch {
		set = append(set, [2]string{"ipv6/conf/default/disable_ipv6", "1"}, [2]string{"ipv6/conf/all/disable_ipv6", "1"})
	}
	if s.ttl != 0 {
		ttl := strconv.Itoa(s.ttl)
		set = append(set, [2]string{"ipv4/ip_default_ttl", ttl}, [2]string{"ipv6/conf/all/hop_limit", ttl}, [2]string{"ipv6/conf/default/hop_limit", ttl})
	}
	for _, kv := range set {
		if err := sysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// HasIPv6 reports whether this kernel speaks IPv6; the lab does without if it must.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func upAttrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.Flags = name, net.FlagUp
	return a
}

// addCable makes a cable between switch and node and puts it under control.
func (l *Lab) addCable(p Port) error {
	sw, far := l.space(p.Switch), l.space(p.Node)
	if p.Node == Trunk {
		far = l.space(Sw2)
	}
	return sw.do(func() error {
		br, err := sw.nl.LinkByName("br")
		if err != nil {
			return fmt.Errorf("find bridge in %s: %w", p.Switch, err)
		}
		a := upAttrs(p.Name())
		a.Index, a.MasterIndex, a.HardwareAddr = p.Number, br.Attrs().Index, portMAC(p)
		veth := &netlink.Veth{LinkAttrs: a, PeerName: p.NIC, PeerHardwareAddr: nicMAC(p), PeerNamespace: netlink.NsFd(far.fd)}
		if err := sw.nl.LinkAdd(veth); err != nil {
			return fmt.Errorf("add cable %s: %w", p.Name(), err)
		}
		if err := joinFar(far, p); err != nil {
			return err
		}
		port := loader.LabPort{Node: cutIndex[p.Node], Bit: int(p.Role), Judge: p.Server()}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.cables.AttachCable(p.Number, port)
	})
}

// joinFar brings the far end up, and into the bridge if it is the trunk's.
func joinFar(far *namespace, p Port) error {
	nic, err := far.nl.LinkByName(p.NIC)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", p.NIC, far.name, err)
	}
	if p.Node == Trunk {
		br, err := far.nl.LinkByName("br")
		if err != nil {
			return fmt.Errorf("find bridge in %s: %w", far.name, err)
		}
		if err := far.nl.LinkSetMasterByIndex(nic, br.Attrs().Index); err != nil {
			return fmt.Errorf("join trunk to %s: %w", far.name, err)
		}
	}
	if err := far.nl.LinkSetUp(nic); err != nil {
		return fmt.Errorf("bring up %s in %s: %w", p.NIC, far.name, err)
	}
	return nil
}

// address gives a namespace its addresses and default route.
func (l *Lab) address(s space) error {
	n := l.space(s.name)
	for nic, addrs := range s.addrs {
		link, err := n.nl.LinkByName(nic)
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", nic, s.name, err)
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return fmt.Errorf("parse %s: %w", a, err)
			}
			if addr.IP.To4() == nil {
				if !HasIPv6() {
					continue
				}
				addr.Flags = unix.IFA_F_NODAD // nobody waits for a second until an address may be used
			}
			if err := n.nl.AddrReplace(link, addr); err != nil {
				return fmt.Errorf("add %s to %s in %s: %w", a, nic, s.name, err)
			}
		}
		if nic == "eth0" && s.gateway != "" {
			r := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(s.gateway)}
			if err := n.nl.RouteReplace(r); err != nil {
				return fmt.Errorf("add default route in %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// awaitCarrier returns when every port forwards: the kernel tells a bridge of a carrier from a work queue.
func (l *Lab) awaitCarrier(ports []Port) error {
	deadline := time.Now().Add(5 * time.Second)
	for _, p := range ports {
		for {
			link, err := l.space(p.Switch).nl.LinkByIndex(p.Number)
			if err != nil {
				return fmt.Errorf("find port %s: %w", p.Name(), err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("await carrier of %s: still %s after 5 s", p.Name(), link.Attrs().OperState)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// space returns a namespace that the lab surely has.
func (l *Lab) space(name string) *namespace {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spaces[name]
}

// Do runs f on a thread inside a namespace of the lab: sockets opened there and
// processes started there belong to it. f must not call Do for the same namespace.
func (l *Lab) Do(namespace string, f func() error) error {
	n := l.space(namespace)
	if n == nil {
		return fmt.Errorf("enter namespace %q: the lab has none of that name", namespace)
	}
	return n.do(f)
}

// Node returns one of the nodes; nil: there is none of the name.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Peer returns the other node; of more than two the next one.
func (l *Lab) Peer(name string) *Node { return l.Nodes[(numberOf(name)+1)%len(l.Nodes)] }

// Cables are the judge and the cuts as the kernel holds them.
func (l *Lab) Cables() *loader.Lab { return l.cables }

// Close ends the nodes and removes the lab. It may be called again, and returns the same.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() {
		if l.stopAfter != nil {
			l.stopAfter()
		}
		l.closeErr = l.close()
	})
	return l.closeErr
}

func (l *Lab) close() error {
	errs := []error{l.broken.removeAll()}
	errs = append(errs, killInside(filepath.Join(l.Dir, "ns", "*")))
	for _, n := range l.Nodes {
		n.reap()
	}
	if l.cables != nil {
		l.mu.Lock()
		errs = append(errs, l.cables.Close())
		l.mu.Unlock()
	}
	l.mu.Lock()
	all := l.spaces
	l.spaces = map[string]*namespace{}
	l.mu.Unlock()
	for _, n := range all {
		n.close()
	}
	errs = append(errs, release(l.Dir, l.lock))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab %s: %w", l.Dir, err)
	}
	return nil
}

// NowNs is CLOCK_BOOTTIME, on which everything in the lab and in the kernel is timed.
func NowNs() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail on any kernel that we support
	return ts.Nano()
}

// sameMAC compares a kernel's MAC with ours.
func sameMAC(a net.HardwareAddr, b [6]byte) bool { return bytes.Equal(a, b[:]) }
