// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// end ends a rig's services as another process would.
func (r *rig) end(services ...config.Service) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	return End(ctx, services, Env{Identity: "files", Node: "serv1"}, r.dir, r.Groups(), r.dir, slog.New(slog.NewTextHandler(r.log, nil)))
}

// What ignores SIGTERM and has left its process group, and whose stop would take its time, is gone
// before the stop is asked for.
func TestEndKillsWhatRunsAndThenStopsIt(t *testing.T) {
	needGroups(t)
	stubborn := svc("samba", func(s *config.Service) {
		s.Start = `setsid sh -c 'trap "" TERM; echo $$ >$D/pid; while :; do sleep 1; done' >/dev/null 2>&1 & until [ -s $D/pid ]; do sleep 0.01; done`
		s.Stop = `if [ -n "$(ls /proc/$(cat $D/pid)/fd 2>/dev/null)" ]; then echo alive >>$D/trace; else echo stop-$XDPHA_SERVICE >>$D/trace; fi`
	})
	later := svc("web", func(s *config.Service) { s.After = []string{"samba"} })
	services := []config.Service{stubborn, later}
	r := newRig(t, services...)
	if err := r.Start(t.Context(), []string{"samba", "web"}, Env{Identity: "files"}); err != nil {
		t.Fatal(err)
	}
	if err := r.end(services...); err != nil {
		t.Fatal(err)
	}
	if r.groups.of("samba").populated() {
		t.Error("something runs on")
	}
	r.traced("start-web stop-web stop-samba")
	if err := r.end(services...); err != nil {
		t.Errorf("to end them again: %v", err)
	}
}

func TestEndTellsWhatItCouldNotStop(t *testing.T) {
	bad := svc("samba", func(s *config.Service) { s.Stop = "exit 7" })
	r := newRig(t, bad)
	if err := r.end(bad); err == nil || !strings.Contains(err.Error(), "stop samba") {
		t.Errorf("it said %v", err)
	}
}

// permission is what a rig's services need; its answers may be asked for by many goroutines.
type permission struct {
	mu    sync.Mutex
	no    error
	asked []Env
}

func (r *rig) needsPermission() *permission {
	p := &permission{}
	r.Permit = func(e Env) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked = append(p.asked, e)
		return p.no
	}
	return p
}

func (p *permission) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.no = err
}

var errNotOwner = errors.New("not the owner any more")

// has reports that a rig's service has come to where it writes a file.
func (r *rig) has(name string) bool {
	_, err := os.Stat(filepath.Join(r.dir, name))
	return err == nil
}

// A restart in place asks as the first start does. That it is refused says nothing of the service, nor
// does it use up a restart.
func TestNothingIsStartedThatIsNotPermitted(t *testing.T) {
	s := svc("samba", func(s *config.Service) {
		s.Start += "; touch $D/alive"
		s.Check = "test -e $D/alive"
		s.Restart.Times = 1
	})
	r := newRig(t, s)
	p := r.needsPermission()
	env := Env{Identity: "files", Generation: 5, Node: "serv1"}
	r.ok(r.Start(t.Context(), []string{"samba"}, env))
	p.refuse(errNotOwner)
	r.remove("alive")
	if s := r.until("samba", Failed); !strings.Contains(s.Reason, errNotOwner.Error()) || !s.CalledOff || !s.Refused || s.Failure != "" {
		t.Errorf("what it was refused is told as %+v", s)
	}
	r.traced("start-samba stop-samba")
	p.refuse(nil)
	r.ok(r.Start(t.Context(), []string{"samba"}, env))
	r.traced("start-samba stop-samba start-samba")
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.asked {
		if e != env {
			t.Errorf("it was asked for %+v", e)
		}
	}
}

// Whoever started it: it is the guard's business, and the other node's, that it runs here.
func TestWhatRunsAlreadyIsTakenIfItMay(t *testing.T) {
	s := svc("samba", func(s *config.Service) { s.Check = "true" })
	names, env := []string{"samba"}, Env{Identity: "files", Generation: 5, Node: "serv1"}
	r := newRig(t, s)
	p := r.needsPermission()
	p.refuse(errNotOwner)
	if got, err := r.Adopt(t.Context(), names, env); err != nil || len(got) > 0 {
		t.Errorf("%v is taken (%v)", got, err)
	}
	if err := r.Start(t.Context(), names, env); !errors.Is(err, errNotOwner) || !NotPermitted(err) {
		t.Errorf("its start says %v", err)
	}
	r.traced("stop-samba")
	p.refuse(nil)
	if got, err := r.Adopt(t.Context(), names, env); err != nil || len(got) != 1 {
		t.Errorf("%v is taken (%v)", got, err)
	}
}

// What an earlier daemon left is stopped first, and the permission is taken while that lasts.
func TestAStartAsksAfterAllThatTakesTime(t *testing.T) {
	needGroups(t)
	s := svc("samba", func(s *config.Service) {
		s.Start = "sleep 1000 & " + s.Start
		s.Stop = "echo x >$D/stopping; read y <$D/go; " + s.Stop
	})
	r := newRig(t, s)
	r.fifo("stopping")
	r.fifo("go")
	env := Env{Identity: "files", Generation: 5, Node: "serv1"}
	r.ok(r.Start(t.Context(), []string{"samba"}, env))
	r.Close()
	back := &rig{t: t, dir: r.dir, log: r.log, Manager: New([]config.Service{r.units["samba"].cfg}, r.dir, r.Manager.log, nil)}
	defer back.Close()
	p := back.needsPermission()
	started := make(chan error, 1)
	go func() { started <- back.Start(t.Context(), []string{"samba"}, env) }()
	back.await("stopping")
	p.refuse(errNotOwner)
	back.write("go", "x\n")
	if err := <-started; !errors.Is(err, errNotOwner) {
		t.Errorf("it said %v", err)
	}
	back.traced("start-samba stop-samba")
}

// The daemon stands still when it was permitted a start; its guard ends everything meanwhile. When the
// daemon goes on the service does not run for a moment.
func TestAStartThatWasEndedBetweenLeaveAndCommandNeverRuns(t *testing.T) {
	needGroups(t)
	services := []config.Service{svc("samba", nil)}
	r := newRig(t, services...)
	asked := 0
	var ended error
	r.Permit = func(Env) error {
		switch asked++; asked {
		case 1:
			ended = r.end(services...)
			return nil
		case 2: // it would stand still again, or it would be killed as soon as it ran
			return nil
		}
		return errNotOwner
	}
	if err := r.Start(t.Context(), []string{"samba"}, Env{Identity: "files"}); !errors.Is(err, errNotOwner) {
		t.Errorf("it said %v", err)
	}
	r.ok(ended)
	if slices.Contains(r.read("trace"), "start-samba") {
		t.Errorf("it ran: %v", r.read("trace"))
	}
	if s, _ := r.State("samba"); s.Phase != Failed || !s.CalledOff {
		t.Errorf("%+v", s)
	}
}

// What began, and is not permitted any more, is killed before its stop is asked for.
func TestWhatIsNotPermittedAnyMoreWhenItHasStartedIsKilled(t *testing.T) {
	needGroups(t)
	s := svc("samba", func(s *config.Service) {
		s.Start = `setsid sh -c 'trap "" TERM; echo $$ >$D/pid; while :; do sleep 1; done' >/dev/null 2>&1 & until [ -s $D/pid ]; do sleep 0.01; done`
		s.Stop = `if [ -n "$(ls /proc/$(cat $D/pid)/fd 2>/dev/null)" ]; then echo alive >>$D/trace; else echo stop-$XDPHA_SERVICE >>$D/trace; fi`
		s.Restart.Times = 5 // of which none is used for this
	})
	r := newRig(t, s)
	r.Permit = func(Env) error {
		if r.has("pid") {
			return errNotOwner
		}
		return nil
	}
	if err := r.Start(t.Context(), []string{"samba"}, Env{Identity: "files"}); !errors.Is(err, errNotOwner) {
		t.Errorf("it said %v", err)
	}
	hasEnded(t, r.word("pid"))
	r.traced("stop-samba")
	if s, _ := r.State("samba"); s.Phase != Failed || !s.CalledOff || s.Failure != "" || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAWarmServiceIsPromotedByPermission(t *testing.T) {
	r := newRig(t, warm("db", nil))
	p := r.needsPermission()
	p.refuse(errNotOwner)
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{})) // which needs none
	r.write("trace", "")
	if err := r.Start(t.Context(), []string{"db"}, Env{Identity: "files"}); !errors.Is(err, errNotOwner) {
		t.Errorf("it said %v", err)
	}
	p.refuse(nil)
	r.ok(r.Start(t.Context(), []string{"db"}, Env{Identity: "files"}))
	r.traced("promote-db") // it was left in standby
}

func TestAPromotionThatIsNotPermittedAnyMoreIsUndone(t *testing.T) {
	needGroups(t)
	r := newRig(t, warm("db", func(s *config.Service) {
		s.Start += "; sleep 1000 & echo $! >$D/pid"
		s.Promote += "; touch $D/promoted"
	}))
	r.Permit = func(Env) error {
		if r.has("promoted") {
			return errNotOwner
		}
		return nil
	}
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	r.write("trace", "")
	if err := r.Start(t.Context(), []string{"db"}, Env{Identity: "files"}); !errors.Is(err, errNotOwner) {
		t.Errorf("it said %v", err)
	}
	hasEnded(t, r.word("pid"))
	r.traced("promote-db demote-db stop-db")
}

// The daemon's stop waits for its guard's, which has begun.
func TestTwoProcessesDoNotStopAServiceAtOnce(t *testing.T) {
	services := []config.Service{svc("samba", func(s *config.Service) { s.Stop = "echo x >$D/stopping; read y <$D/go; " + s.Stop })}
	r := newRig(t, services...)
	r.fifo("stopping")
	r.fifo("go")
	ended, stopped := make(chan error, 1), make(chan error, 1)
	go func() { ended <- r.end(services...) }()
	r.await("stopping")
	go func() { stopped <- r.Stop(t.Context(), []string{"samba"}) }()
	r.logged("another process stops the service")
	if r.has("trace") {
		t.Error("a stop has ended")
	}
	r.write("go", "x\n")
	r.ok(<-ended)
	r.await("stopping")
	r.traced("stop-samba")
	r.write("go", "x\n")
	r.ok(<-stopped)
	r.traced("stop-samba stop-samba")
}

// logged waits for a line of the log, where nothing else tells.
func (r *rig) logged(text string) {
	r.t.Helper()
	for began := time.Now(); !strings.Contains(r.log.String(), text); time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			r.t.Fatalf("it did not log %q, but\n%s", text, r.log)
		}
	}
}

// A daemon that stands still in the middle of a stop has the lock for as long as it does.
func TestAGuardDoesNotWaitForADaemonThatStandsStill(t *testing.T) {
	services := []config.Service{svc("samba", nil)}
	r := newRig(t, services...)
	defer r.units["samba"].stopAlone(t.Context())()
	r.ok(r.end(services...))
	r.traced("stop-samba")
}
