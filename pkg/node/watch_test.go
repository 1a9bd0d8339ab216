// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// carrier is the port behind which a node may use an identity's MAC.
func carrier(node string, id lab.Identity) lab.Role {
	if id.Home == node {
		return lab.LAN
	}
	return lab.Spare
}

// watch is everything that is looked at while something happens: a client that
// asks the identity without a pause, the nodes' own addresses, the judge, the
// ports where the identity must not show up, and the client's ARP entry.
type watch struct {
	t     *testing.T
	c     *cluster
	id    lab.Identity
	index int
	probe *lab.Prober
	own   map[string]*lab.Prober
	ports map[string]*lab.Capture // where nothing of it may come in
	fits  func(lab.Port) bool     // whether it may be there

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
	mu   sync.Mutex
	bad  map[string]int // what went wrong, and how often
	seen []lab.JudgeRecord
}

// watch begins. The nodes in own must answer at their own addresses all the time.
func (c *cluster) watch(t *testing.T, id lab.Identity, own ...string) *watch {
	t.Helper()
	return c.watchAt(t, id, func(p lab.Port) bool { return p.Role == carrier(p.Node, id) }, own...)
}

// watchAt watches an identity that may be behind the ports that fit.
func (c *cluster) watchAt(t *testing.T, id lab.Identity, fits func(lab.Port) bool, own ...string) *watch {
	t.Helper()
	w := &watch{t: t, c: c, id: id, fits: fits, index: slices.Index(lab.Identities[:], id), own: map[string]*lab.Prober{}, ports: map[string]*lab.Capture{}, stop: make(chan struct{}), bad: map[string]int{}}
	for _, p := range lab.Ports {
		if !p.Server() || fits(p) {
			continue
		}
		capture, err := c.Capture(p.Switch, p.Name())
		must(t, err)
		w.ports[p.Name()] = capture
		t.Cleanup(func() { _, _ = capture.Stop() }) // end has stopped it, unless the test failed before
	}
	must(t, c.Judge(true))
	_, err := c.JudgeTrail() // what came before does not count
	must(t, err)
	w.wg.Go(w.look)
	t.Cleanup(w.halt)
	within(t, func(ctx context.Context) (err error) {
		for _, node := range own {
			addr := "192.0.2.1" + strings.TrimPrefix(node, "serv")
			p, err := c.StartProber(ctx, mustAddr(addr), lab.ProbeOptions{Period: time.Millisecond})
			if err != nil {
				return err
			}
			w.own[node] = p
		}
		if w.probe, err = c.StartProber(ctx, id.Addr, lab.ProbeOptions{}); err != nil {
			return err
		}
		return w.probe.AwaitAnswer(ctx, "", 0)
	})
	return w
}

func (w *watch) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad[fmt.Sprintf(format, args...)]++
}

// look samples what has no record of its own.
func (w *watch) look() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var first net.HardwareAddr
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		e, err := w.c.ARP(w.id.Addr)
		switch {
		case err != nil || e.MAC == nil:
		case first == nil:
			first = e.MAC
		case e.MAC.String() != first.String():
			w.complain("the client's ARP entry became %s", e.MAC)
		}
		if n%20 == 0 {
			w.drain()
		}
	}
}

func (w *watch) drain() {
	records, err := w.c.JudgeTrail()
	if err != nil {
		w.complain("%v", err)
	}
	w.seen = append(w.seen, records...)
}

// halt ends what runs beside the test; it may be called again.
func (w *watch) halt() {
	w.once.Do(func() {
		close(w.stop)
		w.wg.Wait()
		if w.probe != nil {
			w.probe.Stop()
		}
		for _, p := range w.own {
			p.Stop()
		}
	})
}

// awaitAnswerBy returns when a node answers the client from now on.
func (w *watch) awaitAnswerBy(node string) {
	w.t.Helper()
	within(w.t, func(ctx context.Context) error { return w.probe.AwaitAnswer(ctx, node, lab.NowNs()) })
}

// end stops looking and holds what must hold whatever happened: nobody answered
// beside the owner, nothing of the identity left by another NIC, its MAC did not
// change. It returns what the client saw.
func (w *watch) end() lab.Summary {
	t := w.t
	t.Helper()
	sum := lab.Analyze(w.probe.Stop(), lab.Window{})
	w.halt()
	w.drain()
	must(t, w.c.Judge(false))
	for what, n := range w.bad {
		t.Errorf("%s (seen %d times)", what, n)
	}
	if w.probe.MAC != w.id.MAC {
		t.Errorf("the client resolved %x, want %x", w.probe.MAC, w.id.MAC)
	}
	if sum.DualAnswers != 0 || sum.Duplicates != 0 {
		t.Errorf("the client got %d answers of a second node and %d twice", sum.DualAnswers, sum.Duplicates)
	}
	if n := lab.Overlap(w.seen, w.index); n != 0 {
		t.Errorf("%d frames of the identity came from a node after another had taken over", n)
	}
	if len(w.seen) == 0 {
		t.Error("the judge saw nothing")
	}
	for _, r := range w.seen {
		if r.Identity == w.index && !w.fits(r.Port) {
			t.Errorf("the identity's MAC was used behind %s", r.Port.Name())
			break
		}
	}
	for port, capture := range w.ports {
		all, err := capture.Stop()
		must(t, err)
		for _, f := range all {
			mine := f.IPv4 != nil && f.IPv4.Src == w.id.Addr || f.ARP != nil && f.ARP.SenderIP == w.id.Addr || [6]byte(f.Src) == w.id.MAC
			if mine && !f.Outgoing {
				t.Errorf("behind %s, where it does not belong, the identity sent % x", port, f.Raw[:min(len(f.Raw), 42)])
				break
			}
		}
	}
	for node, p := range w.own {
		if s := lab.Analyze(p.Stop(), lab.Window{}); s.Lost != 0 || s.Sent == 0 {
			t.Errorf("%s left %d of %d probes of its own address unanswered, the longest silence %v", node, s.Lost, s.Sent, time.Duration(s.OutageNs))
		}
	}
	if !sum.Restored {
		t.Errorf("the client is not served at the end: %+v", sum)
	}
	return sum
}

// endLossless ends a watch in which the client must not have noticed anything.
func (w *watch) endLossless() {
	w.t.Helper()
	if sum := w.end(); sum.Lost != 0 {
		w.t.Errorf("the client lost %d of %d probes, the longest silence %v", sum.Lost, sum.Sent, time.Duration(sum.OutageNs))
	}
}
