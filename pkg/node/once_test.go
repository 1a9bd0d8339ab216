// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
)

// locked is a service that must run once: it holds a lock in a directory that all nodes see for as long
// as it runs, whatever becomes of the daemon, and a start that finds it held says so.
const locked = `#!/bin/sh
dir=${0%/*} me=$XDPHA_NODE
pid=$dir/$me.pid
runs() { test -s "$pid" && grep -q "^State:.[DRST]" "/proc/$(cat "$pid")/status" 2>/dev/null; }
case $1 in
start)
	runs && exit
	rm -f "$pid"
	setsid sh -c '
		exec 9>>"$1/lock"
		flock -n 9 || { echo "$2 started it while it ran on $(cat "$1/by")" >>"$1/violations"; flock 9; }
		echo "$2" >"$1/by"
		echo $$ >"$3"
		exec sleep 100000' - "$dir" "$me" "$pid" >/dev/null 2>&1 &
	until test -s "$pid" || test -s "$dir/violations"; do sleep 0.01; done
	;;
stop)
	runs && kill "$(cat "$pid")"
	rm -f "$pid"
	;;
check) runs ;;
esac
`

// once is the service filesd of a cluster as locked.
type once struct {
	*cluster
	dir string
}

func runningOnce(t *testing.T, s lab.Scene, replace ...string) once {
	t.Helper()
	s.Profile = "cautious"
	o := once{newCluster(t, s), t.TempDir()}
	program := filepath.Join(o.dir, "locked")
	must(t, os.WriteFile(program, []byte(locked), 0o700))
	for _, verb := range [][2]string{{"start", `'touch "`}, {"stop", `'rm -f "`}, {"check", `'test -e "`}} {
		at := verb[0] + ": " + verb[1] + o.Dir + "/services/filesd@"
		replace = append(replace, at, strings.Replace(at, "'", "'"+program+" "+verb[0]+" && ", 1))
	}
	b, err := os.ReadFile(o.edited(t, replace...))
	must(t, err)
	must(t, os.WriteFile(o.ConfigPath(), b, 0o600))
	for _, n := range o.Nodes {
		must(t, n.Start())
	}
	o.bringHome(t) // one node may have come to run much later than the other
	o.awaitRunsOn(t, lab.Serv1)
	return o
}

func (o once) awaitRunsOn(t *testing.T, node string) {
	t.Helper()
	await(t, "the service has its lock on "+node, func() error {
		if b, err := os.ReadFile(filepath.Join(o.dir, "by")); err != nil || strings.TrimSpace(string(b)) != node {
			return fmt.Errorf("%q has it (%v)", b, err)
		}
		return nil
	})
}

func (o once) neverTwice(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.dir, "violations"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v: %s", err, b)
	}
}

// TestAServiceThatMustRunOnceDoes breaks its node in each way that leaves its processes alive: it has
// ended there before it starts on the other one, and when the node is back it runs at one place still.
func TestAServiceThatMustRunOnceDoes(t *testing.T) {
	o := runningOnce(t, lab.Scene{})
	for _, kind := range []lab.Fault{lab.FaultDaemonStop, lab.FaultDaemonKill, lab.FaultHang, lab.FaultIsolate, lab.FaultPower} {
		if !t.Run(string(kind), func(t *testing.T) {
			o.bringHome(t)
			o.awaitRunsOn(t, lab.Serv1)
			o.breaks(t, kind, files)
			o.awaitRunsOn(t, lab.Serv2)
			o.neverTwice(t)
			o.heal(t, kind, files)
			o.awaitSettled(t, everythingOn(lab.Serv2))
			o.neverTwice(t)
		}) {
			o.logs(t)
			return
		}
	}
	o.bringHome(t)
	o.awaitRunsOn(t, lab.Serv1)
	o.neverTwice(t)
}

// guardOf is the process that is a node's guard; 0: none is.
func guardOf(n *lab.Node) int {
	f, err := os.Open(filepath.Join(n.StateDir, "guard.lock"))
	if err != nil {
		return 0
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock) != nil || lock.Type == unix.F_UNLCK {
		return 0
	}
	return int(lock.Pid)
}

func awaitGuard(t *testing.T, n *lab.Node, other int) (pid int) {
	t.Helper()
	await(t, n.Name+" has a guard", func() error {
		if pid = guardOf(n); pid == 0 || pid == other {
			return fmt.Errorf("it is process %d", pid)
		}
		return nil
	})
	return pid
}

func awaitNoProcess(t *testing.T, pid int) {
	t.Helper()
	await(t, "the guard has ended", func() error {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(b), ") Z ") {
			return fmt.Errorf("it runs: %s", b)
		}
		return nil
	})
}

// A guard that dies is told of and replaced; it outlives its daemon, gives way to the next one's, and
// ends with a daemon that leaves.
func TestADaemonHasOneGuard(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: patientLease})
	n := c.Node(lab.Serv1)
	first := awaitGuard(t, n, 0)
	since := c.lastEvent(t, lab.Serv1)
	must(t, unix.Kill(first, unix.SIGKILL))
	second := awaitGuard(t, n, first)
	await(t, "its death is told", func() error { return c.hasEvent(lab.Serv1, since, "guard-missing", "") })
	await(t, "and that another one runs", func() error {
		for _, trouble := range c.mustStatus(t, lab.Serv1).Troubles {
			return fmt.Errorf("%s: %s", trouble.Kind, trouble.Text)
		}
		return nil
	})
	must(t, n.Kill())
	if pid := guardOf(n); pid != second {
		t.Errorf("with its daemon killed the guard is process %d, it was %d", pid, second)
	}
	must(t, n.Restart())
	third := awaitGuard(t, n, second)
	awaitNoProcess(t, second)
	c.awaitSettled(t, atHome)
	within(t, func(ctx context.Context) error { status, err := n.Stop(ctx); return orStatus(status, err) })
	awaitNoProcess(t, third)
}

// Without daemon and guard nobody ends what runs: the other node waits as long as it is told to, and
// then starts its own, and says so.
func TestServicesThatNobodyEndsAreWaitedForAndTold(t *testing.T) {
	o := runningOnce(t, lab.Scene{SupervisorLease: "4s"}, "timing:\n", "timing:\n  await_services: 2s\n")
	guard, since := awaitGuard(t, o.Node(lab.Serv1), 0), o.lastEvent(t, lab.Serv2)
	o.stopped(t, lab.Serv1)
	must(t, unix.Kill(guard, unix.SIGKILL))
	await(t, "the wait is told", func() error { return o.hasEvent(lab.Serv2, since, "services-wait", "on serv1") })
	await(t, "serv2 serves files", func() error { return o.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	o.awaitEvent(t, lab.Serv2, since, "services-unconfirmed", "serv1")
}

// The guard ends what runs on an owner that is cut off, too, and nobody took it: when the daemon is
// back, and is let serve, it starts again what it has not ended itself.
func TestTheDaemonStartsAnewWhatItsGuardHasEnded(t *testing.T) {
	o := runningOnce(t, lab.Scene{})
	await(t, "serv2 takes nothing", func() error { // it refuses until it has heard that serv1 is prepared
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return o.api[lab.Serv2].Standby(ctx, true)
	})
	await(t, "serv1 runs everything", func() error { return o.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	since := o.lastEvent(t, lab.Serv1)
	resume := o.stopped(t, lab.Serv1)
	o.breaks(t, lab.FaultIsolate, files)
	await(t, "the guard ends what runs", func() error {
		if o.Node(lab.Serv1).ServiceRuns("filesd") {
			return errors.New("it runs")
		}
		return nil
	})
	resume()
	await(t, "the daemon tells what its guard has done", func() error { return o.hasEvent(lab.Serv1, since, "services-ended", "guard") })
	o.heal(t, lab.FaultIsolate, files)
	await(t, "serv1 runs everything again", func() error { return o.serves(lab.Serv1, everythingOn(lab.Serv1)) })
	o.awaitRunsOn(t, lab.Serv1)
	o.neverTwice(t)
}
