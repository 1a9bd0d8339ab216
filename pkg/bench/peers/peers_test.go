// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
}

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	needRoot(t)
	l, err := lab.New(t.Context(), lab.Options{})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// set gives the node the address, or takes it away, and says so on the wire as it is given.
func (h holder) set(t *testing.T, has bool) {
	t.Helper()
	must(t, h.lab.Do(h.node, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address.String() + "/24")
		if err != nil {
			return err
		}
		if !has {
			return netlink.AddrDel(link, a)
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
		return unix.Sendto(fd, arpRequest(link.Attrs().HardwareAddr, address, address), 0, to)
	}))
}

type holder struct {
	lab  *lab.Lab
	node string
}

func TestTheClientFollowsItsARPTable(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	serv1, serv2 := holder{l, lab.Serv1}, holder{l, lab.Serv2}
	serv1.set(t, true)
	c, err := startClient(l, address, time.Second)
	must(t, err)
	must(t, c.awaitAnswer(ctx, lab.TTLServ1, lab.NowNs()+50e6))
	t0 := lab.NowNs()
	serv1.set(t, false)
	must(t, pair.Pause(ctx, 30*time.Millisecond))
	again := lab.NowNs()
	serv2.set(t, true)
	must(t, c.awaitAnswer(ctx, lab.TTLServ2, again))
	must(t, pair.Pause(ctx, 20*time.Millisecond))
	rec := c.stop()
	s := lab.Analyze(rec, lab.Window{FromNs: eve(rec, t0)})
	t.Logf("silent for %d us; %d sent, %d lost, realtime %v, stalls %d us", s.OutageNs/1000, s.Sent, s.Lost, c.realtime, s.StalledNs/1000)
	if s.FromNs > again || s.ToNs < again || s.OutageNs < again-t0-s.StalledNs-10e6 {
		t.Errorf("the silence %d..%d is not from %d over %d", s.FromNs, s.ToNs, t0, again)
	}
	if !s.Restored || s.DualAnswers != 0 || s.Before != lab.Serv1 || s.After != lab.Serv2 {
		t.Errorf("%+v", s)
	}
}

func TestTwoNodesWithOneAddressAreSeen(t *testing.T) {
	l := newLab(t)
	serv1, serv2 := holder{l, lab.Serv1}, holder{l, lab.Serv2}
	for _, c := range []struct {
		name       string
		change     func()
		both, hold int
	}{
		{"one", func() { serv1.set(t, true) }, 0, 1},
		{"two", func() { serv2.set(t, true) }, arpAsks, 2},
		{"the other one", func() { serv1.set(t, false) }, 0, 1},
		{"none", func() { serv2.set(t, false) }, 0, 0},
	} {
		c.change()
		both, err := bothAnswer(t.Context(), l, address)
		must(t, err)
		who, err := holders(l, address)
		must(t, err)
		if both != c.both || len(who) != c.hold {
			t.Errorf("%s: %d of %d questions answered by both, the address is on %v", c.name, both, arpAsks, who)
		}
	}
}

func TestKeepalivedUnderstandsItsConfiguration(t *testing.T) {
	program, _, err := findKeepalived(t.Context())
	for _, c := range variants(program) {
		k := c.(keepalived)
		conf, err := k.conf(&lab.Node{Name: lab.Serv1})
		must(t, err)
		for text, want := range map[string]bool{
			"advert_int 0.01": true, fmt.Sprintf("priority %d", k.home): true, "192.0.2.21/24": true,
			"use_vmac vrrp 02:4c:4a:00:00:21": k.vmac, "down_timer_adverts 2": k.adverts == 2,
		} {
			if strings.Contains(string(conf), text) != want {
				t.Errorf("%s: %q in its configuration: want %v:\n%s", k.title, text, want, conf)
			}
		}
	}
	if err != nil {
		t.Logf("not asked: %v", err)
		return
	}
	l := newLab(t)
	for _, c := range variants(program) {
		k := c.(keepalived)
		conf, err := k.conf(l.Node(lab.Serv2))
		must(t, err)
		path := filepath.Join(l.Dir, "keepalived.conf")
		must(t, os.WriteFile(path, conf, 0o600))
		must(t, l.Do(lab.Serv2, func() error {
			if out, err := exec.CommandContext(t.Context(), program, "--config-test", "--use-file", path).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v: %s", k.title, err, out)
			}
			return nil
		}))
	}
}

// Times are not asserted: they are the machine's. What each contender does is.
func TestContendersAreMeasuredSideBySide(t *testing.T) {
	needRoot(t)
	program := filepath.Join(t.TempDir(), "xdpha")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/xdpha/xdpha/ctl/xdpha")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdpha: %v\n%s", err, out)
	}
	var out strings.Builder
	r, err := Run(t.Context(), &out, Options{Rounds: 2, Profile: "fast", Executable: program, Progress: func(s string) { t.Log(s) }})
	must(t, err)
	t.Log(out.String())
	want := 4 // of xdpha alone
	if r.Keepalived != "" {
		want = 17
	}
	if len(r.Series) != want {
		t.Errorf("%d series, want %d", len(r.Series), want)
	}
	for _, s := range r.Series {
		checkSeries(t, s)
	}
}

func checkSeries(t *testing.T, s Series) {
	t.Helper()
	want := 1
	if s.Fault == Hang {
		want = 2
	}
	if len(s.Rounds) != want || s.P90NS > s.MaxNS || s.MedianNS > s.MaxNS {
		t.Errorf("%s, %s: %d rounds, want %d; %+v", s.Contender, s.Fault, len(s.Rounds), want, s.Summary)
	}
	if s.Contender == nameXdpha && (s.DualAnswers != 0 || s.BothAnswer != 0) {
		t.Errorf("xdpha, %s: two owners: %+v", s.Fault, s.Summary)
	}
	if s.Contender != nameXdpha && s.Fault == Kill && (s.BothHold == 0 || s.BothAnswer == 0) {
		t.Errorf("%s was killed and took its address along, which it cannot: %+v", s.Contender, s.Summary)
	}
}
