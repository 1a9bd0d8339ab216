// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/config"
)

// needGroups skips a test that needs cgroups where this user may make none.
func needGroups(t *testing.T) {
	t.Helper()
	if err := CheckCgroups(t.TempDir()); err != nil {
		if os.Geteuid() == 0 || os.Getenv("XDPHA_REQUIRE_ROOT") != "" {
			t.Fatal(err)
		}
		t.Skip("not root:", err)
	}
}

// runaway leaves its process group, as daemons do, and says its number.
const runaway = `setsid sh -c 'echo $$ >$D/pid; exec sleep 1000' & while ! test -s $D/pid; do sleep 0.01; done`

func TestAStopEndsWhatHasLeftItsProcessGroup(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = runaway }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if !r.groups.of("a").populated() {
		t.Fatal("it is in no cgroup of its own")
	}
	r.ok(r.Stop(t.Context(), []string{"a"}))
	hasEnded(t, r.word("pid"))
	if d := cmp.Diff([]string{"stop-a"}, r.read("trace")); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(r.groups.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a cgroup is left:", err)
	}
}

func TestAStopGivesWhatIsLeftTheTimeToEndByItself(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = `setsid sh -c 'trap "sleep 0.3; echo in-order >$D/end; exit" TERM; echo $$ >$D/pid; while :; do sleep 0.01; done' & while ! test -s $D/pid; do sleep 0.01; done`
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if d := cmp.Diff([]string{"in-order"}, r.read("end")); d != "" {
		t.Error(d)
	}
}

func TestWhatOutlivesAStopsTimeLimitIsKilled(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = `setsid sh -c 'trap "" TERM; echo $$ >$D/pid; while :; do sleep 1000; done' & while ! test -s $D/pid; do sleep 0.01; done`
		s.Timeout.Stop = shortLimit
	}))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.ok(r.Stop(t.Context(), []string{"a"}))
	hasEnded(t, r.word("pid"))
}

func TestAStopThatFailsLeavesNothingRunningEither(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) { s.Start, s.Stop = runaway, "exit 1" }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if err := r.Stop(t.Context(), []string{"a"}); err == nil || r.phase("a") != Failed {
		t.Errorf("%v, %s", err, r.phase("a"))
	}
	hasEnded(t, r.word("pid"))
}

func TestAFailedStartLeavesNothingOutsideOfItsProcessGroup(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = runaway + "; exit 1" }))
	if err := r.Start(t.Context(), []string{"a"}, Env{}); err == nil {
		t.Error("started")
	}
	hasEnded(t, r.word("pid"))
}

func TestADaemonThatComesBackFindsTheProcessesOfItsServices(t *testing.T) {
	needGroups(t)
	// Without a check nothing but the cgroup tells that it runs.
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = runaway }), svc("b", nil))
	r.ok(r.Start(t.Context(), []string{"a", "b"}, Env{}))
	r.Close()
	back := New([]config.Service{r.units["a"].cfg, r.units["b"].cfg}, r.dir, r.Manager.log, nil)
	defer back.Close()
	got, err := back.Adopt(t.Context(), []string{"a", "b"}, Env{})
	if d := cmp.Diff([]string{"a"}, got); d != "" || err != nil {
		t.Error(err, d)
	}
	r.ok(back.Stop(t.Context(), []string{"a"}))
	hasEnded(t, r.word("pid"))
	if other, err := newGroups(t.TempDir()); err != nil || other.dir == r.groups.dir {
		t.Errorf("another daemon would find them too: %v", err)
	}
}

func TestWhatAnEarlierDaemonLeftIsStoppedBeforeAStart(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = "rm -f $D/pid; " + runaway }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	left := r.word("pid")
	r.Close()
	back := New([]config.Service{r.units["a"].cfg}, r.dir, r.Manager.log, nil)
	defer back.Close()
	r.ok(back.Start(t.Context(), []string{"a"}, Env{}))
	hasEnded(t, left)
	if now := r.word("pid"); now == left {
		t.Error("not started anew")
	}
	r.traced("stop-a")
}

func TestUseIsMeasuredWhileTheServiceRuns(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo x >$D/fifo; exec sleep 1000) &"
	}))
	r.fifo("fifo")
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.await("fifo")
	u, err := r.Usage(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if u.Service != "a" || u.Processes != 1 || u.CPU < time.Millisecond || u.Memory < 4096 {
		t.Errorf("%+v", u)
	}
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if _, err := r.Usage(t.Context(), "a"); !errors.Is(err, ErrNotMeasured) {
		t.Error(err)
	}
	if _, err := r.Usage(t.Context(), "nobody"); err == nil {
		t.Error("measured")
	}
}

func TestUseIsReadFromTheCgroupsFiles(t *testing.T) {
	files := map[string]string{
		"cgroup.procs": "", "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
		"memory.current": "1048576\n", "memory.peak": "2097152\n",
		"io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readUsage(dir)
	want := Usage{CPU: 1500 * time.Millisecond, Memory: 1 << 20, MemoryPeak: 2 << 20, IO: &IOUsage{4097, 8194, 4, 6}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	if err := os.Remove(filepath.Join(dir, "memory.peak")); err != nil { // Linux 5.18
		t.Fatal(err)
	}
	if got, _ := readUsage(dir); got.MemoryPeak != 1<<20 {
		t.Errorf("%+v", got)
	}
}

func TestTheEndOfTheLastProcessIsAwaitedNotPolled(t *testing.T) {
	needGroups(t)
	r := newRig(t, svc("a", func(s *config.Service) { s.Start = runaway }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	g := r.groups.of("a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.empty(ctx); !errors.Is(err, context.Canceled) {
		t.Error("a wait that was cancelled:", err)
	}
	emptied := make(chan error, 1)
	go func() { emptied <- g.empty(t.Context()) }()
	if err := exec.Command("kill", "-KILL", r.word("pid")).Run(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-emptied:
		r.ok(err)
	case <-time.After(10 * time.Second):
		t.Fatal("the end was not seen")
	}
}

// In a mount namespace without cgroup2 the process group has to do.
func TestWithoutCgroupsTheProcessGroupIsEndedAndTheLogSaysSo(t *testing.T) {
	const inside = "XDPHA_TEST_WITHOUT_CGROUP"
	if os.Getenv(inside) == "" {
		needGroups(t)
		mount, err := cgroupFile("/")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("unshare", "--mount", "sh", "-c", `umount -l "$0" && exec "$@"`, mount, os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start = "sleep 1000 & echo $! >$D/child; wait"
		s.Timeout.Start = shortLimit
	}), svc("b", nil))
	if err := r.Start(t.Context(), []string{"a"}, Env{}); !errors.Is(err, errTimeLimit) {
		t.Error(err)
	}
	hasEnded(t, r.word("child"))
	if n := strings.Count(r.log.String(), "services run without cgroups"); n != 1 {
		t.Errorf("told %d times: %s", n, r.log)
	}
	if err := CheckCgroups(r.dir); err == nil || !strings.Contains(err.Error(), "cgroup2 is not mounted: mount -t cgroup2") {
		t.Error(err)
	}
}

func TestCgroupsAreMadeBesideTheDaemonsWhereItHasOne(t *testing.T) {
	const inside = "XDPHA_TEST_IN_DAEMON_CGROUP"
	if base := os.Getenv(inside); base != "" {
		r := newRig(t, svc("a", func(s *config.Service) { s.Start = runaway }))
		r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
		if got := filepath.Dir(r.groups.dir); got != base || !r.groups.meter || !r.groups.of("a").populated() {
			t.Errorf("in %s, want %s", got, base)
		}
		r.ok(r.Stop(t.Context(), []string{"a"}))
		return
	}
	needGroups(t)
	own, err := ownCgroup()
	if err != nil {
		t.Fatal(err)
	}
	parent, err := cgroupFile(own)
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.MkdirTemp(parent, "xdpha-test-")
	if err != nil {
		t.Fatal(err)
	}
	g := &cgroup{parent: &groups{dir: base}, dir: filepath.Join(base, daemonGroup)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.removeIfEmpty)
	argv := command{argv: []string{os.Args[0], "-test.run", "^" + t.Name() + "$"}, group: g}.prepared()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+base)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
