// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// TestABadDay goes through what goes wrong on hosts rather than between them, one after the other in one lab.
func TestABadDay(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious", SupervisorLease: "3s"})
	disk := c.smallDisk(t, lab.Serv1)
	for _, n := range c.Nodes {
		must(t, n.Start())
	}
	c.bringHome(t)
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"a full disk arms nothing new and ends nothing, until it has space again", func(t *testing.T, c *cluster) { fullDisk(t, c, disk) }},
		{"a state directory that becomes read-only arms nothing new, until it can be written", readOnlyState},
		{"a state directory that is read-only at the start is refused with what to do", readOnlyStateAtStart},
		{"without a file descriptor left the node serves, does not spin, and heals", noDescriptors},
		{"without a bpffs the daemon says how to mount one", noBPFFS},
		{"addresses, routes, rules and devices that somebody takes away are put back and counted", takenAwayIsPutBack},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

// smallDisk gives a node a state directory that is soon full.
func (c *cluster) smallDisk(t *testing.T, node string) (dir string) {
	t.Helper()
	dir = c.Node(node).StateDir
	must(t, unix.Mount("xdpha-test", dir, "tmpfs", 0, "size=2m,mode=0700"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// hasTrouble tells whether a node's status and metrics say that it is in a trouble, with all these words.
func (c *cluster) hasTrouble(node, kind string, words ...string) error {
	s, err := c.status(node)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.Troubles, func(x control.Trouble) bool {
		return x.Kind == kind && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(x.Text, w) })
	})
	if i < 0 {
		return fmt.Errorf("%s is in the troubles %+v, none is %s with %q", node, s.Troubles, kind, words)
	}
	m, err := c.metrics(node)
	if err == nil && m[`xdpha_trouble{kind="`+kind+`"}`] != 1 {
		err = fmt.Errorf("the metric of %s does not show it", node)
	}
	return err
}

// noTrouble tells whether a node is in none.
func (c *cluster) noTrouble(node string) error {
	s, err := c.status(node)
	if err != nil {
		return err
	}
	if len(s.Troubles) > 0 {
		return fmt.Errorf("%s is in the troubles %+v", node, s.Troubles)
	}
	m, err := c.metrics(node)
	for name, v := range m {
		if strings.HasPrefix(name, "xdpha_trouble{") && v != 0 {
			err = errors.Join(err, fmt.Errorf("%s has %s", node, name))
		}
	}
	return err
}

func fullDisk(t *testing.T, c *cluster, disk string) {
	fill, err := os.Create(filepath.Join(disk, "fill"))
	must(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = fill.Write(block)
	}
	t.Cleanup(func() { _ = os.Remove(fill.Name()) }) // gone already, unless the test failed
	must(t, fill.Close())                            // what is open keeps its space though it is removed
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk did not become full: %v", err)
	}
	promisesCannotBeKept(t, c, "no space left on device", func() { must(t, os.Remove(fill.Name())) })
}

func readOnlyState(t *testing.T, c *cluster) {
	end := readOnly(t, c.Node(lab.Serv1).StateDir)
	promisesCannotBeKept(t, c, "read-only file system", end)
}

// readOnly makes what is opened in a directory from now on read-only.
func readOnly(t *testing.T, dir string) (end func()) {
	t.Helper()
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	ended := false
	end = func() {
		if !ended {
			ended = true
			must(t, unix.Unmount(dir, unix.MNT_DETACH))
		}
	}
	t.Cleanup(end)
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	return end
}

// promisesCannotBeKept holds what must hold while serv1's state cannot be written, and after heal.
func promisesCannotBeKept(t *testing.T, c *cluster, reason string, heal func()) {
	t.Helper()
	state := c.Node(lab.Serv1).StateDir
	since := c.lastEvent(t, lab.Serv1)
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error {
		if err := c.api[lab.Serv1].Standby(ctx, true); err == nil || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("standby, which must outlive a reboot, was answered with: %v", err)
		}
		return nil
	})
	await(t, "the trouble is in view", func() error { return c.hasTrouble(lab.Serv1, "persist-failed", state, reason) })
	c.awaitEvent(t, lab.Serv1, since, "persist-failed", state)
	c.awaitEvent(t, lab.Serv1, since, "persist-failed", reason)
	must(t, c.serves(lab.Serv1, atHome))
	w.endLossless()

	c.awaitUnarmed(t)
	heal()
	c.awaitSettled(t, everythingOn(lab.Serv2)) // serv1 is armed
	await(t, "the trouble is over", func() error { return c.noTrouble(lab.Serv1) })
	c.awaitEvent(t, lab.Serv1, since, "persist-back", state)
}

// awaitUnarmed moves files away from serv1 until that one has nothing left that it promised before.
func (c *cluster) awaitUnarmed(t *testing.T) {
	t.Helper()
	move := func(to string) {
		t.Helper()
		c.handOver(t, lab.Serv1, "files", to)
	}
	for range 3 { // one promise is kept ahead
		move(lab.Serv2)
		await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
		armed := false
		for look := time.Now(); !armed && time.Since(look) < time.Second; time.Sleep(10 * time.Millisecond) {
			id, err := identity(c.mustStatus(t, lab.Serv1), "files")
			must(t, err)
			armed = id.Armed
		}
		if !armed {
			return
		}
		move(lab.Serv1)
		c.awaitSettled(t, atHome)
	}
	t.Fatal("serv1 is armed again and again, though it can promise nothing")
}

func readOnlyStateAtStart(t *testing.T, c *cluster) {
	n := c.Node(lab.Serv1)
	must(t, n.Kill())
	end := readOnly(t, n.StateDir)
	status, out := c.runDaemon(t, lab.Serv1)
	for _, word := range []string{n.StateDir, "read-only file system", "remount,rw", "--state-dir"} {
		if status != 1 || !strings.Contains(out, word) {
			t.Errorf("status %d, without %q: %s", status, word, out)
		}
	}
	end()
	must(t, n.Restart())
	c.oneOwnerEach(t)
}

// descriptors returns the lowest descriptor that a process does not use.
func descriptors(t *testing.T, pid int) (free uint64) {
	t.Helper()
	for {
		_, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, free))
		if errors.Is(err, os.ErrNotExist) {
			return free
		}
		must(t, err)
		free++
	}
}

// cpuTicks is the processor time that a process has used.
func cpuTicks(t *testing.T, pid int) (ticks uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, after, _ := strings.Cut(string(b), ") ") // the name may have spaces
	for _, at := range []int{11, 12} {
		v, err := strconv.ParseUint(strings.Fields(after)[at], 10, 64)
		must(t, err)
		ticks += v
	}
	return ticks
}

func noDescriptors(t *testing.T, c *cluster) {
	pid := c.Node(lab.Serv1).PID()
	await(t, "the services of serv1 are up: a start that cannot be run is a failure, a check that cannot is none", func() error {
		s, err := c.status(lab.Serv1)
		for _, svc := range s.Services {
			if svc.State != "up" && svc.Name != "maild" {
				err = errors.Join(err, fmt.Errorf("%s is %s", svc.Name, svc.State))
			}
		}
		return err
	})
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	var before unix.Rlimit
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before))
	heal := func() { must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil)) }
	t.Cleanup(heal)
	none := before
	c.api[lab.Serv1].Close() // an idle connection that ends meanwhile would set a descriptor free
	none.Cur = descriptors(t, pid)
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil))

	impatient := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		api := control.NewClient(c.Node(lab.Serv1).RunDir) // a connection that is open would do
		defer api.Close()
		_, err := api.Status(ctx)
		return err
	}
	await(t, "the API cannot answer", func() error {
		if err := impatient(); err == nil {
			none.Cur = descriptors(t, pid) // a connection was open and has closed
			return errors.Join(errors.New("it does"), unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil))
		}
		return nil
	})
	used, began := cpuTicks(t, pid), time.Now()
	stays(t, "the API cannot answer", 7*time.Second, func() error { // the services' checks come and go meanwhile, three in a row
		if err := impatient(); err == nil {
			return errors.New("it does")
		}
		return nil
	})
	const ticksPerSecond = 100 // USER_HZ
	if share := float64(cpuTicks(t, pid)-used) / ticksPerSecond / time.Since(began).Seconds(); share > 0.5 {
		t.Errorf("without descriptors the daemon used %.0f %% of a processor", 100*share)
	}
	heal()
	await(t, "both nodes are as they were", func() error { return c.settled(atHome) })
	w.endLossless()
	for _, s := range c.mustStatus(t, lab.Serv1).Services {
		if s.State == "failing" || s.State == "failed" || s.Restarts > 0 {
			t.Errorf("service %s is %s after %d restarts: that its check could not be run was taken for its failure", s.Name, s.State, s.Restarts)
		}
	}
	c.handOver(t, lab.Serv1, "files", lab.Serv2)
	c.awaitSettled(t, everythingOn(lab.Serv2))
}

func noBPFFS(t *testing.T, c *cluster) {
	n := c.Node(lab.Serv1)
	must(t, n.Kill())
	dir := t.TempDir()
	status, out := c.runDaemon(t, lab.Serv1, "--pin-dir", filepath.Join(dir, "pins"))
	if status != 1 || !strings.Contains(out, "mount -t bpf bpf "+dir) || !strings.Contains(out, "--pin-dir") {
		t.Errorf("status %d: %s", status, out)
	}
	must(t, n.Restart())
	c.oneOwnerEach(t)
}

func takenAwayIsPutBack(t *testing.T, c *cluster) {
	for _, tt := range []struct {
		name, what, event string
		take              func(dev netlink.Link) error
	}{
		{"an address", "addresses", "address-repaired", func(dev netlink.Link) error {
			addr, err := netlink.ParseAddr("192.0.2.21/32")
			must(t, err)
			return netlink.AddrDel(dev, addr)
		}},
		{"a route", "paths", "path-repaired", func(dev netlink.Link) error {
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, LinkIndex: dev.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
			must(t, err)
			for _, r := range routes {
				if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN {
					return netlink.RouteDel(&r)
				}
			}
			return errors.New("there is no route of its own")
		}},
		{"a rule", "paths", "path-repaired", func(netlink.Link) error { // of which no message tells
			rules, err := netlink.RuleList(netlink.FAMILY_V4)
			must(t, err)
			for _, r := range rules {
				if r.Src != nil && r.Src.IP.Equal(net.ParseIP("192.0.2.21")) {
					return netlink.RuleDel(&r)
				}
			}
			return errors.New("there is no rule of its own")
		}},
		{"the device", "paths", "path-repaired", netlink.LinkDel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			metric := `xdpha_repairs_total{identity="files",what="` + tt.what + `"}`
			before, since := c.mustMetrics(t, lab.Serv1)[metric], c.lastEvent(t, lab.Serv1)
			w := c.watch(t, files, lab.Serv1, lab.Serv2)
			must(t, c.Do(lab.Serv1, func() error {
				dev, err := netlink.LinkByName("xd-files")
				if err != nil {
					return err
				}
				return tt.take(dev)
			}))
			await(t, "it is told", func() error { return c.hasEvent(lab.Serv1, since, tt.event, "files") })
			await(t, "it is counted", func() error {
				m, err := c.metrics(lab.Serv1)
				if err == nil && m[metric] <= before {
					err = fmt.Errorf("%s was %v and is %v", metric, before, m[metric])
				}
				return err
			})
			w.awaitAnswerBy(lab.Serv1)
			must(t, c.settled(atHome))
			w.end()
		})
	}
}

// edited is the lab's configuration with something replaced, in a file of its own.
func (c *cluster) edited(t *testing.T, replace ...string) (path string) {
	t.Helper()
	b, err := os.ReadFile(c.ConfigPath())
	must(t, err)
	text := strings.NewReplacer(replace...).Replace(string(b))
	if text == string(b) {
		t.Fatalf("the configuration has nothing of %q", replace)
	}
	path = filepath.Join(t.TempDir(), "other.yaml")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestNodesOfDifferentConfigurationsMoveNothingAndSayWhereTheyDiffer(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	one, two := c.Node(lab.Serv1), c.Node(lab.Serv2)
	must(t, one.Start())
	await(t, "serv1 owns everything", func() error { return c.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	other := c.edited(t, "192.0.2.22/24", "192.0.2.22/24, 192.0.2.29/24", "reach: [192.0.2.1, 192.0.2.53,", "reach: [192.0.2.53, 192.0.2.1,")
	argv := two.Flags()
	argv[slices.Index(argv, "--config")+1] = other
	must(t, two.StartProgram(built, append(argv, "run")...))
	for _, n := range c.Nodes {
		since := uint64(0)
		await(t, n.Name+" says where they differ", func() error {
			return c.hasTrouble(n.Name, "configs-differ", c.Peer(n.Name).Name, "they differ in: arbiter, identity mail;")
		})
		c.awaitEvent(t, n.Name, since, "configs-differ", "arbiter, identity mail;")
	}
	within(t, func(ctx context.Context) error {
		for _, n := range c.Nodes {
			if err := c.api[n.Name].Move(ctx, "mail", lab.Serv2, false); !errors.Is(err, control.ErrRefused) {
				return fmt.Errorf("an order to %s to move it was answered with: %v", n.Name, err)
			}
		}
		return nil
	})
	stays(t, "nothing moves", time.Second, func() error { return c.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	must(t, two.Kill())
	must(t, two.Start())
	c.awaitSettled(t, everythingOn(lab.Serv1))
	for _, n := range c.Nodes {
		await(t, "the trouble is over", func() error { return c.noTrouble(n.Name) })
	}
	c.awaitEvent(t, lab.Serv1, 0, "configs-differ", "the same again")
}

func TestABootingNodeTakesNothingBesideAPeerOfAnotherVersionAndSaysWhich(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	cfg, err := config.Load(c.ConfigPath(), config.Options{Node: lab.Serv2})
	must(t, err)
	f := wire.Frame{
		SrcMAC: c.mac(t, lab.Serv2, "eth1"), DstMAC: wire.Broadcast, SrcIP: mustAddr("192.168.111.2"), DstIP: mustAddr("192.168.111.1"),
		Sender: 1, ClusterID: cfg.ClusterID, BootID: 1, Nonce: 1, Seq: 1, Words: []uint64{0, 0},
	}
	key := wire.Key{ID: cfg.Keys[0].ID, K0: cfg.Keys[0].K0, K1: cfg.Keys[0].K1}
	b, err := f.Marshal(key)
	must(t, err)
	b[wire.OffsetVersion] = wire.Version + 1
	must(t, wire.Seal(b, key))
	must(t, c.Node(lab.Serv1).Start())
	ctx, stop := context.WithCancel(t.Context())
	spoke := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := c.inject("eth1", lab.Serv2, b); err != nil {
				spoke <- err
				return
			}
			time.Sleep(10 * time.Millisecond) // as often as a peer speaks that is alive
		}
		spoke <- nil
	}()
	says := fmt.Sprintf("version %d, this node speaks %d", wire.Version+1, wire.Version)
	await(t, "serv1 says which versions meet", func() error { return c.hasTrouble(lab.Serv1, "stranger", says, "install") })
	c.awaitEvent(t, lab.Serv1, 0, "stranger", says)
	stays(t, "serv1 takes nothing", 2*cfg.Timing.BootHold, func() error {
		for _, id := range c.mustStatus(t, lab.Serv1).Identities {
			if id.Owner != "" || id.Gate == control.GateOpen {
				return fmt.Errorf("%s is owned by %q", id.Name, id.Owner)
			}
		}
		return nil
	})
	stop()
	must(t, <-spoke)
	await(t, "serv1 owns everything once nobody speaks that cannot be understood", func() error { return c.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	must(t, c.noTrouble(lab.Serv1))
}
