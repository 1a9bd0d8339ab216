// SPDX-License-Identifier: Apache-2.0

package service

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

// end ends a rig's services as another process would.
func (r *rig) end(services ...config.Service) error {
	return End(r.t.Context(), services, Env{Identity: "files", Node: "serv1"}, r.dir, r.Groups(), slog.New(slog.NewTextHandler(r.log, nil)))
}

// What ignores SIGTERM and has left its process group, and whose stop would take its time, is gone
// before the stop is asked for.
func TestEndKillsWhatRunsAndThenStopsIt(t *testing.T) {
	needGroups(t)
	stubborn := svc("samba", func(s *config.Service) {
		s.Start = `setsid sh -c 'trap "" TERM; echo $$ >$D/pid; while :; do sleep 1; done' >/dev/null 2>&1 & until [ -s $D/pid ]; do sleep 0.01; done`
		s.Stop = `if grep -q "^State:.[DRST]" /proc/$(cat $D/pid)/status 2>/dev/null; then echo alive >>$D/trace; else echo stop-$XDPHA_SERVICE >>$D/trace; fi`
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

// A restart in place, and a promotion, ask as the first start does.
func TestNothingIsStartedThatIsNotPermitted(t *testing.T) {
	alive := "alive"
	s := svc("samba", func(s *config.Service) {
		s.Start += "; touch $D/" + alive
		s.Check = "test -e $D/" + alive
		s.Restart.Times = 1
	})
	r := newRig(t, s)
	var mu sync.Mutex // guards what follows: a restart asks from a goroutine of its own
	var refused error
	var asked []Env
	r.Permit = func(e Env) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, e)
		return refused
	}
	env := Env{Identity: "files", Generation: 5, Node: "serv1"}
	if err := r.Start(t.Context(), []string{"samba"}, env); err != nil {
		t.Fatal(err)
	}
	no := errors.New("not the owner any more")
	mu.Lock()
	refused = no
	mu.Unlock()
	if err := os.Remove(filepath.Join(r.dir, alive)); err != nil {
		t.Fatal(err)
	}
	if s := r.until("samba", Failed); !strings.Contains(s.Reason, no.Error()) {
		t.Errorf("it failed, for: %s", s.Reason)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2 || asked[0] != env || asked[1] != env {
		t.Errorf("it was asked for %v", asked)
	}
	r.traced("start-samba stop-samba")
}

func TestAWarmServiceIsPromotedByPermission(t *testing.T) {
	r := newRig(t, warm("db", nil))
	r.Permit = func(Env) error { return errors.New("not the owner") }
	if err := r.Standby(t.Context(), []string{"db"}, Env{}); err != nil {
		t.Errorf("to be in standby needs no permission: %v", err)
	}
	if err := r.Start(t.Context(), []string{"db"}, Env{Identity: "files"}); err == nil || slices.Contains(r.read("trace"), "promote-db") {
		t.Errorf("it was promoted (%v)", err)
	}
}
