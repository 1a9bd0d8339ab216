// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childrenCPU is the processor time of all children that were waited for.
func childrenCPU(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_CHILDREN, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestTheClientCutsWhileNobodyElseRuns also holds that hogs end by themselves.
func TestTheClientCutsWhileNobodyElseRuns(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const cutAt, held = 300 * time.Millisecond, 600 * time.Millisecond
	p, err := l.StartProber(ctx, netip.MustParseAddr("192.0.2.12"), ProbeOptions{CutNode: Serv2, CutAt: cutAt})
	must(t, err)
	before, began := childrenCPU(t), NowNs()
	wait, err := StartHogs(30, held)
	must(t, err)
	must(t, wait())
	took := time.Duration(NowNs() - began)
	r := p.Stop()
	spun, whole := childrenCPU(t)-before, held*time.Duration(runtime.NumCPU())
	t.Logf("hogs spun for %v in %v; the cut came %v after the start", spun, took, time.Duration(r.CutNs-r.SentNs[0]))
	if spun < whole/4 || took > held+3*time.Second { // other real-time programs and the hypervisor have their share
		t.Errorf("hogs spun for %v of %v, and were gone after %v", spun, whole, took)
	}
	s := Analyze(r, Window{})
	if late := r.CutNs - r.SentNs[0] - int64(cutAt); late < -r.PeriodNs || late > 100e6+s.StallMaxNs {
		t.Errorf("the cut came %v late", time.Duration(late))
	}
	var sent []int64 // before the cut, of which the last may be cut off from its answer
	for _, at := range r.SentNs {
		if at < r.CutNs {
			sent = append(sent, at)
		}
	}
	if len(sent) < 2 {
		t.Fatalf("%d probes were sent before the cut", len(sent))
	}
	if s.Restored || s.FromNs > r.CutNs || s.FromNs < sent[len(sent)-2] {
		t.Errorf("the last answer is for a probe %v before the cut; %+v", time.Duration(r.CutNs-s.FromNs), s)
	}
	if before := Analyze(r, Window{ToNs: r.CutNs - r.PeriodNs}); before.Lost != 0 || !p.Realtime {
		t.Errorf("before the cut: %+v, real time %v", before, p.Realtime)
	}
	must(t, l.Heal(ctx, FaultHang, Identities[1]))
	if got := ping(t, l, Client, "192.0.2.12", TTLServ2); got != TTLServ2 {
		t.Errorf("healed serv2 answers with TTL %d", got)
	}
}

func TestWhatCannotWorkIsRefusedAtOnce(t *testing.T) {
	for _, priority := range []int{0, probePriority - 1, probePriority} {
		if _, err := StartHogs(priority, time.Millisecond); err == nil {
			t.Errorf("hogs of priority %d were started", priority)
		}
	}
	l := newLab(t)
	if _, err := l.StartProber(t.Context(), netip.MustParseAddr("192.0.2.12"), ProbeOptions{CutNode: Client}); err == nil {
		t.Error("a prober was started that cuts the client")
	}
}

func TestAProberThatRunsLongerThanExpectedMissesNothing(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := l.StartProber(ctx, netip.MustParseAddr("192.0.2.12"), ProbeOptions{Period: 50 * time.Microsecond, Expect: time.Millisecond})
	must(t, err)
	const room = 1000 + 20 // what is made ahead
	for p.Live().Answered < 3*room {
		must(t, p.AwaitAnswer(ctx, Serv2, NowNs()))
	}
	r := p.Stop()
	s := Analyze(r, Window{})
	if s.Lost != 0 || s.Duplicates != 0 || int64(s.Sent) < 3*room || r.CutNs != 0 {
		t.Errorf("room for %d: %+v", room, s)
	}
}
