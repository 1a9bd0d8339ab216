// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/config"
)

func TestServicesStartAndStopInOrder(t *testing.T) {
	r := newRig(t,
		svc("a", func(s *config.Service) { s.After = []string{"b"} }),
		svc("b", func(s *config.Service) { s.After = []string{"c", "elsewhere"} }),
		svc("c", nil))
	names := []string{"a", "b", "c"}
	r.ok(r.Start(t.Context(), names, Env{}))
	r.ok(r.Stop(t.Context(), names))
	want := []string{"start-c", "start-b", "start-a", "stop-a", "stop-b", "stop-c"}
	if d := cmp.Diff(want, r.read("trace")); d != "" {
		t.Error(d)
	}
	for _, s := range r.States() {
		if s.Phase != Stopped {
			t.Errorf("%+v", s)
		}
	}
}

func TestIndependentServicesStartInParallel(t *testing.T) {
	// Each start waits for the other's: one after the other would never end.
	r := newRig(t,
		svc("a", func(s *config.Service) { s.Start = "echo x >$D/a; read y <$D/b" }),
		svc("b", func(s *config.Service) { s.Start = "read y <$D/a; echo x >$D/b" }))
	r.fifo("a")
	r.fifo("b")
	r.ok(r.Start(t.Context(), []string{"a", "b"}, Env{}))
}

func TestEnvironmentNamesWhatTheServiceIsStartedFor(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/of-the-daemon")
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = `echo $XDPHA_IDENTITY $XDPHA_GENERATION $XDPHA_NODE $XDPHA_SERVICE "[$NOTIFY_SOCKET]" >$D/env`
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{"files", 1<<56 - 1, "serv1"}))
	if d := cmp.Diff([]string{"files", "72057594037927935", "serv1", "a", "[]"}, r.read("env")); d != "" {
		t.Error(d)
	}
}

func TestStartOfWhatIsUpDoesNothing(t *testing.T) {
	r := newRig(t, svc("a", nil))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if got := r.read("trace"); len(got) != 1 {
		t.Error(got)
	}
}

func TestStopOfWhatIsKnownToBeStoppedDoesNothing(t *testing.T) {
	r := newRig(t, svc("a", nil))
	r.ok(r.Stop(t.Context(), []string{"a"})) // not known yet: a daemon before this one may have left it
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if d := cmp.Diff([]string{"stop-a"}, r.read("trace")); d != "" {
		t.Error(d)
	}
}

func TestServiceIsUpOnlyAfterAGoodCheck(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) { s.Check = "echo checked >$D/fifo; test -e $D/good" }))
	r.fifo("fifo")
	ended := make(chan error, 1)
	go func() { ended <- r.Start(t.Context(), []string{"a"}, Env{}) }()
	r.await("fifo")
	r.await("fifo")
	select {
	case err := <-ended:
		t.Fatal("up without a good check:", err)
	default:
	}
	if p := r.phase("a"); p != Starting {
		t.Error(p)
	}
	r.write("good", "")
	for r.phase("a") == Starting {
		r.await("fifo")
	}
	r.ok(<-ended)
	// Nobody reads the fifo now: the check hangs, and Close must end it.
}

func TestFailedStartIsReportedWithItsLastLine(t *testing.T) {
	r := newRig(t,
		svc("a", func(s *config.Service) { s.Start = "echo first; echo no such disk >&2; exit 3" }),
		svc("b", func(s *config.Service) { s.After = []string{"a"} }),
		svc("c", nil))
	err := r.Start(t.Context(), []string{"a", "b", "c"}, Env{})
	for _, want := range []string{"start a: start: exit status 3: no such disk", "start b: a, which it comes after, is not up"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if d := cmp.Diff([]string{"start-c"}, r.read("trace")); d != "" {
		t.Error(d)
	}
	if r.phase("a") != Failed || r.phase("b") != Failed || r.phase("c") != Up {
		t.Errorf("%+v", r.States())
	}
}

func TestStartOverItsTimeLimitLosesItsProcessGroup(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "sleep 1000 & echo $! >$D/child; wait"
		s.Timeout.Start = shortLimit
	}))
	err := r.Start(t.Context(), []string{"a"}, Env{})
	if !errors.Is(err, errTimeLimit) {
		t.Error(err)
	}
	hasEnded(t, r.word("child"))
}

// hasEnded fails unless the process has ended; a zombie has. So has what is on its way out and holds no
// file any more: its cgroup counts it out a moment before it is a zombie (do_exit, seen on Linux 6.18).
func hasEnded(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
	if err != nil || strings.Contains(string(stat), ") Z ") {
		return
	}
	// proc_pid_stat(5): pid (comm) state ppid pgrp session tty tpgid flags; comm may hold anything.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	flags, err := strconv.ParseUint(f[6], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	const exiting = 0x4 // PF_EXITING
	if files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n)); flags&exiting == 0 || len(files) > 0 {
		t.Errorf("process %d lives: %s", n, stat)
	}
}

func TestWhatIgnoresSIGTERMIsKilled(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "trap '' TERM; echo $$ >$D/pid; while :; do sleep 1000; done"
		s.Timeout.Start = shortLimit
	}))
	began := time.Now()
	if err := r.Start(t.Context(), []string{"a"}, Env{}); !errors.Is(err, errTimeLimit) {
		t.Error(err)
	}
	if d := time.Since(began); d < shortLimit+killAfter {
		t.Errorf("after %v", d)
	}
	hasEnded(t, r.word("pid"))
}

func TestStopDuringStartCancelsIt(t *testing.T) {
	r := newRig(t,
		svc("a", func(s *config.Service) { s.Start = "echo $$ >$D/fifo; sleep 1000" }),
		svc("b", func(s *config.Service) { s.After = []string{"a"} }))
	r.fifo("fifo")
	ended := make(chan error, 1)
	go func() { ended <- r.Start(t.Context(), []string{"a", "b"}, Env{}) }()
	pid := r.await("fifo")
	r.ok(r.Stop(t.Context(), []string{"a", "b"}))
	if err := <-ended; !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	hasEnded(t, pid)
	if r.phase("a") != Stopped || r.phase("b") != Stopped {
		t.Errorf("%+v", r.States())
	}
	for _, l := range r.read("trace") {
		if l == "start-b" {
			t.Error("b was started")
		}
	}
}

func TestStartWhoseContextEndsIsCancelled(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = "echo $$ >$D/fifo; sleep 1000" }))
	r.fifo("fifo")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx, []string{"a"}, Env{}) }()
	pid := r.await("fifo")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	hasEnded(t, pid)
	if s, _ := r.State("a"); s.Phase != Failed || !s.CalledOff || s.Failure != "" {
		t.Errorf("the start was called off, which is no failure of the service: %+v", s)
	}
}

func TestContextThatEndsLaterLeavesTheServiceUp(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) { s.Check = "test ! -e $D/bad" }))
	ctx, cancel := context.WithCancel(t.Context())
	r.ok(r.Start(ctx, []string{"a"}, Env{}))
	cancel()
	r.until("a", Up)
	r.write("bad", "") // it is still watched
	r.until("a", Failed)
}

func TestBadCheckFailsAndRecoversByRiseAndFall(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Check = "test ! -e $D/bad || { echo disk is full; exit 1; }"
		s.Fall, s.Rise = 1000, 2
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.until("a", Up)
	r.write("bad", "")
	if s := r.until("a", Failing); !strings.Contains(s.Reason, "disk is full") {
		t.Error(s.Reason)
	}
	r.remove("bad")
	if s := r.until("a", Up); s.Restarts != 0 || s.Reason != "" {
		t.Errorf("%+v", s)
	}
}

func TestServiceIsRestartedThenReportedFailed(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start += "; touch $D/good"
		s.Check = "test -e $D/good"
		s.Restart = config.ServiceRestart{Times: 2, Within: time.Hour}
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.until("a", Up)
	for i := range uint64(2) {
		r.remove("good")
		if s := r.until("a", Up); s.Restarts != i+1 {
			t.Errorf("%+v", s)
		}
	}
	r.remove("good")
	if s := r.until("a", Failed); s.Restarts != 2 || !strings.Contains(s.Reason, "no restart is left") {
		t.Errorf("%+v", s)
	}
	want := strings.Fields("start-a stop-a start-a stop-a start-a")
	if d := cmp.Diff(want, r.read("trace")); d != "" {
		t.Error(d)
	}
	// A new start is a new window, and cleans up before.
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if d := cmp.Diff(append(want, "stop-a", "start-a"), r.read("trace")); d != "" {
		t.Error(d)
	}
}

func TestStartIsRepeatedWithinTheWindow(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "echo x >>$D/tries; test $(wc -l <$D/tries) = 2"
		s.Restart = config.ServiceRestart{Times: 1, Within: time.Hour}
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if s, _ := r.State("a"); s.Restarts != 1 || s.Phase != Up {
		t.Errorf("%+v", s)
	}
}

func TestRestartsExpire(t *testing.T) {
	var r run
	w := config.ServiceRestart{Times: 2, Within: time.Minute}
	t0 := time.Unix(0, 0)
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{{0, true}, {time.Second, true}, {2 * time.Second, false}, {time.Minute, true}, {time.Minute, false}, {61 * time.Second, true}} {
		if got := r.mayRestart(w, t0.Add(step.at)); got != step.want {
			t.Errorf("at %v: %v", step.at, got)
		}
	}
}

func TestFailureWakesWhoStartsItAnewAtOnce(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start += "; touch $D/good"
		s.Check = "test -e $D/good"
	}))
	for range 5 {
		r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
		r.remove("good")
		r.until("a", Failed)
	}
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if p := r.phase("a"); p != Up {
		t.Error(p)
	}
}

func TestFailedStopIsReported(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) { s.Stop = "echo will not >&2; exit 1" }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if err := r.Stop(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), "stop a: stop: exit status 1: will not") {
		t.Error(err)
	}
	if p := r.phase("a"); p != Failed {
		t.Error(p)
	}
}

func TestAdoptTakesWhatRuns(t *testing.T) {
	r := newRig(t,
		svc("runs", func(s *config.Service) { s.Check = "test ! -e $D/bad" }),
		svc("down", func(s *config.Service) { s.Check = "false" }),
		svc("unknown", nil))
	names := []string{"runs", "down", "unknown"}
	got, err := r.Adopt(t.Context(), names, Env{Identity: "files"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"runs"}, got); d != "" {
		t.Error(d)
	}
	if again, _ := r.Adopt(t.Context(), names, Env{}); len(again) > 0 {
		t.Error("twice:", again)
	}
	if s, _ := r.State("runs"); s.Phase != Up || s.Env.Identity != "files" {
		t.Errorf("%+v", s)
	}
	r.ok(r.Start(t.Context(), []string{"runs"}, Env{}))
	if tr := r.read("trace"); len(tr) > 0 {
		t.Error("started:", tr)
	}
	r.write("bad", "") // it is watched
	r.until("runs", Failed)
}

func TestCloseLeavesServicesRunning(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		// It goes on printing after the daemon has gone, and must bear that.
		s.Start = "(read x <$D/go; for i in 1 2 3; do echo still here || exit 1; done; echo alive >$D/fifo) & "
	}))
	r.fifo("fifo")
	r.fifo("go")
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.Close()
	if got := r.read("trace"); len(got) > 0 {
		t.Error("stopped:", got)
	}
	r.write("go", "x\n")
	if got := r.await("fifo"); got != "alive" {
		t.Errorf("%q", got)
	}
	if err := r.Start(t.Context(), []string{"a"}, Env{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestOutputGoesToTheLogWithTheServicesName(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "echo hello; printf 'no newline'; (read x <$D/go; echo from the child; echo x >$D/fifo) &"
	}))
	r.fifo("go")
	r.fifo("fifo")
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.write("go", "x\n")
	r.await("fifo")
	r.ok(r.Stop(t.Context(), []string{"a"}))
	for _, want := range []string{"service=a command=start line=hello", `line="no newlinefrom the child"`} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, r.log)
		}
	}
}

func TestOutputIsBoundedPerLineAndRate(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "head -c 100000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done"
		s.Stop = ""
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.ok(r.Stop(t.Context(), []string{"a"}))
	log := r.log.String()
	if n := strings.Count(log, "service output"); n < lineBurst || n > 2*lineBurst {
		t.Errorf("%d lines", n)
	}
	for l := range strings.Lines(log) {
		if len(l) > maxLine+200 {
			t.Errorf("line of %d bytes", len(l))
		}
	}
	if !strings.Contains(log, "…") {
		t.Error("long line is not marked")
	}
}

func TestDroppedLinesAreCountedWhenTheRateAllows(t *testing.T) {
	var b buffer
	l := newLineLog(slog.New(slog.NewTextHandler(&b, nil)))
	now := time.Now()
	l.now = func() time.Time { return now }
	for range lineBurst + 7 {
		l.line("start", "x")
	}
	now = now.Add(time.Second)
	l.line("start", "y")
	if !strings.Contains(b.String(), "lines_dropped=7") {
		t.Error(b.String())
	}
}

func TestEndlessOutputIsRefused(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = "yes" }))
	if err := r.Start(t.Context(), []string{"a"}, Env{}); err == nil { // yes gives up when it cannot write
		t.Error("started")
	}
	if !strings.Contains(r.log.String(), "further output is refused") {
		t.Error(r.log.String()[:min(2000, len(r.log.String()))])
	}
}

func TestNamesThatCannotBeStartedAreRefused(t *testing.T) {
	r := newRig(t,
		svc("a", func(s *config.Service) { s.After = []string{"b"} }),
		svc("b", func(s *config.Service) { s.After = []string{"a"} }))
	if err := r.Start(t.Context(), []string{"nobody"}, Env{}); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Error(err)
	}
	if err := r.Start(t.Context(), []string{"a", "b"}, Env{}); err == nil || !strings.Contains(err.Error(), "after itself") {
		t.Error(err)
	}
	if err := r.Stop(t.Context(), []string{"nobody"}); err == nil {
		t.Error("stopped")
	}
}

func TestManyStartsAndStopsAtOnceEndStopped(t *testing.T) {
	r := newRig(t,
		svc("a", func(s *config.Service) { s.Check = "true" }),
		svc("b", func(s *config.Service) { s.Check = "true"; s.After = []string{"a"} }))
	names := []string{"a", "b"}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				if err := r.Start(t.Context(), names, Env{}); err != nil && !errors.Is(err, ErrStopped) {
					t.Error(err)
				}
				if err := r.Stop(t.Context(), names); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r.ok(r.Stop(t.Context(), names))
	for _, s := range r.States() {
		if s.Phase != Stopped {
			t.Errorf("%+v", s)
		}
	}
	running := map[string]int{}
	for _, l := range r.read("trace") {
		verb, name, _ := strings.Cut(l, "-")
		if verb == "start" {
			if running[name]++; running[name] > 1 {
				t.Fatal(name, "runs twice")
			}
		} else {
			running[name] = 0
		}
	}
}

func TestPhasesHaveNames(t *testing.T) {
	for p := Stopped; p <= Stopping+1; p++ {
		if p.String() == "" {
			t.Errorf("%d has none", p)
		}
	}
}
