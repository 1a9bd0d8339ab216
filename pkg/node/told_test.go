// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// cautiousDead is dead_after in the profile cautious.
const cautiousDead = 100 * time.Millisecond

// TestWhatIsTold goes through what a node says of its peer and of a takeover.
func TestWhatIsTold(t *testing.T) {
	// On a busy machine a daemon takes its time to start; it must not count as lost meanwhile.
	c := running(t, lab.Scene{SupervisorLease: "20s"})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"the pair at rest", tellsOfThePairAtRest},
		{"a service that is down on the peer is told, once each way", tellsOfThePeersServices},
		{"a new daemon is no news of services", newDaemonIsNoNewsOfServices},
		{"a hand-over counts from the flip", tellsOfAHandOver},
		{"a power cut has all stages, in the kernel's order", tellsOfAPowerCut},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

func tellsOfThePairAtRest(t *testing.T, c *cluster) {
	await(t, "serv2 knows that all is up", func() error {
		s, err := c.status(lab.Serv2)
		if err != nil {
			return err
		}
		if s.Peer.Supervisor != control.SupervisorUp || s.Peer.Services["files"] != control.ServicesUp || len(s.Peer.Services) != 1 || s.Peer.Solo {
			return fmt.Errorf("it says %+v", s.Peer)
		}
		if s.RightToServeUS == nil || *s.RightToServeUS == 0 || time.Duration(*s.RightToServeUS)*time.Microsecond > cautiousDead {
			return fmt.Errorf("its right to serve is %v", s.RightToServeUS)
		}
		if p := s.Pacer; p.Mode == "" || p.Wanted != "auto" || p.LastTickUS < 0 || p.LastTickUS > 1e6 || p.GapMaxUS == 0 {
			return fmt.Errorf("its pacer is %+v", p)
		}
		return nil
	})
	await(t, "the metrics say so", func() error {
		m := c.mustMetrics(t, lab.Serv2)
		if m[`xdpha_peer_services_up{identity="files"}`] != 1 || m["xdpha_silence_seconds_count"] < 100 || m["xdpha_silence_max_seconds"] <= 0 || m["xdpha_right_to_serve_remaining_seconds"] <= 0 {
			return fmt.Errorf("%v, %v, %v, %v", m[`xdpha_peer_services_up{identity="files"}`], m["xdpha_silence_seconds_count"], m["xdpha_silence_max_seconds"], m["xdpha_right_to_serve_remaining_seconds"])
		}
		return nil
	})
	var h control.History
	await(t, "the history has the present minute", func() (err error) { // which begins with its first frame
		h, err = c.api[lab.Serv2].History(t.Context())
		if err == nil && (len(h.Minutes) == 0 || h.Minutes[len(h.Minutes)-1].MinutesAgo != 0) {
			err = fmt.Errorf("its minutes are %+v", h.Minutes)
		}
		return err
	})
	if time.Duration(h.DeadAfterUS)*time.Microsecond != cautiousDead || h.SinceStart.Silence.Count() < 100 || time.Since(h.SinceStart.Time) > time.Hour {
		t.Fatalf("the history is %+v", h)
	}
	last := h.Minutes[len(h.Minutes)-1]
	if last.SilenceUS == 0 || len(last.LinksUS) != 3 || last.SilenceUS > h.SinceStart.SilenceMaxUS || time.Since(last.Time) > 2*time.Minute {
		t.Errorf("the last minute is %+v", last)
	}
	t.Logf("status:\n%s", c.command(t, lab.Serv2, "status"))
	t.Logf("history:\n%s", c.command(t, lab.Serv2, "check", "--history"))
	t.Logf("check:\n%s", c.command(t, lab.Serv2, "check"))
}

// command is what the program prints on a node; its exit status is not looked at.
func (c *cluster) command(t *testing.T, node string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), built, append(c.Node(node).Flags(), args...)...)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	must(t, c.Do(node, cmd.Start))
	_ = cmd.Wait()
	return b.String()
}

// toldThatAllIsUp waits until serv2 has told of its peer's services last that they are up. It tells of
// what its loop sees, which may be later than what its status shows. The result is its last event.
func (c *cluster) toldThatAllIsUp(t *testing.T) (seq uint64) {
	t.Helper()
	await(t, "serv2 has told that its peer's services are up", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		told := ""
		err := c.api[lab.Serv2].Events(ctx, 0, false, func(e control.Event) error {
			if seq = e.Seq; strings.HasPrefix(e.Kind, "peer-services-") && e.Identity == "files" {
				told = e.Kind
			}
			return nil
		})
		if err == nil && told != "peer-services-up" {
			err = fmt.Errorf("it has told %q", told)
		}
		return err
	})
	return seq
}

func tellsOfThePeersServices(t *testing.T, c *cluster) {
	c.failsAndIsRestarted(t) // before it serv2 may have told nothing: what it finds at its first look is no news
	since := c.failsAndIsRestarted(t)
	if s := c.mustStatus(t, lab.Serv2); s.Peer.Services["files"] != control.ServicesUp {
		t.Errorf("serv2 says %v", s.Peer.Services)
	}
	if n := c.countEvents(t, lab.Serv2, since, "peer-services-"); n != 2 {
		t.Errorf("it was told %d times", n)
	}
}

// failsAndIsRestarted lets serv1's service fail once, until serv2 has told of it twice. The result is serv2's last event before.
func (c *cluster) failsAndIsRestarted(t *testing.T) (since uint64) {
	t.Helper()
	since = c.lastEvent(t, lab.Serv2)
	// The file is the service: without it the check is bad, until the service is restarted.
	must(t, os.Remove(filepath.Join(c.Dir, "services", "filesd@"+fmt.Sprint(lab.TTLServ1))))
	await(t, "serv2 is told that the service is down", func() error { return c.hasEvent(lab.Serv2, since, "peer-services-down", "files") })
	await(t, "serv2 is told that it is up again", func() error { return c.hasEvent(lab.Serv2, since, "peer-services-up", "files") })
	return since
}

func (c *cluster) countEvents(t *testing.T, node string, since uint64, kind string) (n int) {
	t.Helper()
	within(t, func(ctx context.Context) error {
		n = 0
		return c.api[node].Events(ctx, since, false, func(e control.Event) error {
			if strings.HasPrefix(e.Kind, kind) {
				n++
			}
			return nil
		})
	})
	return n
}

func newDaemonIsNoNewsOfServices(t *testing.T, c *cluster) {
	since := c.toldThatAllIsUp(t)
	done, down := make(chan struct{}), make(chan int)
	go func() { // serv2's status reads what the last frame said; its loop would not see a short word
		n := 0
		for {
			select {
			case <-done:
				down <- n
				return
			case <-time.After(time.Millisecond):
			}
			if s, err := c.status(lab.Serv2); err == nil && s.Peer.Services["files"] == control.ServicesDown {
				n++
			}
		}
	}()
	must(t, c.Node(lab.Serv1).Kill())
	must(t, c.Node(lab.Serv1).Restart())
	c.awaitSettled(t, atHome)
	close(done)
	if n := <-down; n != 0 {
		t.Errorf("serv2 saw the services down %d times", n)
	}
	if n := c.countEvents(t, lab.Serv2, since, "peer-services-"); n != 0 {
		t.Errorf("it was told %d times", n)
	}
}

// newOwner is the takeover that serv2 tells of once f has no complaint about it.
func (c *cluster) newOwner(t *testing.T, f func(*control.Takeover) error) control.Status {
	t.Helper()
	var s control.Status
	await(t, "serv2 tells of the takeover", func() (err error) {
		if s, err = c.status(lab.Serv2); err != nil {
			return err
		}
		if s.LastTakeover == nil || s.LastTakeover.Identity != "files" {
			return fmt.Errorf("the last takeover is %+v", s.LastTakeover)
		}
		return f(s.LastTakeover)
	})
	return s
}

func tellsOfAHandOver(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	c.handOver(t, lab.Serv1, "files", "")
	w.awaitAnswerBy(lab.Serv2)
	c.newOwner(t, func(o *control.Takeover) error {
		l := o.Timeline
		if o.Cause != "hand-over" || l.From != control.FromFlip || l.DeadUS != 0 || l.SuspectUS != 0 || l.FlipUS != 0 || l.AtNS == 0 {
			return fmt.Errorf("it counts as %+v", o)
		}
		if l.AnnouncedUS == 0 || l.InUS == 0 || l.OutUS == 0 || l.InUS > 1e6 {
			return fmt.Errorf("it lacks stages: %+v", l)
		}
		return nil
	})
	w.end()
}

func tellsOfAPowerCut(t *testing.T, c *cluster) {
	stages := func() map[string]float64 {
		m, out := c.mustMetrics(t, lab.Serv2), map[string]float64{}
		for _, s := range []string{"suspect", "detect", "flip", "announce", "in", "out", "address", "services"} {
			out[s] = m[fmt.Sprintf("xdpha_takeover_stage_seconds_count{stage=%q}", s)]
		}
		return out
	}
	before := stages()
	w := fail(t, c, lab.FaultPower)
	s := c.newOwner(t, func(o *control.Takeover) error {
		l := o.Timeline
		if l.InUS == 0 || l.OutUS == 0 || l.AddressesUS == 0 || l.ServicesUS == 0 {
			return fmt.Errorf("it is not done: %+v", o)
		}
		if o.Cause != "peer-dead" || l.From != control.FromEvidence || l.AtNS == 0 ||
			!(0 < l.SuspectUS && l.SuspectUS <= l.DeadUS && cautiousDead <= time.Duration(l.DeadUS)*time.Microsecond && l.DeadUS <= l.FlipUS && l.FlipUS <= l.AnnouncedUS && l.FlipUS <= l.InUS && l.FlipUS <= l.OutUS) {
			return fmt.Errorf("the stages are %+v", l)
		}
		if o.DetectUS != l.DeadUS || o.FlipUS != l.FlipUS || o.AnnounceUS != l.AnnouncedUS || o.AddressUS != l.AddressesUS || o.ServicesUS != l.ServicesUS {
			return fmt.Errorf("two words on the same: %+v", o)
		}
		return nil
	})
	if id, err := identity(s, "files"); err != nil || id.Takeover == nil || id.Takeover.Timeline != s.LastTakeover.Timeline {
		t.Errorf("the identity has %+v, the node %+v", id.Takeover, s.LastTakeover)
	}
	await(t, "the metrics have each stage once", func() error {
		for s, n := range stages() {
			if n != before[s]+1 {
				return fmt.Errorf("%s: %v, was %v", s, n, before[s])
			}
		}
		return nil
	})
	t.Logf("status:\n%s", c.command(t, lab.Serv2, "status"))
	must(t, c.Node(lab.Serv2).Kill())
	must(t, c.Node(lab.Serv2).Restart())
	c.newOwner(t, func(o *control.Takeover) error {
		if o.Cause != "peer-dead" || o.Timeline.InUS != s.LastTakeover.Timeline.InUS || o.Timeline.ServicesUS != 0 {
			return fmt.Errorf("the next daemon tells of %+v", o)
		}
		return nil
	})
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.end()
}
