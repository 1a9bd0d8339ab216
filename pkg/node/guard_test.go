// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

// kernelSays is what a guard sees, made up.
type kernelSays struct {
	word              core.Word
	renewed, rightful int64
	frozen            bool
	running           uint64
	ended             []uint64 // of which Running all has ended
	some              int      // how often not all has
}

func (k *kernelSays) Word(int) core.Word   { return k.word }
func (k *kernelSays) RenewedNS() int64     { return k.renewed }
func (k *kernelSays) Frozen() bool         { return k.frozen }
func (k *kernelSays) RightUntil(int) int64 { return k.rightful }
func (k *kernelSays) Running(int) uint64   { return k.running }
func (k *kernelSays) Ended(_ int, running uint64, all bool) {
	if !all {
		k.some++
		return
	}
	k.ended = append(k.ended, running)
	k.running = 0
}

func newGuard(k *kernelSays, services ...config.Service) *guard {
	return &guard{
		task: guardTask{
			Node: "serv1", SupervisorLost: 750 * time.Millisecond, EndServices: 500 * time.Millisecond,
			Identities: []guardedIdentity{{"files", services}},
		},
		dp: k, log: slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), watched: make([]watched, 1),
	}
}

func TestAGuardEndsWhatTheDaemonDoesNot(t *testing.T) {
	const now, ms = int64(time.Hour), int64(time.Millisecond)
	owner, released := core.MakeWord(core.Owner, 6), core.MakeWord(core.Yield, 6)
	for name, c := range map[string]struct {
		says kernelSays
		ends bool
	}{
		"the owner's, all well":                          {says: kernelSays{word: owner, renewed: now, rightful: now + ms}},
		"the owner's, with its daemon lost":              {says: kernelSays{word: owner, renewed: now - 5000*ms, rightful: now + ms}},
		"lost, and the daemon is at it":                  {says: kernelSays{word: released, renewed: now - 749*ms, rightful: now + ms}},
		"lost, and the daemon does not act":              {says: kernelSays{word: released, renewed: now - 750*ms, rightful: now + ms}, ends: true},
		"the same in a network that is worked on":        {says: kernelSays{word: released, renewed: now - 750*ms, rightful: now + ms, frozen: true}, ends: true},
		"no right for a moment":                          {says: kernelSays{word: owner, renewed: now, rightful: now - 499*ms}},
		"no right for too long":                          {says: kernelSays{word: owner, renewed: now, rightful: now - 500*ms}, ends: true},
		"no right, in a network that is worked on":       {says: kernelSays{word: owner, renewed: now, rightful: now - 500*ms, frozen: true}},
		"no right is asked for":                          {says: kernelSays{word: owner, renewed: now, rightful: math.MaxInt64}},
		"just taken, and none has granted":               {says: kernelSays{word: owner, renewed: now}},
		"lost and no right, which is the daemon's to do": {says: kernelSays{word: released, renewed: now, rightful: now - 500*ms}},
	} {
		if why := newGuard(&c.says).why(0, now); (why != "") != c.ends {
			t.Errorf("%s: %q", name, why)
		}
	}
	never := newGuard(&kernelSays{word: owner, renewed: now})
	if never.why(0, now) != "" || never.why(0, now+499*ms) != "" || never.why(0, now+500*ms) == "" {
		t.Error("what was never granted does not count from when it was seen first")
	}
}

// A guard ends services once, and says so of what ran then.
func TestAGuardLooksAtWhatRuns(t *testing.T) {
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	samba := config.Service{Name: "samba", Start: "true", Stop: "echo $XDPHA_SERVICE $XDPHA_IDENTITY $XDPHA_NODE >>" + trace, Timeout: config.ServiceTimeout{Stop: 10 * time.Second}}
	now := loader.Now()
	k := &kernelSays{word: core.MakeWord(core.Yield, 6), renewed: now - int64(time.Second), rightful: math.MaxInt64}
	g := newGuard(k, samba)
	g.task.StateDir = dir
	look := func() {
		g.look(t.Context(), now)
		g.wg.Wait()
	}
	look()
	if len(k.ended) > 0 {
		t.Error("it ended what does not run")
	}
	k.running = 7
	look()
	look()
	if len(k.ended) != 1 || k.ended[0] != 7 || k.some > 0 {
		t.Errorf("it ended %v, and %d times some", k.ended, k.some)
	}
	if b, err := os.ReadFile(trace); strings.TrimSpace(string(b)) != "samba files serv1" {
		t.Errorf("the stops were %q (%v)", b, err)
	}
	g.task.Identities[0].Services[0].Stop = "exit 3"
	k.running = 9
	look()
	look() // not again at once
	if len(k.ended) != 1 || k.some != 1 {
		t.Errorf("it could not end it, and said %v, and %d times some", k.ended, k.some)
	}
}

// The daemon is back and owns while the guard is about to stop its services: the rest is the daemon's.
func TestAGuardGivesWayToItsDaemon(t *testing.T) {
	dir := t.TempDir()
	begun := filepath.Join(dir, "begun")
	samba := config.Service{Name: "samba", Start: "true", Stop: "touch " + begun + "; sleep 1000", Timeout: config.ServiceTimeout{Stop: time.Hour}}
	now := loader.Now()
	k := &kernelSays{word: core.MakeWord(core.Owner, 6), renewed: now, rightful: now - int64(time.Second), running: 7}
	g := newGuard(k, samba)
	g.task.StateDir = dir
	g.look(t.Context(), now)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		time.Sleep(time.Millisecond) // of a command in another process nothing else tells
	}
	k.rightful = math.MaxInt64
	g.look(t.Context(), now)
	g.wg.Wait()
	if ctx.Err() != nil || len(k.ended) > 0 || k.some != 1 {
		t.Errorf("it ended %v, and %d times some (%v)", k.ended, k.some, ctx.Err())
	}
}

// What ends with the daemon does not end its guard; the commands that it runs are used to ending so.
func TestAGuardsCommandsInheritNoIgnoredSignals(t *testing.T) {
	outlive() // for good: whichever thread gets the signal may do so after the test
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGPIPE} {
		out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf("kill -%d $$; echo lives", sig)).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Exited() {
			t.Errorf("a command that gets %s: %v, %s", sig, err, out)
		}
		if err := unix.Kill(os.Getpid(), sig); err != nil { // this process would end here
			t.Error(err)
		}
	}
}

// A service that was not let start again has not failed; that it does not run the core must know.
func TestARefusedStartIsNoFailure(t *testing.T) {
	s := service.State{Service: "samba", Phase: service.Failed, Reason: "exit status 1"}
	if ev := serviceEvent(1, s); ev != (core.ServiceState{Identity: 1, Service: "samba", Err: "exit status 1"}) {
		t.Errorf("a failure is told as %#v", ev)
	}
	s.CalledOff, s.Refused = true, true
	if ev := serviceEvent(1, s); ev != (core.ServicesEnded{Identity: 1, Refused: true}) {
		t.Errorf("a refusal is told as %#v", ev)
	}
}
