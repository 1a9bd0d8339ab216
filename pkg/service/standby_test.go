// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/config"
)

// warm is a service that can be promoted; what it does is in the trace.
func warm(name string, change func(*config.Service)) config.Service {
	return svc(name, func(s *config.Service) {
		s.Warm = true
		s.Promote = "echo promote-$XDPHA_SERVICE >>$D/trace"
		s.Demote = "echo demote-$XDPHA_SERVICE >>$D/trace"
		if change != nil {
			change(s)
		}
	})
}

func (r *rig) traced(want string) {
	r.t.Helper()
	if d := cmp.Diff(strings.Fields(want), r.read("trace")); d != "" {
		r.t.Error(d)
	}
}

func TestAWarmServiceWaitsInStandbyAndIsPromotedWithoutAStart(t *testing.T) {
	r := newRig(t, warm("db", nil), svc("app", func(s *config.Service) { s.After = []string{"db"} }))
	names := []string{"db", "app"}
	r.ok(r.Standby(t.Context(), names, Env{}))
	if s, _ := r.State("db"); s.Phase != Standby || s.Active || s.Ready() {
		t.Errorf("%+v", s)
	}
	if p := r.phase("app"); p != Stopped {
		t.Error("app", p)
	}
	r.traced("stop-app demote-db start-db") // whether they ran before was not known
	r.write("trace", "")
	r.ok(r.Start(t.Context(), names, Env{}))
	if s, _ := r.State("db"); s.Phase != Up || !s.Ready() {
		t.Errorf("%+v", s)
	}
	r.traced("promote-db start-app")
	r.ok(r.Standby(t.Context(), names, Env{}))
	r.ok(r.Standby(t.Context(), names, Env{})) // it is there already
	r.traced("promote-db start-app stop-app demote-db")
	if r.phase("db") != Standby || r.phase("app") != Stopped {
		t.Errorf("%+v", r.States())
	}
}

func TestAWarmServiceThatDoesNotRunIsStartedAndPromoted(t *testing.T) {
	r := newRig(t, warm("db", nil))
	r.ok(r.Start(t.Context(), []string{"db"}, Env{}))
	r.ok(r.Stop(t.Context(), []string{"db"}))
	r.traced("start-db promote-db demote-db stop-db")
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	r.ok(r.Stop(t.Context(), []string{"db"}))
	r.traced("start-db promote-db demote-db stop-db start-db stop-db")
}

func TestATakeoverDuringAWarmStartWaitsForItInsteadOfBeginningAgain(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) { s.Start += "; echo x >$D/begun; read y <$D/go" }))
	r.fifo("begun")
	r.fifo("go")
	stood, started := make(chan error, 1), make(chan error, 1)
	go func() { stood <- r.Standby(t.Context(), []string{"db"}, Env{}) }()
	r.await("begun")
	r.write("trace", "")
	go func() { started <- r.Start(t.Context(), []string{"db"}, Env{}) }()
	r.until("db", Starting)
	r.write("go", "x\n")
	r.ok(<-stood)
	r.ok(<-started)
	r.traced("promote-db")
}

func TestAStopDuringAPromotionEndsBoth(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) { s.Promote = "echo $$ >$D/begun; sleep 1000" }))
	r.fifo("begun")
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	started := make(chan error, 1)
	go func() { started <- r.Start(t.Context(), []string{"db"}, Env{}) }()
	pid := r.await("begun")
	r.ok(r.Stop(t.Context(), []string{"db"}))
	if err := <-started; !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	hasEnded(t, pid)
	if p := r.phase("db"); p != Stopped {
		t.Error(p)
	}
}

func TestAPromotionThatFailsIsFollowedByAWholeStart(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) {
		s.Promote += "; test -e $D/tried || { touch $D/tried; exit 1; }"
		s.Restart.Times = 1
	}))
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	r.write("trace", "")
	r.ok(r.Start(t.Context(), []string{"db"}, Env{}))
	r.traced("promote-db demote-db stop-db start-db promote-db")
}

func TestWhatCannotBeDemotedIsStoppedAndStartedInStandby(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) { s.Demote += "; exit 1" }))
	r.ok(r.Start(t.Context(), []string{"db"}, Env{}))
	r.write("trace", "")
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	if p := r.phase("db"); p != Standby {
		t.Error(p)
	}
	r.traced("demote-db demote-db stop-db start-db")
}

func TestAServiceInStandbyIsNotAskedAsClientsWould(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) {
		s.Check = "echo $XDPHA_ROLE >>$D/roles"
		s.Process = "$D/no-such-pid-file"
		s.Timeout.Start = shortLimit
	}))
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	if err := r.Start(t.Context(), []string{"db"}, Env{}); err == nil || !strings.Contains(err.Error(), "not ready in time: process check") {
		t.Error(err)
	}
	roles := r.read("roles")
	if len(roles) < 2 || roles[0] != "standby" || roles[len(roles)-1] != "active" {
		t.Error(roles)
	}
}

func TestAServiceInStandbyIsRestartedThere(t *testing.T) {
	r := newRig(t, warm("db", func(s *config.Service) {
		s.Start += "; touch $D/good"
		s.Check = "test -e $D/good"
		s.Restart.Times = 1
	}))
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	r.until("db", Standby)
	r.write("trace", "")
	r.remove("good")
	if s := r.until("db", Standby); s.Restarts != 1 {
		t.Errorf("%+v", s)
	}
	r.traced("demote-db stop-db start-db")
}

func TestAnAdoptedWarmServiceIsPromotedOnceMore(t *testing.T) {
	// A check command does not tell whether it was promoted before the daemon went.
	r := newRig(t, warm("db", func(s *config.Service) { s.Check = "true" }))
	got, err := r.Adopt(t.Context(), []string{"db"}, Env{})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	r.ok(r.Start(t.Context(), []string{"db"}, Env{}))
	r.traced("promote-db")
}

func TestAFailureExpiresAndTheServiceIsTriedAgain(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start += "; test -e $D/good"
		s.Restart.Within = 100 * time.Millisecond
	}))
	if err := r.Start(t.Context(), []string{"a"}, Env{}); err == nil {
		t.Fatal("started")
	}
	if s := r.until("a", Failed); s.Failure == "" || s.Ready() {
		t.Errorf("%+v", s)
	}
	r.until("a", Failed) // tried again, in vain
	r.write("good", "")
	if s := r.until("a", Up); s.Failure != "" || !s.Ready() {
		t.Errorf("%+v", s)
	}
}

func TestAFailureThatExpiresDoesNotStartWhatWasStoppedSince(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Start += "; exit 1"
		s.Restart.Within = 3 * time.Second // the stop comes before
	}))
	if err := r.Start(t.Context(), []string{"a"}, Env{}); err == nil {
		t.Fatal("started")
	}
	r.ok(r.Stop(t.Context(), []string{"a"}))
	r.untilFunc("the end of the failure", func(s State) bool { return s.Phase == Stopped && s.Failure == "" })
	r.traced("start-a stop-a")
}

func TestAServiceIsReadyFromItsFirstGoodCheckOn(t *testing.T) {
	r := newRig(t, svc("a", func(s *config.Service) {
		s.Check = "test ! -e $D/bad"
		s.Fall = 1000
		s.Ports = []uint16{445, 139}
	}))
	r.write("bad", "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx, []string{"a"}, Env{}) }()
	if s := r.until("a", Starting); s.Ready() || len(s.Ports) != 2 {
		t.Errorf("%+v", s)
	}
	r.remove("bad")
	r.ok(<-ended)
	cancel()
	if s := r.until("a", Up); !s.Ready() {
		t.Errorf("%+v", s)
	}
	r.write("bad", "")
	if s := r.until("a", Failing); !s.Ready() { // clients that come now may be served: nobody else can be
		t.Errorf("%+v", s)
	}
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if s, _ := r.State("a"); s.Ready() {
		t.Errorf("%+v", s)
	}
}
