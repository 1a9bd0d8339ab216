// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// rack is the lab's power switch: what it is told to switch off loses its power as by FaultPower. Its
// fence agent is a script, which the daemons run and which reaches it past every network, by files.
type rack struct {
	c    *cluster
	dir  string
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	off  []string // what was switched off, in order
}

const rackAgent = `#!/bin/sh
in=$(cat)
get() { echo "$in" | sed -n "s/^$1=//p"; }
cd %s || exit 1
[ -e broken ] && { echo the power switch does not answer >&2; exit 1; }
[ "$(get password)" = opensesame ] || { echo who are you >&2; exit 1; }
node=$(get plug)
case $(get action) in
off)
	: > "order.$node"
	while [ ! -e "off.$node" ]; do sleep 0.02; done ;;
status)
	[ -e "off.$node" ] && exit 2
	exit 0 ;;
*)
	exit 1 ;;
esac
`

// fenced is a running cluster with that power switch. To switch serv1 off takes serv2 so much longer.
func fenced(t *testing.T, s lab.Scene, delay string) (*cluster, *rack) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	r := &rack{dir: t.TempDir(), stop: make(chan struct{})}
	agent, secret := filepath.Join(r.dir, "fence_rack"), filepath.Join(r.dir, "secret")
	must(t, os.WriteFile(agent, fmt.Appendf(nil, rackAgent, r.dir), 0o700))
	must(t, os.WriteFile(secret, []byte("opensesame\n"), 0o600))
	s.Fence = fmt.Sprintf("{agent: %s, timeout: 10s, serv1: {plug: serv1, password_file: %s, delay: %s}, serv2: {plug: serv2, password_file: %s}}", agent, secret, delay, secret)
	r.c = running(t, s)
	r.wg.Go(r.run)
	t.Cleanup(func() {
		close(r.stop)
		r.wg.Wait()
	})
	return r.c, r
}

func (r *rack) run() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		for _, id := range lab.Identities {
			if os.Remove(filepath.Join(r.dir, "order."+id.Home)) == nil {
				r.cut(id)
			}
		}
	}
}

func (r *rack) cut(id lab.Identity) {
	r.mu.Lock()
	r.off = append(r.off, id.Home)
	r.mu.Unlock()
	if _, err := r.c.Inject(context.Background(), lab.FaultPower, id); err != nil {
		panic(err) // no test can go on from here
	}
	if err := os.WriteFile(filepath.Join(r.dir, "off."+id.Home), nil, 0o600); err != nil {
		panic(err)
	}
}

// on gives a node its power back.
func (r *rack) on(t *testing.T, id lab.Identity) {
	t.Helper()
	must(t, os.Remove(filepath.Join(r.dir, "off."+id.Home)))
	within(t, func(ctx context.Context) error { return r.c.Heal(ctx, lab.FaultPower, id) })
}

func (r *rack) switchedOff() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.off)
}

func (r *rack) wantOff(t *testing.T, nodes ...string) {
	t.Helper()
	if got := r.switchedOff(); !slices.Equal(got, nodes) {
		t.Errorf("switched off: %v, want %v", got, nodes)
	}
}

// Both nodes live, reach everybody, and do not hear each other: the case in which listed hosts alone
// make two owners. One is switched off, and only then the other takes what it served.
func TestWithAFenceAgentAFullPartitionNeverMakesTwoOwners(t *testing.T) {
	for name, s := range map[string]lab.Scene{"fence": {NoReach: true}, "reach and fence": {}} {
		t.Run(name, func(t *testing.T) {
			c, r := fenced(t, s, "5s")
			kept := c.generation(t, lab.Serv1, "files")
			since := c.lastEvent(t, lab.Serv1)
			w := c.watch(t, mail, lab.Serv1)
			within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPartition, files); return err })
			w.awaitAnswerBy(lab.Serv1)
			r.wantOff(t, lab.Serv2) // before it is served by the other one
			await(t, "serv1 owns everything", func() error { return c.serves(lab.Serv1, everythingOn(lab.Serv1)) })
			if sum := w.end(); sum.After != lab.Serv1 {
				t.Errorf("at the end %s answers", sum.After)
			}
			r.wantOff(t, lab.Serv2)
			if now := c.generation(t, lab.Serv1, "files"); now != kept {
				t.Errorf("serv1 kept files, and its generation went from %d to %d", kept, now)
			}
			for _, kind := range []string{"fence-begun", "fenced"} {
				await(t, kind+" is told", func() error { return c.hasEvent(lab.Serv1, since, kind, lab.Serv2) })
			}
			st := c.mustStatus(t, lab.Serv1)
			if f := st.Arbiter.Fence; f == nil || f.State != control.FencePeerOff || f.LastResult != "off" || f.LastAt == nil {
				t.Errorf("the status shows %+v", f)
			}
			if m := c.mustMetrics(t, lab.Serv1); m[`xdpha_fence_total{result="off"}`] != 1 || m[`xdpha_fence_total{result="failed"}`] != 0 {
				t.Errorf("the metrics count %v off, %v failed", m[`xdpha_fence_total{result="off"}`], m[`xdpha_fence_total{result="failed"}`])
			}
			if last := st.LastTakeover; last == nil || last.Cause != "peer-fenced" || last.FlipUS <= last.DetectUS {
				t.Errorf("the last takeover is %+v", last)
			}
			// Whole again: the node that was off comes back, and takes nothing by itself.
			within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPartition, files) })
			r.on(t, mail)
			c.awaitSettled(t, everythingOn(lab.Serv1))
			r.wantOff(t, lab.Serv2)
		})
	}
}

// A node that is cut off from everybody would be the quicker one: the other must wait 5 s. But it
// knows that it is cut off, and switches nobody off.
func TestACutOffNodeSwitchesNobodyOff(t *testing.T) {
	c, r := fenced(t, lab.Scene{}, "5s")
	w := c.watch(t, files, lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultHang, files); return err })
	await(t, "serv1 knows that it is cut off", func() error { return c.hasEvent(lab.Serv1, 0, "isolated", "") })
	w.awaitAnswerBy(lab.Serv2)
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	w.end()
	r.wantOff(t, lab.Serv1)
}

// While the power switch does not answer nobody serves: that is told, and ends with it.
func TestNothingIsTakenWhileTheAgentFails(t *testing.T) {
	c, r := fenced(t, lab.Scene{NoReach: true}, "0s")
	broken := filepath.Join(r.dir, "broken")
	must(t, os.WriteFile(broken, nil, 0o600))
	since := c.lastEvent(t, lab.Serv2)
	w := c.watch(t, files, lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPanic, files); return err })
	await(t, "the failure is told", func() error { return c.hasEvent(lab.Serv2, since, "fence-failed", "the power switch does not answer") })
	await(t, "the status shows it", func() error {
		f := c.mustStatus(t, lab.Serv2).Arbiter.Fence
		if f == nil || f.LastResult != "failed" || !strings.Contains(f.LastError, "does not answer") || f.State == control.FencePeerOff {
			return fmt.Errorf("it shows %+v", f)
		}
		return nil
	})
	stays(t, "nobody takes files", time.Second, func() error {
		if id, err := identity(c.mustStatus(t, lab.Serv2), "files"); err != nil || id.Owner == lab.Serv2 {
			return fmt.Errorf("serv2 owns it (%v)", err)
		}
		return nil
	})
	must(t, os.Remove(broken))
	w.awaitAnswerBy(lab.Serv2)
	w.end()
	r.wantOff(t, lab.Serv1)
	for _, n := range c.Nodes {
		if b, err := os.ReadFile(n.Logs); err != nil || strings.Contains(string(b), "opensesame") {
			t.Errorf("the log of %s holds the secret (%v)", n.Name, err)
		}
		if b, err := os.ReadFile(filepath.Join(n.StateDir, "journal")); !errors.Is(err, fs.ErrNotExist) && strings.Contains(string(b), "opensesame") {
			t.Errorf("the journal of %s holds the secret", n.Name)
		}
	}
}

// With an agent that fails somebody goes and looks. His word is the agent's, and no more than that:
// it does not count against a node that is heard.
func TestAPersonsWordStandsInForAnAgentThatFails(t *testing.T) {
	c, r := fenced(t, lab.Scene{NoReach: true}, "0s")
	must(t, os.WriteFile(filepath.Join(r.dir, "broken"), nil, 0o600))
	confirm := func(name string) error { return c.api[lab.Serv2].ConfirmOff(t.Context(), name) }
	if err := confirm(lab.Serv1); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "serv1 is heard") {
		t.Fatalf("of a node that is heard: %v", err)
	}
	since := c.lastEvent(t, lab.Serv2)
	w := c.watch(t, files, lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPanic, files); return err })
	await(t, "the failure is told", func() error { return c.hasEvent(lab.Serv2, since, "fence-failed", "the power switch does not answer") })
	if err := confirm(lab.Serv2); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "the peer of serv2 is serv1, not serv2") {
		t.Fatalf("of the wrong node: %v", err)
	}
	must(t, confirm(lab.Serv1))
	w.awaitAnswerBy(lab.Serv2)
	w.end()
	r.wantOff(t) // nobody was
	if err := c.hasEvent(lab.Serv2, since, "fence-confirmed", lab.Serv1); err != nil {
		t.Error(err)
	}
}
