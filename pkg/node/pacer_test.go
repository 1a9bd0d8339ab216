// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/host"
)

// TestThePacersTick has each pacer run alone, with whatever delay line this kernel has: fq where it
// can, else tbf. It is not about how exact they are: a busy machine is late.
func TestThePacersTick(t *testing.T) {
	for _, want := range []string{config.PacerKernel, config.PacerThread} {
		t.Run(want, func(t *testing.T) {
			const probe, count = 2 * time.Millisecond, 200
			alone(t, func(n *node, start int) {
				n.Config.Timing.Pacer, n.Config.Timing.Probe = want, probe
				p, err := newPacer(n, start)
				if err != nil {
					t.Error(err)
					return
				}
				defer p.close()
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error)
				go func() { ended <- p.run(ctx) }()
				begin, first := time.Now(), n.dp.State(0).Seq
				for n.dp.State(0).Seq < first+count && time.Since(begin) < 20*time.Second {
					time.Sleep(probe)
				}
				took, ticks := time.Since(begin), n.dp.State(0).Seq-first
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if ticks < count || took < count*probe*3/4 {
					t.Errorf("%s: %d ticks in %v", p.mode(), ticks, took)
				}
				t.Logf("%s: %d ticks in %v", p.mode(), ticks, took)
			})
		})
	}
}

// Half of a mending is no mending: what failed of it is done the next time.
func TestAPairIsMovedToAsOftenAsItTakes(t *testing.T) {
	alone(t, func(n *node, start int) {
		n.Config.Timing.Pacer, n.Config.Timing.Probe = config.PacerKernel, 2*time.Millisecond
		p, err := newPacer(n, start)
		if err != nil {
			t.Error(err)
			return
		}
		defer p.close()
		lost, err := netlink.LinkByName(tickPair + "0")
		if err == nil {
			err = netlink.LinkDel(lost)
		}
		pin := filepath.Join(n.PinDir, "link-tick")
		obstacle := filepath.Join(pin, "obstacle")
		if err := errors.Join(err, os.Remove(pin), os.MkdirAll(obstacle, 0o700)); err != nil {
			t.Error(err)
			return
		}
		if err := p.mend(); err == nil {
			t.Error("the program is attached although its pin is in the way")
		}
		if err := errors.Join(os.Remove(obstacle), os.Remove(pin), p.mend()); err != nil {
			t.Errorf("mend again: %v", err)
		}
		begin, first := time.Now(), n.dp.State(0).Seq
		for n.dp.State(0).Seq < first+10 {
			if time.Since(begin) > 10*time.Second {
				t.Error("mended, and no tick")
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// alone runs f in a network namespace and with a bpffs of its own.
func alone(t *testing.T, f func(n *node, start int)) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	host.OnOwnThread(func() {
		if err := inPrivate(dir, f); err != nil {
			t.Error(err)
		}
	})
}

func inPrivate(dir string, f func(n *node, start int)) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("xdpha-test", dir, "bpf", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	log := slog.New(slog.DiscardHandler)
	h, err := host.New(log, "xdpha:test:node")
	if err != nil {
		return err
	}
	defer h.Close()
	start, end, err := h.EnsureTickPair(tickPair)
	if err != nil {
		return err
	}
	dp, err := loader.Open(loader.Config{Nodes: 2, Keys: []loader.Key{{}}, Probe: 2 * time.Millisecond, DeadAfter: time.Hour, BootHold: time.Hour, SuspectAfter: time.Hour},
		loader.Options{PinDir: filepath.Join(dir, "pins"), Log: log, Anew: func() error { return nil }})
	if err != nil {
		return err
	}
	defer dp.Close()
	defer dp.Remove()
	if err := dp.AttachTick(end); err != nil {
		return err
	}
	if err := dp.Start(); err != nil {
		return err
	}
	f(&node{ // on a machine that is late, the pacer has something to tell
		Options: Options{Config: &config.Config{Nodes: []config.Node{{Name: "alone"}}}, Log: log, PinDir: filepath.Join(dir, "pins")},
		hub:     control.NewHub(1), hooks: newHooks("", log), host: h, dp: dp,
	}, start)
	return nil
}
