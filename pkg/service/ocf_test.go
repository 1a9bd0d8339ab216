// SPDX-License-Identifier: Apache-2.0

package service

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/config"
)

// ocfSvc is a service by an agent of the distribution; $D in its parameters is the rig's directory.
func ocfSvc(name, agent string, change func(*config.Service), params ...string) config.Service {
	s := config.Service{
		Name: name, OCF: &config.OCF{Provider: "heartbeat", Type: agent},
		Every: 20 * time.Millisecond, Rise: 1, Fall: 1, Restart: config.ServiceRestart{Within: time.Hour},
	}
	for i := 0; i < len(params); i += 2 {
		s.OCF.Params = append(s.OCF.Params, config.OCFParam{Name: params[i], Value: params[i+1]})
	}
	if change != nil {
		change(&s)
	}
	return s
}

func newOCFRig(t *testing.T, services ...config.Service) *rig {
	t.Helper()
	for _, s := range services {
		file := filepath.Join(ocfRoot, "resource.d", s.OCF.Provider, s.OCF.Type)
		if _, err := os.Stat(file); err != nil && s.OCF.Provider == "heartbeat" {
			if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
				t.Fatal("resource-agents is not installed: run scripts/setup")
			}
			t.Skip("needs the package resource-agents: run scripts/setup")
		}
	}
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("agents need root")
	}
	return newRig(t, services...)
}

// ownAgent is an agent of the test, below a root with the distribution's library.
func ownAgent(t *testing.T, r *rig, service, script string) {
	t.Helper()
	d := r.units[service].driver.(*ocfDriver)
	d.agent = filepath.Join(r.dir, "agent-"+service)
	if err := os.WriteFile(d.agent, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestTheDistributionsDummyRunsAndIsRestarted(t *testing.T) {
	r := newOCFRig(t, ocfSvc("dummy", "Dummy", func(s *config.Service) { s.Restart.Times = 1 }, "state", "$D/state"))
	names := []string{"dummy"}
	r.ok(r.Prepare(t.Context()))
	r.ok(r.Start(t.Context(), names, Env{Node: "serv1"}))
	r.until("dummy", Up)
	r.remove("state") // it dies
	if s := r.until("dummy", Up); s.Restarts != 1 {
		t.Errorf("%+v", s)
	}
	r.remove("state")
	s := r.until("dummy", Failed)
	if want := "monitor: exit status 7, OCF_NOT_RUNNING: it is stopped: it does not run (no restart is left"; !strings.Contains(s.Reason, want) {
		t.Errorf("%q lacks %q", s.Reason, want)
	}
	r.ok(r.Stop(t.Context(), names))
	r.ok(r.Stop(t.Context(), names))
	if _, err := os.Stat(filepath.Join(r.dir, "state")); !errors.Is(err, os.ErrNotExist) {
		t.Error("not stopped:", err)
	}
}

func TestADummyThatRunsIsAdoptedAndOneThatDoesNotIsNot(t *testing.T) {
	r := newOCFRig(t, ocfSvc("runs", "Dummy", nil, "state", "$D/runs"), ocfSvc("down", "Dummy", nil, "state", "$D/down"))
	r.write("runs", "")
	got, err := r.Adopt(t.Context(), []string{"runs", "down"}, Env{})
	if d := cmp.Diff([]string{"runs"}, got); d != "" || err != nil {
		t.Error(err, d)
	}
}

func TestTheDistributionsStatefulIsPromotedAndDemoted(t *testing.T) {
	r := newOCFRig(t, ocfSvc("db", "Stateful", func(s *config.Service) { s.Warm = true }, "state", "$D/state"))
	names, env := []string{"db"}, Env{Identity: "files", Generation: 7, Node: "serv1"}
	is := func(p Phase, state string) {
		t.Helper()
		if got := strings.Join(r.read("state"), " "); r.phase("db") != p || got != state {
			t.Errorf("%s, %q; want %s, %q\n%s", r.phase("db"), got, p, state, r.log)
		}
	}
	r.ok(r.Standby(t.Context(), names, env))
	is(Standby, "slave")
	r.ok(r.Start(t.Context(), names, env))
	is(Up, "master")
	r.ok(r.Standby(t.Context(), names, env))
	is(Standby, "slave")
	r.ok(r.Start(t.Context(), names, env))
	r.ok(r.Stop(t.Context(), names))
	is(Stopped, "")
	if strings.Contains(r.log.String(), "not found") {
		t.Error("the agent misses a tool:", r.log)
	}
}

func TestWhatWasPromotedBeforeTheDaemonWentIsFoundSo(t *testing.T) {
	r := newOCFRig(t, ocfSvc("db", "Stateful", func(s *config.Service) { s.Warm = true }, "state", "$D/state"))
	r.write("state", "master\n")
	if got, err := r.Adopt(t.Context(), []string{"db"}, Env{}); err != nil || len(got) != 1 || r.phase("db") != Up {
		t.Errorf("%v, %v, %s", got, err, r.phase("db"))
	}
	r.write("state", "slave\n") // somebody demoted it: it is not what it should be
	if s := r.until("db", Failed); !strings.Contains(s.Reason, "it is standby and should be active") {
		t.Error(s.Reason)
	}
}

func TestAStandbyThatWasPromotedBeforeTheDaemonWentIsDemoted(t *testing.T) {
	r := newOCFRig(t, ocfSvc("db", "Stateful", func(s *config.Service) { s.Warm = true }, "state", "$D/state"))
	r.write("state", "master\n")
	r.ok(r.Standby(t.Context(), []string{"db"}, Env{}))
	if got := r.read("state"); r.phase("db") != Standby || !slices.Equal(got, []string{"slave"}) {
		t.Errorf("%s %v", r.phase("db"), got)
	}
}

func TestAStandbyThatIsNotGoodIsStoppedBeforeItIsStarted(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.Warm = true }, "path", "/srv")
	r.write("monitor", "9")
	r.ok(r.Standby(t.Context(), []string{"rec"}, Env{}))
	trace := strings.Join(slices.DeleteFunc(r.read("trace"), func(l string) bool { return strings.HasPrefix(l, "notify") }), " ")
	if p := r.phase("rec"); p != Standby || trace != "demote demote stop start" {
		t.Error(p, trace)
	}
}

// recorder is an agent that writes down what it is given, and exits as it is told.
const recorder = `#!/bin/sh
D=${0%/*}
case $1 in
meta-data)
	echo a word before >&2
	cat <<END
<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="recorder"><version>1.1</version>
<parameters><parameter name="path" required="1"/><parameter name="mode"/></parameters>
<actions>
<action name="start" timeout="7s"/><action name="stop" timeout="100"/>
<action name="promote" timeout="1m"/><action name="demote" timeout="3000ms"/><action name="notify"/>
<action name="monitor" timeout="11" interval="33" depth="0" role="Unpromoted"/>
<action name="monitor" timeout="12" interval="9" depth="0" role="Promoted"/>
<action name="monitor" timeout="44" interval="60" depth="10"/>
<action name="validate-all"/>
</actions></resource-agent>
END
	;;
monitor)
	env | sort >$D/env-monitor
	test ! -p $D/seen || echo x >$D/seen
	exit $(cat $D/monitor 2>/dev/null || echo 7)
	;;
*)
	env | sort >$D/env-$1
	echo "$1${OCF_RESKEY_CRM_meta_notify_type:+:$OCF_RESKEY_CRM_meta_notify_type-$OCF_RESKEY_CRM_meta_notify_operation}" >>$D/trace
	test ! -e $D/$1 || { echo "ocf-exit-reason:the $1 is out of order" >&2; echo and more >&2; exit $(cat $D/$1); }
	case $1 in start | demote) echo 0 >$D/monitor ;; promote) echo 8 >$D/monitor ;; stop) rm -f $D/monitor ;; esac
	;;
esac
`

func newRecorder(t *testing.T, change func(*config.Service), params ...string) *rig {
	t.Helper()
	r := newOCFRig(t, ocfSvc("rec", "Dummy", change, params...))
	ownAgent(t, r, "rec", recorder)
	return r
}

// given is what the agent got, of what the test asks for.
func (r *rig) given(action string, names ...string) map[string]string {
	m := map[string]string{}
	for _, kv := range r.read("env-" + action) {
		name, v, _ := strings.Cut(kv, "=")
		if slices.Contains(names, name) {
			m[name] = v
		}
	}
	return m
}

func TestAnAgentIsGivenWhatTheAPIPromises(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.OCF.Depth = 10; s.Every = 0 }, "path", "/srv")
	r.ok(r.Start(t.Context(), []string{"rec"}, Env{Node: "serv1"}))
	names := []string{
		"OCF_ROOT", "OCF_RA_VERSION_MAJOR", "OCF_RA_VERSION_MINOR", "OCF_RESOURCE_INSTANCE", "OCF_RESOURCE_PROVIDER", "OCF_RESOURCE_TYPE",
		"OCF_RESKEY_path", "OCF_RESKEY_crm_feature_set", "OCF_RESKEY_CRM_meta_timeout", "OCF_RESKEY_CRM_meta_on_node", "OCF_RESKEY_CRM_meta_promotable", "XDPHA_SERVICE",
	}
	want := map[string]string{
		"OCF_ROOT": "/usr/lib/ocf", "OCF_RA_VERSION_MAJOR": "1", "OCF_RA_VERSION_MINOR": "1", "OCF_RESOURCE_INSTANCE": "rec",
		"OCF_RESOURCE_PROVIDER": "heartbeat", "OCF_RESOURCE_TYPE": "Dummy", "OCF_RESKEY_path": "/srv", "OCF_RESKEY_crm_feature_set": "3.17.4",
		"OCF_RESKEY_CRM_meta_timeout": "7000", "OCF_RESKEY_CRM_meta_on_node": "serv1", "XDPHA_SERVICE": "rec",
	}
	if d := cmp.Diff(want, r.given("start", names...)); d != "" {
		t.Error(d)
	}
	want = map[string]string{"OCF_CHECK_LEVEL": "10", "OCF_RESKEY_CRM_meta_interval": "60000", "OCF_RESKEY_CRM_meta_timeout": "44000"}
	if d := cmp.Diff(want, r.given("monitor", "OCF_CHECK_LEVEL", "OCF_RESKEY_CRM_meta_interval", "OCF_RESKEY_CRM_meta_timeout")); d != "" {
		t.Error(d)
	}
}

func TestAnAgentHearsOfItsPromotions(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.Warm = true }, "path", "/srv")
	env := Env{Node: "serv1"}
	r.write("monitor", "7")
	r.ok(r.Standby(t.Context(), []string{"rec"}, env))
	r.ok(r.Start(t.Context(), []string{"rec"}, env))
	want := map[string]string{
		"OCF_RESKEY_CRM_meta_notify_type": "post", "OCF_RESKEY_CRM_meta_notify_operation": "promote", "OCF_RESKEY_CRM_meta_notify_promote_uname": "serv1",
		"OCF_RESKEY_CRM_meta_notify_promoted_uname": "serv1", "OCF_RESKEY_CRM_meta_notify_active_uname": "serv1",
	}
	if d := cmp.Diff(want, r.given("notify", "OCF_RESKEY_CRM_meta_notify_type", "OCF_RESKEY_CRM_meta_notify_operation", "OCF_RESKEY_CRM_meta_notify_promote_uname",
		"OCF_RESKEY_CRM_meta_notify_promoted_uname", "OCF_RESKEY_CRM_meta_notify_active_uname", "OCF_RESKEY_CRM_meta_notify_unpromoted_uname")); d != "" {
		t.Error(d)
	}
	r.ok(r.Stop(t.Context(), []string{"rec"}))
	r.traced("notify:pre-start start notify:post-start notify:pre-promote promote notify:post-promote " +
		"notify:pre-demote demote notify:post-demote notify:pre-stop stop notify:post-stop")
}

// What an agent says of itself, and what it is told before, is not what it is permitted to do.
func TestAnAgentsActionAsksAfterWhatComesBeforeIt(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.Warm = true }, "path", "/srv")
	before := "notify:pre-start"
	r.Permit = func(Env) error {
		if slices.Contains(r.read("trace"), before) {
			return errNotOwner
		}
		return nil
	}
	start := func() {
		t.Helper()
		if err := r.Start(t.Context(), []string{"rec"}, Env{Identity: "files", Node: "serv1"}); !errors.Is(err, errNotOwner) {
			t.Errorf("it said %v", err)
		}
	}
	start()
	r.traced("notify:pre-start")
	before = "notify:pre-promote"
	r.ok(r.Standby(t.Context(), []string{"rec"}, Env{Node: "serv1"}))
	r.write("trace", "")
	start()
	r.traced("notify:pre-promote")
}

func TestAnExitStatusIsToldByItsNameWithTheAgentsReason(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.Restart.Times = 1 }, "path", "/srv")
	r.write("start", "1")
	err := r.Start(t.Context(), []string{"rec"}, Env{})
	outcome(t, err, "start rec: start: exit status 1, OCF_ERR_GENERIC: a failure of another kind: the start is out of order (no restart is left")
	r.traced("start stop start")
}

func TestWhatNoRestartCanMendIsNotTriedAgain(t *testing.T) {
	r := newRecorder(t, func(s *config.Service) { s.Restart.Times = 3 }, "path", "/srv")
	r.write("start", "5")
	outcome(t, r.Start(t.Context(), []string{"rec"}, Env{}), "exit status 5, OCF_ERR_INSTALLED: something that it needs is not installed on this host: the start is out of order (a restart here would not mend it)")
	r.traced("start")
}

func TestWhatRunsAndIsNotGoodIsStoppedBeforeItIsStarted(t *testing.T) {
	r := newRecorder(t, nil, "path", "/srv")
	r.write("monitor", "1")
	if got, err := r.Adopt(t.Context(), []string{"rec"}, Env{}); len(got) > 0 || err != nil {
		t.Error(got, err)
	}
	r.ok(r.Start(t.Context(), []string{"rec"}, Env{}))
	r.traced("stop start")
}

func TestADegradedServiceIsUpAndItsWarningToldOnce(t *testing.T) {
	r := newRecorder(t, nil, "path", "/srv")
	r.ok(r.Start(t.Context(), []string{"rec"}, Env{}))
	r.write("monitor", "190")
	r.fifo("seen")
	for range 4 { // the first may have begun before; what it says is read before the next begins
		r.await("seen")
	}
	if n := strings.Count(r.log.String(), "OCF_DEGRADED: it runs and will fail soon"); n != 1 || r.phase("rec") != Up {
		t.Errorf("told %d times, %s", n, r.phase("rec"))
	}
}

func TestAnAgentIsPreparedAgainstItsMetaData(t *testing.T) {
	for _, tt := range []struct {
		warm   bool
		params []string
		want   string
	}{
		{false, []string{"path", "/srv", "mode", "1", "trace_ra", "1"}, ""},
		{false, nil, "it requires the parameter path: write it in params"},
		{false, []string{"path", "/srv", "modus", "1"}, "it has no parameter modus: it has path, mode"},
	} {
		r := newRecorder(t, func(s *config.Service) { s.Warm = tt.warm }, tt.params...)
		outcome(t, r.Prepare(t.Context()), tt.want)
		if tt.want != "" {
			outcome(t, r.Start(t.Context(), []string{"rec"}, Env{}), tt.want)
		}
	}
	r := newOCFRig(t, ocfSvc("a", "Dummy", func(s *config.Service) { s.Warm = true }))
	outcome(t, r.Prepare(t.Context()), "service a: ocf:heartbeat:Dummy: it cannot be promoted: remove warm: true")
	r = newRecorder(t, nil, "path", "/srv")
	r.write("validate-all", "6")
	outcome(t, r.Prepare(t.Context()), "validate-all: exit status 6, OCF_ERR_CONFIGURED: its parameters are not right on any host: the validate-all is out of order")
	r = newOCFRig(t, ocfSvc("a", "", func(s *config.Service) { s.OCF = &config.OCF{Provider: "acme", Type: "Nothing"} }))
	outcome(t, r.Prepare(t.Context()), "there is no /usr/lib/ocf/resource.d/acme/Nothing on this host: install the package that has it")
}

func TestTimesOfAnAgentAreThoseOfItsMetaData(t *testing.T) {
	r := newRecorder(t, nil, "path", "/srv")
	r.ok(r.Prepare(t.Context()))
	m := r.units["rec"].driver.(*ocfDriver).meta
	for action, want := range map[string]time.Duration{"start": 7 * time.Second, "stop": 100 * time.Second, "promote": time.Minute, "demote": 3 * time.Second, "notify": 20 * time.Second, "monitor": 44 * time.Second} {
		if got := m.timeout(action); got != want {
			t.Errorf("%s: %s, want %s", action, got, want)
		}
	}
	for _, tt := range []struct {
		r     role
		depth int
		want  time.Duration
	}{{standby, 0, 33 * time.Second}, {active, 0, 9 * time.Second}, {active, 10, time.Minute}, {active, 20, 9 * time.Second}} {
		if got := m.interval(tt.r, tt.depth); got != tt.want {
			t.Errorf("%s at %d: %s, want %s", tt.r, tt.depth, got, tt.want)
		}
	}
	for text, want := range map[string]time.Duration{"20": 20 * time.Second, "20s": 20 * time.Second, " 5 sec": 5 * time.Second, "2min": 2 * time.Minute, "1h": time.Hour, "250ms": 250 * time.Millisecond, "": 0, "soon": 0, "-1": 0} {
		if got := agentTime(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPacemakersToolsAreAnsweredForOrRefused(t *testing.T) {
	dir := t.TempDir()
	if err := writeTools(dir); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ command, out, err string }{
		{"crm_node -n", "serv1\n", ""},
		{"crm_master -l reboot -v 10", "", ""},
		{"crm_master -q -l reboot -G", "", "exit status 6"},
		{"crm_attribute -p -v 5", "", ""},
		{"crm_attribute --promotion -D", "", ""},
		{"crm_attribute -l forever -N serv1 -n x -v 1", "crm_attribute -l forever -N serv1 -n x -v 1: xdpha keeps no attributes of a cluster, so an agent that needs them cannot be used\n", "exit status 1"},
		{"crm_resource --resource a --locate", "", "exit status 6"},
	} {
		cmd := exec.Command("sh", "-c", dir+"/"+tt.command)
		cmd.Env = []string{"OCF_RESKEY_CRM_meta_on_node=serv1", "PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		outcome(t, err, tt.err)
		if string(out) != tt.out {
			t.Errorf("%s: %q", tt.command, out)
		}
	}
}
