// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sandbox gives the test's thread a network namespace and a bpffs of its own.
func sandbox(t *testing.T) (pins string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("this test needs root")
		}
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespace with it
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "pins")
}

func add(t *testing.T, l netlink.Link) int {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func filters(t *testing.T, index int, parent uint32) int {
	t.Helper()
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.FilterList(l, parent)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func open(t *testing.T, pins string, lan, tick int) *Datapath {
	t.Helper()
	cfg := Config{Nodes: 2, Keys: []Key{{K0: 1, K1: 2, ID: 3}}, Probe: 1e6, SuspectAfter: 3e6, DeadAfter: 5e6, BootHold: 3e9, ConfirmProbes: 3}
	cfg.Links[Lan].Index = lan
	d, err := Open(cfg, Options{PinDir: pins, NoTCX: true, Log: slog.New(slog.DiscardHandler), Anew: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if err := d.AttachNIC(Lan, lan); err != nil {
		t.Fatal(err)
	}
	if err := d.AttachTick(tick); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWithoutTCXTheClassifierCarriesTheGateOverARestart(t *testing.T) {
	pins := sandbox(t)
	lan := add(t, &netlink.Veth{LinkAttrs: named("lan"), PeerName: "far"})
	tick := add(t, &netlink.Veth{LinkAttrs: named("tick0"), PeerName: "tick1"})
	want := func(n int, when string) {
		t.Helper()
		if out := filters(t, lan, netlink.HANDLE_MIN_EGRESS); out != n {
			t.Errorf("%s: %d filters on the way out, want %d", when, out, n)
		}
		if in := filters(t, tick, netlink.HANDLE_MIN_INGRESS); in != n {
			t.Errorf("%s: %d filters for the tick, want %d", when, in, n)
		}
	}
	first := open(t, pins, lan, tick)
	want(1, "attached")
	boot := first.State(0).BootID
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	want(1, "after the process")
	second := open(t, pins, lan, tick)
	if !second.Adopted() || second.State(0).BootID != boot {
		t.Error("the second process did not take over the first one's maps")
	}
	want(1, "taken over")
	if err := second.Remove(); err != nil {
		t.Fatal(err)
	}
	want(0, "removed")
	if _, err := os.Stat(pins); !os.IsNotExist(err) {
		t.Errorf("pins are left: %v", err)
	}
}

func TestADriverWithoutXDPRunsGenericMode(t *testing.T) {
	pins := sandbox(t)
	lan := add(t, &netlink.Bridge{LinkAttrs: named("lan")})
	tick := add(t, &netlink.Veth{LinkAttrs: named("tick0"), PeerName: "tick1"})
	d := open(t, pins, lan, tick)
	if m := d.Mode(Lan); m != ModeGeneric {
		t.Errorf("a bridge runs XDP in mode %q, want %q", m, ModeGeneric)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, pins, lan, tick)
	if m := again.Mode(Lan); m != ModeGeneric {
		t.Errorf("taken over, it reports mode %q, want %q", m, ModeGeneric)
	}
	if err := again.Remove(); err != nil {
		t.Fatal(err)
	}
}

// attached tells whether the programs are on a link's NIC.
func attached(t *testing.T, d *Datapath, role, index int) bool {
	t.Helper()
	on, err := d.Attached(role, index)
	if err != nil {
		t.Fatal(err)
	}
	return on
}

func TestANICThatComesInTheOthersPlaceIsTakenAndTakenOverByASuccessor(t *testing.T) {
	for _, noTCX := range []bool{true, false} {
		pins := sandbox(t)
		lan := add(t, &netlink.Veth{LinkAttrs: named("lan"), PeerName: "far"})
		tick := add(t, &netlink.Veth{LinkAttrs: named("tick0"), PeerName: "tick1"})
		open := func(index int, mac [6]byte) *Datapath {
			t.Helper()
			cfg := Config{Nodes: 2, Keys: []Key{{K0: 1, K1: 2, ID: 3}}, Probe: 1e6, SuspectAfter: 3e6, DeadAfter: 5e6, BootHold: 3e9, ConfirmProbes: 3}
			cfg.Links[Lan] = LinkConfig{Index: index, MAC: mac}
			cfg.Identities = []IdentityConfig{{Carrier: index, Candidates: 3}}
			d, err := Open(cfg, Options{PinDir: pins, NoTCX: noTCX, Log: slog.New(slog.DiscardHandler), Anew: func() error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			if index > 0 {
				err = d.AttachNIC(Lan, index)
			}
			if err := errors.Join(err, d.AttachTick(tick), d.Start()); err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := open(lan, [6]byte{2, 1})
		if !attached(t, d, Lan, lan) {
			t.Error("it is not attached to its first NIC")
		}
		l, err := netlink.LinkByIndex(lan)
		if err == nil {
			err = errors.Join(netlink.LinkDel(l), d.DropNIC(Lan, []int{0}))
		}
		if err != nil {
			t.Fatal(err)
		}
		if attached(t, d, Lan, lan) {
			t.Error("it says that it is attached to a NIC that is gone")
		}
		boot := d.State(0).BootID
		d = successor(t, d, func() *Datapath { return open(0, [6]byte{}) })
		if !d.Adopted() || d.State(0).BootID != boot {
			t.Error("without the NIC a successor starts anew")
		}
		lan = add(t, &netlink.Veth{LinkAttrs: named("lan"), PeerName: "far"})
		if err := d.MoveNIC(Lan, lan, [6]byte{2, 7}, []int{0}); err != nil {
			t.Fatal(err)
		}
		if !attached(t, d, Lan, lan) {
			t.Error("it is not attached to the NIC that came")
		}
		d = successor(t, d, func() *Datapath { return open(lan, [6]byte{2, 7}) })
		if !d.Adopted() || d.State(0).BootID != boot {
			t.Error("with the new NIC a successor starts anew")
		}
		if !attached(t, d, Lan, lan) {
			t.Error("the successor is not attached to the NIC that came")
		}
		if err := errors.Join(d.Remove(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// successor closes a datapath as a process does that ends, and opens the next.
func successor(t *testing.T, d *Datapath, open func() *Datapath) *Datapath {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return open()
}
