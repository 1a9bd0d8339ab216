// SPDX-License-Identifier: Apache-2.0

package service

import (
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

// Where systemd is not the first process, the test is run where it is: in namespaces of its own, by
// scripts/unit.
func TestUnitsUnderSystemd(t *testing.T) {
	if os.Getenv("XDPHA_TEST_UNDER_SYSTEMD") == "" {
		if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
			t.Skip("needs root")
		}
		out, err := exec.Command("../../scripts/unit", "--program", os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	writeUnits(t)
	for name, test := range map[string]func(*testing.T){
		"a unit starts, is watched and stops":                testUnitStartsAndStops,
		"a unit that dies is restarted, at systemd's signal": testUnitDies,
		"a unit that systemd restarts itself is left to it":  testUnitRestartsItself,
		"a unit that fails to start says why":                testUnitFails,
		"what takes too long is given up":                    testUnitTooSlow,
		"a unit is killed, and does not come back":           testUnitKilled,
		"a unit that was not to start is ended":              testUnitNotPermitted,
		"a unit that runs is adopted":                        testUnitAdopted,
		"an alias is followed":                               testUnitAlias,
		"the bus may be restarted":                           testBusRestarts,
		"what is missing is found before a start":            testUnitPrepared,
	} {
		t.Run(name, test)
	}
}

// units are all in the machine, which is thrown away after the test.
var units = map[string]string{
	"one.service": sleeper, "two.service": sleeper, "seven.service": sleeper, "eight.service": sleeper, "nine.service": sleeper, "ten.service": sleeper,
	"three.service":    sleeper + "Restart=always\nRestartSec=2s\n",
	"four.service":     "[Service]\nType=oneshot\nExecStart=/bin/false\n",
	"five.service":     "[Service]\nType=oneshot\nExecStart=/bin/true\n",
	"six.service":      "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n",
	"twelve.service":   "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nTimeoutStopSec=infinity\nRestart=always\nRestartSec=0\n",
	"thirteen.target":  "[Unit]\n",
	"fourteen.service": sleeper,
	"eleven.service":   sleeper + "[Install]\nWantedBy=multi-user.target\n",
}

func writeUnits(t *testing.T) {
	t.Helper()
	const dir = "/run/systemd/system"
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, unit := range map[string]string{dir + "/other-name.service": "nine.service", "/etc/systemd/system/multi-user.target.wants/eleven.service": "eleven.service"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(filepath.Join(dir, unit), link)); err != nil {
			t.Fatal(err)
		}
	}
	systemctl(t, "daemon-reload")
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil && args[0] != "is-active" {
		t.Fatalf("systemctl %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// unitSvc is watched by signals alone: its next regular look is an hour away.
func unitSvc(name, unit string, change func(*config.Service)) config.Service {
	s := config.Service{
		Name: name, Systemd: unit, Every: time.Hour, Rise: 1, Fall: 2, Restart: config.ServiceRestart{Within: time.Hour},
		Timeout: config.ServiceTimeout{Start: 10 * time.Second, Stop: 10 * time.Second},
	}
	if change != nil {
		change(&s)
	}
	return s
}

const sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"

func testUnitStartsAndStops(t *testing.T) {
	r := newRig(t, unitSvc("a", "one.service", nil))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	if got := systemctl(t, "is-active", "one.service"); got != "active" || r.phase("a") != Up {
		t.Errorf("%s, %s", got, r.phase("a"))
	}
	u, err := r.Usage(t.Context(), "a")
	if err != nil || u.Processes != 1 || u.Memory == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if got := systemctl(t, "is-active", "one.service"); got != "inactive" || r.phase("a") != Stopped {
		t.Errorf("%s, %s", got, r.phase("a"))
	}
	if _, err := r.Usage(t.Context(), "a"); !errors.Is(err, ErrNotMeasured) {
		t.Error(err)
	}
}

func testUnitDies(t *testing.T) {
	r := newRig(t, unitSvc("a", "two.service", func(s *config.Service) { s.Restart.Times = 1 }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.until("a", Up)
	systemctl(t, "kill", "-s", "KILL", "two.service")
	if s := r.until("a", Up); s.Restarts != 1 {
		t.Errorf("%+v", s)
	}
	systemctl(t, "stop", "two.service") // by hand, which is no better
	if s := r.until("a", Failed); !strings.Contains(s.Reason, "two.service does not run: it is inactive (dead)") {
		t.Error(s.Reason)
	}
}

func testUnitRestartsItself(t *testing.T) {
	// Signals alone do not use up the patience; the next regular look is long after systemd's restart.
	r := newRig(t, unitSvc("a", "three.service", func(s *config.Service) { s.Every, s.Fall = 8*time.Second, 1 }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.until("a", Up)
	systemctl(t, "kill", "-s", "KILL", "three.service")
	if s := r.until("a", Failing); !strings.Contains(s.Reason, "three.service is activating (auto-restart)") {
		t.Error(s.Reason)
	}
	if s := r.until("a", Up); s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

func testUnitFails(t *testing.T) {
	r := newRig(t, unitSvc("fails", "four.service", nil), unitSvc("ends", "five.service", func(s *config.Service) { s.Timeout.Start = shortLimit }), unitSvc("unknown", "none.service", nil))
	outcome(t, r.Start(t.Context(), []string{"fails"}, Env{}), "start four.service: systemd says failed: see journalctl -u four.service")
	outcome(t, r.Start(t.Context(), []string{"ends"}, Env{}), "not ready in time: five.service does not run: it is inactive (dead): see journalctl -u five.service; a oneshot unit needs RemainAfterExit=yes")
	outcome(t, r.Start(t.Context(), []string{"unknown"}, Env{}), "install it, or correct systemd: in the configuration")
	r.ok(r.Stop(t.Context(), []string{"unknown"}))
}

func testUnitTooSlow(t *testing.T) {
	r := newRig(t, unitSvc("a", "six.service", func(s *config.Service) { s.Timeout.Start = shortLimit }))
	outcome(t, r.Start(t.Context(), []string{"a"}, Env{}), "start six.service: time limit exceeded: systemd has not done it within "+shortLimit.String())
	r.ok(r.Stop(t.Context(), []string{"a"}))
	if got := systemctl(t, "is-active", "six.service"); got == "activating" {
		t.Error(got)
	}
}

// Asked politely it would never stop; killed alone it would be started anew.
func testUnitKilled(t *testing.T) {
	later := unitSvc("later", "none.service", nil) // is not there, and stops first
	services := []config.Service{unitSvc("a", "twelve.service", nil), unitSvc("b", "thirteen.target", nil), later}
	r := newRig(t, services...)
	r.ok(r.Start(t.Context(), []string{"a", "b"}, Env{}))
	pid := systemctl(t, "show", "-P", "MainPID", "twelve.service")
	r.ok(r.end(services...))
	hasEnded(t, pid)
	if got := systemctl(t, "show", "-P", "MainPID", "-P", "NRestarts", "-P", "ControlPID", "twelve.service"); strings.Join(strings.Fields(got), " ") != "0 0 0" {
		t.Errorf("its processes and restarts are %q", got)
	}
	if got := systemctl(t, "is-active", "thirteen.target"); got != "inactive" {
		t.Error(got)
	}
	r.ok(r.end(services...))
}

func testUnitNotPermitted(t *testing.T) {
	r := newRig(t, unitSvc("a", "fourteen.service", nil))
	asked := 0
	r.Permit = func(Env) error {
		if asked++; asked > 1 {
			return errNotOwner
		}
		return nil
	}
	outcome(t, r.Start(t.Context(), []string{"a"}, Env{}), "start fourteen.service: not permitted any more: not the owner any more")
	if got := systemctl(t, "is-active", "fourteen.service"); got == "active" || got == "activating" {
		t.Error(got)
	}
	if s, _ := r.State("a"); !s.CalledOff {
		t.Errorf("%+v", s)
	}
}

func testUnitAdopted(t *testing.T) {
	r := newRig(t, unitSvc("runs", "seven.service", nil), unitSvc("down", "eight.service", nil))
	systemctl(t, "start", "seven.service")
	got, err := r.Adopt(t.Context(), []string{"runs", "down"}, Env{})
	if d := cmp.Diff([]string{"runs"}, got); d != "" || err != nil {
		t.Error(err, d)
	}
}

func testUnitAlias(t *testing.T) {
	r := newRig(t, unitSvc("a", "other-name.service", nil))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	systemctl(t, "kill", "-s", "KILL", "nine.service")
	r.until("a", Failed)
}

func testBusRestarts(t *testing.T) {
	r := newRig(t, unitSvc("a", "ten.service", func(s *config.Service) { s.Every, s.Fall = 20*time.Millisecond, 1 }))
	r.ok(r.Start(t.Context(), []string{"a"}, Env{}))
	r.until("a", Up)
	c, err := r.bus.connected(t.Context())
	r.ok(err)
	systemctl(t, "kill", "-s", "KILL", "dbus.service")
	<-c.lost
	for known := false; !known; { // each failed attempt is a second apart
		time.Sleep(10 * time.Millisecond)
		_, known = r.units["a"].driver.(*systemdDriver).unit.now()
	}
	if p := r.phase("a"); p != Up {
		t.Error("it was taken for failed:", p)
	}
	systemctl(t, "kill", "-s", "KILL", "ten.service")
	r.until("a", Failed)
}

func testUnitPrepared(t *testing.T) {
	r := newRig(t, unitSvc("a", "eleven.service", nil), unitSvc("b", "none.service", nil))
	err := r.Prepare(t.Context())
	outcome(t, err, "service a: eleven.service is enabled, so systemd starts it at boot, whoever owns: systemctl disable eleven.service")
	outcome(t, err, "service b: systemd knows no unit none.service: install it, or correct systemd: in the configuration")
}

func TestWithoutABusAUnitsServiceIsNotTakenForFailed(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no-bus"))
	r := newRig(t, unitSvc("a", "smbd.service", nil))
	outcome(t, r.Start(t.Context(), []string{"a"}, Env{}), "start smbd.service: reach systemd over D-Bus: dial unix")
	outcome(t, r.Prepare(t.Context()), "is dbus running on this host, with systemd as its first process?")
	if err := r.units["a"].driver.look(t.Context(), Env{}, active); !cannotLook(err) {
		t.Error(err)
	}
}
