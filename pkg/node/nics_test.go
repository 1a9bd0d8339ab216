// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
)

// TestABadDayOfTheNICs goes through what becomes of a node's NICs while it runs.
func TestABadDayOfTheNICs(t *testing.T) {
	c := running(t, lab.Scene{})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"what a LAN NIC carried that is pulled out the spare one carries, and plugged in again it serves", lanPulledOut},
		{"a crossover NIC that is pulled out moves nobody", func(t *testing.T, c *cluster) { pulledOutMovesNobody(t, c, lab.Serv1, lab.Crossover) }},
		{"a spare NIC that is plugged in again carries what is taken over", spareReplaced},
		{"a NIC that is renamed is missing until its name is back", renamed},
		{"a NIC that is missing at the start is waited for", missingAtStart},
		{"each link switched off is told, and switched on it heals", switchedOff},
		{"programs that somebody detaches are put back", detached},
		{"another program's XDP is refused by name and left alone", foreignXDP},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

// What is kept ahead is answered for as soon as its device is there, so the gate has to be there before: when a
// node boots, and when a daemon finds what one has left whose programs are gone.
func TestNothingOfAnIdentityIsThereBeforeItsGate(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious", Staging: "ahead"})
	n := c.Node(lab.Serv1)
	gatesComeFirst(t, c, n)
	await(t, "the daemon runs", func() error { // killed before it marks its devices it is given them again
		_, err := c.api[n.Name].Status(t.Context())
		return err
	})
	must(t, n.Kill())
	must(t, os.RemoveAll(n.PinDir))
	gatesComeFirst(t, c, n)
}

// gatesComeFirst watches a node while its daemon starts.
func gatesComeFirst(t *testing.T, c *cluster, n *lab.Node) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate, 1024), make(chan struct{})
	defer close(done)
	must(t, c.Do(n.Name, func() error { return netlink.LinkSubscribe(updates, done) }))
	carriers, old := map[string]string{"xd-files": "eth0", "xd-mail": "eth2"}, map[int]bool{}
	must(t, c.Do(n.Name, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			old[l.Attrs().Index] = true
		}
		return err
	}))
	must(t, n.Start())
	for limit := time.After(patience); len(carriers) > 0; {
		select {
		case u := <-updates:
			carrier, wanted := carriers[u.Attrs().Name]
			if !wanted || u.Header.Type != unix.RTM_NEWLINK || old[u.Attrs().Index] {
				continue
			}
			delete(carriers, u.Attrs().Name)
			must(t, c.Do(n.Name, func() error {
				nic, err := netlink.LinkByName(carrier)
				if err == nil && (nic.Attrs().Xdp == nil || !nic.Attrs().Xdp.Attached) {
					err = fmt.Errorf("%s is there and %s has no gate", u.Attrs().Name, carrier)
				}
				return err
			}))
		case <-limit:
			t.Fatalf("no device of %v", carriers)
		}
	}
}

var nicNames = map[lab.Role]string{lab.LAN: "eth0", lab.Crossover: "eth1", lab.Spare: "eth2"}

func (c *cluster) awaitMissing(t *testing.T, node string, role lab.Role, since uint64) {
	t.Helper()
	await(t, "the missing NIC is in view", func() error { return c.hasTrouble(node, "nic-missing", role.String(), nicNames[role]) })
	c.awaitEvent(t, node, since, "nic-missing", nicNames[role])
}

func (c *cluster) awaitBack(t *testing.T, node string, role lab.Role, since uint64) {
	t.Helper()
	await(t, "the NIC is back", func() error { return c.noTrouble(node) })
	c.awaitEvent(t, node, since, "nic-missing", nicNames[role]+" is there and is used")
}

func lanPulledOut(t *testing.T, c *cluster) {
	since := c.lastEvent(t, lab.Serv1)
	w := c.watchAt(t, files, atNode(lab.Serv1), lab.Serv2)
	must(t, c.Unplug(lab.Serv1, lab.LAN))
	c.carriedBy(t, files, lab.Serv1, "spare")
	w.awaitAnswerBy(lab.Serv1)
	c.awaitMissing(t, lab.Serv1, lab.LAN, since)
	must(t, c.Plug(lab.Serv1, lab.LAN))
	c.awaitBack(t, lab.Serv1, lab.LAN, since)
	c.carriedBy(t, files, lab.Serv1, "lan")
	c.awaitSettled(t, atHome)
	w.awaitAnswerBy(lab.Serv1)
	w.end()
	for _, kind := range []string{"repair-failed", "routes-failed", "nic-failed"} {
		if c.hasTold(t, lab.Serv1, since, kind) {
			t.Errorf("serv1 told of %s", kind)
		}
	}
}

func pulledOutMovesNobody(t *testing.T, c *cluster, node string, role lab.Role) {
	since := c.lastEvent(t, node)
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	must(t, c.Unplug(node, role))
	c.awaitMissing(t, node, role, since)
	must(t, c.serves(lab.Serv1, atHome))
	must(t, c.Plug(node, role))
	c.awaitBack(t, node, role, since)
	c.awaitSettled(t, atHome) // each link is heard at both ends
	w.endLossless()
}

// spareReplaced: what the spare NIC carries is prepared on the new one, which the takeover then uses.
func spareReplaced(t *testing.T, c *cluster) {
	pulledOutMovesNobody(t, c, lab.Serv2, lab.Spare)
	c.aside(t, lab.Serv2, files, "spare")
	w := fail(t, c, lab.FaultHang)
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultHang, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	if sum := w.end(); sum.After != lab.Serv2 {
		t.Errorf("at the end %s answers", sum.After)
	}
}

func renamed(t *testing.T, c *cluster) {
	since := c.lastEvent(t, lab.Serv1)
	w := c.watch(t, mail, lab.Serv1, lab.Serv2)
	rename := func(from, to string) {
		t.Helper()
		must(t, c.Do(lab.Serv1, func() error { // switched off meanwhile, as kernels before 6.2 want it
			nic, err := netlink.LinkByName(from)
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetDown(nic), netlink.LinkSetName(nic, to), netlink.LinkSetUp(nic))
		}))
	}
	rename("eth2", "wan7")
	c.awaitMissing(t, lab.Serv1, lab.Spare, since)
	c.aside(t, lab.Serv1, mail, "lan")
	await(t, "nothing has moved", func() error { return c.serves(lab.Serv1, atHome) })
	rename("wan7", "eth2")
	c.awaitBack(t, lab.Serv1, lab.Spare, since)
	c.awaitSettled(t, atHome)
	w.endLossless()
	c.aside(t, lab.Serv1, mail, "spare")
	w = c.watch(t, mail, lab.Serv1, lab.Serv2)
	c.handOver(t, lab.Serv1, "mail", lab.Serv1)
	c.awaitSettled(t, everythingOn(lab.Serv1))
	w.awaitAnswerBy(lab.Serv1)
	w.end()
}

func missingAtStart(t *testing.T, c *cluster) {
	n := c.Node(lab.Serv1)
	must(t, n.Kill())
	must(t, c.Unplug(lab.Serv1, lab.Spare))
	must(t, n.Restart())
	await(t, "the missing NIC is in view", func() error { return c.hasTrouble(lab.Serv1, "nic-missing", "spare", "eth2") })
	must(t, c.Plug(lab.Serv1, lab.Spare))
	c.awaitBack(t, lab.Serv1, lab.Spare, 0)
	c.oneOwnerEach(t)
}

func switchedOff(t *testing.T, c *cluster) {
	for _, role := range []lab.Role{lab.Crossover, lab.Spare} {
		since := c.lastEvent(t, lab.Serv1)
		w := c.watch(t, files, lab.Serv1, lab.Serv2)
		must(t, c.SwitchNIC(lab.Serv1, role, false))
		await(t, "it is told", func() error { return c.hasEvent(lab.Serv1, since, "carrier-lost", role.String()) })
		await(t, "nothing has moved", func() error { return c.serves(lab.Serv1, atHome) })
		must(t, c.SwitchNIC(lab.Serv1, role, true))
		await(t, "it is told", func() error { return c.hasEvent(lab.Serv1, since, "carrier-back", role.String()) })
		c.awaitSettled(t, atHome)
		w.endLossless()
	}
	since := c.lastEvent(t, lab.Serv1)
	w := c.watchAt(t, files, atNode(lab.Serv1), lab.Serv2)
	must(t, c.SwitchNIC(lab.Serv1, lab.LAN, false))
	c.carriedBy(t, files, lab.Serv1, "spare")
	w.awaitAnswerBy(lab.Serv1)
	c.awaitEvent(t, lab.Serv1, since, "carrier-lost", "lan")
	must(t, c.SwitchNIC(lab.Serv1, lab.LAN, true))
	c.carriedBy(t, files, lab.Serv1, "lan")
	c.awaitSettled(t, atHome)
	w.awaitAnswerBy(lab.Serv1)
	w.end()
}

func detached(t *testing.T, c *cluster) {
	for _, part := range []string{"link-lan-in", "link-lan-out", "link-crossover-in"} {
		since := c.lastEvent(t, lab.Serv1)
		l, err := link.LoadPinnedLink(filepath.Join(c.Node(lab.Serv1).PinDir, part), nil)
		if part == "link-lan-out" && errors.Is(err, os.ErrNotExist) {
			continue // a kernel without tcx: the gate is no link there
		}
		must(t, err)
		must(t, errors.Join(l.Detach(), l.Close()))
		await(t, part+" is back", func() error { return c.hasEvent(lab.Serv1, since, "programs-missing", "they are back") })
		again, err := link.LoadPinnedLink(filepath.Join(c.Node(lab.Serv1).PinDir, part), nil)
		must(t, err)
		info, err := again.Info()
		must(t, errors.Join(err, again.Close()))
		if x, tc := info.XDP(), info.TCX(); (x == nil || x.Ifindex == 0) && (tc == nil || tc.Ifindex == 0) {
			t.Errorf("%s is attached to nothing", part)
		}
		c.awaitSettled(t, atHome)
		must(t, c.noTrouble(lab.Serv1))
	}
}

// foreign is somebody else's program, on a node's NIC until the test ends.
func (c *cluster) foreign(t *testing.T, node, nic string) (info *ebpf.ProgramInfo) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "their_filter", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	info, err = p.Info()
	must(t, err)
	must(t, c.Do(node, func() error {
		l, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFd(l, p.FD())
	}))
	return info
}

func foreignXDP(t *testing.T, c *cluster) {
	n := c.Node(lab.Serv1)
	within(t, func(ctx context.Context) error {
		if status, err := n.Stop(ctx); err != nil || status != 0 {
			return fmt.Errorf("status %d: %w", status, err)
		}
		return nil
	})
	theirs := c.foreign(t, lab.Serv1, "eth2")
	id, _ := theirs.ID()
	status, out := c.runDaemon(t, lab.Serv1)
	for _, word := range []string{"another XDP program is on eth2", fmt.Sprintf("id %d", id), "their_filter", theirs.Tag, "ip link set dev eth2 xdp off"} {
		if status != 1 || !strings.Contains(out, word) {
			t.Errorf("status %d, without %q: %s", status, word, out)
		}
	}
	must(t, c.Do(lab.Serv1, func() error {
		l, err := netlink.LinkByName("eth2")
		if err != nil {
			return err
		}
		if x := l.Attrs().Xdp; x == nil || x.ProgId != uint32(id) {
			t.Errorf("on eth2 is %+v, not their program %d", x, id)
		}
		if _, err := netlink.LinkByName("xd-files"); err == nil {
			t.Error("the refused daemon left a device")
		}
		return netlink.LinkSetXdpFd(l, -1)
	}))
	if _, err := os.Stat(n.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the refused daemon left its pins (%v)", err)
	}
	must(t, n.Restart())
	c.oneOwnerEach(t)
}
