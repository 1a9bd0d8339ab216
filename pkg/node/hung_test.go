// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// TestAHungDaemon goes through what becomes of a node whose kernel is well and whose daemon is
// not. Its lease is long, so that nothing ends by itself while it is looked at.
func TestAHungDaemon(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: "60s", PeerSupervisorLost: "wait", Staging: "ahead"})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"an order by force takes past it", forceTakesPastIt},
		{"an order without force says how", orderWithoutForceSaysHow},
		{"paused and thawed after the takeover, not a frame leaves it", thawedIsSilent},
		{"the pacer goes on without it", pacerGoesOn},
		{"the pacer's ring is mended", ringIsMended},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

// stopped stops a node's daemon until the test ends, and returns when its peer notices.
func (c *cluster) stopped(t *testing.T, node string) (again func()) {
	t.Helper()
	n, up := c.Node(node), false
	must(t, n.Signal(unix.SIGSTOP))
	again = func() {
		if !up {
			up = true
			must(t, n.Signal(unix.SIGCONT))
		}
	}
	t.Cleanup(again)
	return again
}

func (c *cluster) move(t *testing.T, node, id string, force bool) error {
	t.Helper()
	cl := control.NewClient(c.Node(node).RunDir)
	defer cl.Close()
	var err error
	within(t, func(ctx context.Context) error { err = cl.Move(ctx, id, node, force); return nil })
	return err
}

func forceTakesPastIt(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	gen := c.generation(t, lab.Serv2, "files")
	since := c.lastEvent(t, lab.Serv2)
	again := c.stopped(t, lab.Serv1)
	await(t, "serv2 sees an old supervisor", func() error {
		if age := c.mustStatus(t, lab.Serv2).Peer.SupervisorAgeUS; age < 300_000 {
			return fmt.Errorf("it is %d us old", age)
		}
		return nil
	})
	// A daemon that is not yet taken for lost is asked first: its kernel after five seconds.
	must(t, c.move(t, lab.Serv2, "files", true))
	w.awaitAnswerBy(lab.Serv2)
	c.awaitEvent(t, lab.Serv2, since, "stand-down", "files")
	if s := c.mustStatus(t, lab.Serv2); s.LastTakeover == nil || s.LastTakeover.Cause != "stand-down" || s.LastTakeover.Generation != gen+1 {
		t.Errorf("the last takeover is %+v", s.LastTakeover)
	}
	if id, err := identity(c.mustStatus(t, lab.Serv2), "mail"); err != nil || id.Owner != lab.Serv2 {
		t.Errorf("mail is owned by %s (%v)", id.Owner, err)
	}
	again()
	c.awaitSettled(t, everythingOn(lab.Serv2)) // the other one puts its services away
	if sum := w.end(); sum.DualAnswers > 0 {
		t.Errorf("%d answers by two owners", sum.DualAnswers)
	}
}

func orderWithoutForceSaysHow(t *testing.T, c *cluster) {
	again := c.stopped(t, lab.Serv1)
	defer again()
	err := c.move(t, lab.Serv2, "files", false)
	if !errors.Is(err, control.ErrRefused) {
		t.Fatalf("moved from a daemon that is stopped: %v", err)
	}
	if id, err := identity(c.mustStatus(t, lab.Serv2), "files"); err != nil || id.Owner != lab.Serv1 {
		t.Errorf("files is owned by %s (%v)", id.Owner, err)
	}
}

// thawedIsSilent: a virtual machine stands still for two seconds and goes on where it was. Its
// own clock tells every packet that the right to serve is over.
func thawedIsSilent(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv2)
	cap, err := c.Capture(lab.Client, "eth0")
	must(t, err)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPause, files); return err })
	w.awaitAnswerBy(lab.Serv2)
	taken := lab.NowNs()
	time.Sleep(2 * time.Second) // how long it stands still is the fault
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPause, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	if sum := w.end(); sum.DualAnswers > 0 || sum.After != lab.Serv2 {
		t.Errorf("%d answers by two owners, the last by %s", sum.DualAnswers, sum.After)
	}
	frames, err := cap.Stop()
	must(t, err)
	seen := 0
	for _, f := range frames {
		if f.Outgoing || f.TNs < taken || string(f.Src) != string(files.MAC[:]) || f.IPv4 == nil {
			continue
		}
		seen++
		if f.IPv4.TTL == lab.TTLServ1 {
			t.Fatalf("%d ms after serv2 had answered a frame of serv1 came from the virtual MAC", (f.TNs-taken)/1e6)
		}
	}
	if seen == 0 {
		t.Error("the capture saw nothing")
	}
}

// pacerGoesOn: with the daemon stopped, probes leave at their time.
func pacerGoesOn(t *testing.T, c *cluster) {
	replies := func() float64 { return frames(c.mustMetrics(t, lab.Serv2), `kind="probe"`, `verdict="answered"`) }
	again := c.stopped(t, lab.Serv1)
	defer again()
	first := replies()
	await(t, "a thousand probes of the stopped node are answered", func() error {
		if n := replies() - first; n < 1000 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
}

// ringIsMended: somebody takes the delay line away, then the pair itself.
func ringIsMended(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1)
	for name, damage := range map[string]func(netlink.Link) error{
		"the delay line": func(l netlink.Link) error {
			qs, err := netlink.QdiscList(l)
			if err != nil || len(qs) == 0 {
				return fmt.Errorf("find it: %d, %w", len(qs), err)
			}
			return netlink.QdiscDel(qs[0])
		},
		"the pair": netlink.LinkDel,
	} {
		since := c.lastEvent(t, lab.Serv1)
		must(t, c.Do(lab.Serv1, func() error {
			l, err := netlink.LinkByName("xdtick0")
			if err != nil {
				return err
			}
			return damage(l)
		}))
		await(t, "the loss of "+name+" is told", func() error { return c.hasEvent(lab.Serv1, since, "pacer-token-lost", "") })
		before := frames(c.mustMetrics(t, lab.Serv1), `kind="tick"`, `verdict="sent"`)
		await(t, "ticks come again after the loss of "+name, func() error {
			if now := frames(c.mustMetrics(t, lab.Serv1), `kind="tick"`, `verdict="sent"`); now < before+50 {
				return fmt.Errorf("%v did", now-before)
			}
			return nil
		})
	}
	w.endLossless()
}

// TestAnotherBuildTakesOver: the daemon ends, and one of another build goes on with all that the
// kernel holds, while ten thousand packets a second pass.
func TestAnotherBuildTakesOver(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: "20s"}, "--keep")
	other := filepath.Join(t.TempDir(), "xdpha")
	out, err := exec.Command("go", "build", "-o", other, "-ldflags", "-X github.com/xdpha/xdpha/ctl.Build=another", "../../ctl/xdpha").CombinedOutput()
	if err != nil {
		t.Fatalf("build another xdpha: %v: %s", err, out)
	}
	gen := c.generation(t, lab.Serv1, "files")
	n := c.Node(lab.Serv1)
	w := c.watch(t, files, lab.Serv1)
	for _, path := range []string{other, built, other} {
		within(t, func(ctx context.Context) error { status, err := n.Stop(ctx); return orStatus(status, err) })
		must(t, n.StartProgram(path, append(n.Flags(), "run", "--keep")...))
		c.awaitSettled(t, atHome)
	}
	if v := c.mustStatus(t, lab.Serv1).Version; v != "another" {
		t.Errorf("version %s runs", v)
	}
	if now := c.generation(t, lab.Serv1, "files"); now != gen {
		t.Errorf("the generation was %d and is %d", gen, now)
	}
	if s := w.end(); s.Lost > 0 || s.Sent < 1000 {
		t.Errorf("of %d packets in three restarts %d were lost", s.Sent, s.Lost)
	}
}
