// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

const secret = `c0rrect "horse" = battery`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// agentOf is how serv2 is switched off; its questions come quickly.
func agentOf(agent string, params ...config.FenceParam) *Agent {
	a := New(&config.Config{
		Nodes:   []config.Node{{Name: "serv1"}, {Name: "serv2"}},
		Arbiter: config.Arbiter{Fence: &config.Fence{Agent: agent, Timeout: 20 * time.Second, Nodes: [2]config.FenceNode{1: {Params: params}}}},
	}, 1, boottime)
	a.poll = 10 * time.Millisecond
	return a
}

func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// script is an agent of the test's own. It finds its input in $in and a directory of its own in $dir,
// and each of its runs is a line in the file "runs".
func script(t *testing.T, body string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "fence_own")
	head := "#!/bin/sh\ndir='" + dir + "'\nin=$(cat)\naction=$(echo \"$in\" | sed -n 's/^action=//p')\necho $action >> $dir/runs\n"
	must(t, os.WriteFile(path, []byte(head+body), 0o700))
	return path, dir
}

func runs(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "runs"))
	must(t, err)
	return strings.Fields(string(b))
}

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must(t, errors.Join(os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)))
	return path
}

func TestANodeIsOffOnceTheAgentSaysSo(t *testing.T) {
	path, dir := script(t, `
case $action in
off) exit 0 ;;
status) n=$(grep -c status $dir/runs); [ $n -ge 3 ] && exit 2; exit 0 ;;
esac
exit 1`)
	before := boottime()
	at, err := agentOf(path).Off(t.Context())
	must(t, err)
	if at <= before || at > boottime() {
		t.Errorf("off at %d, asked from %d on", at, before)
	}
	if got := runs(t, dir); !slices.Equal(got, []string{"off", "status", "status", "status"}) {
		t.Errorf("it was run for %v", got)
	}
}

// The time of the answer is that of the question: what comes after it belies the answer.
func TestTheTimeIsThatOfTheQuestion(t *testing.T) {
	path, dir := script(t, `
[ $action = off ] && exit 0
cut -d' ' -f1 /proc/uptime > $dir/asked
exit 2`)
	at, err := agentOf(path).Off(t.Context())
	must(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "asked"))
	must(t, err)
	asked, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64) // CLOCK_BOOTTIME (proc_uptime(5)), to 10 ms
	must(t, err)
	if float64(at)/1e9 > asked+0.01 {
		t.Errorf("off from %.3f s on, but it was asked at %.2f s", float64(at)/1e9, asked)
	}
}

func TestWhatAnAgentIsGiven(t *testing.T) {
	path, dir := script(t, `
echo "$in" > $dir/in
tr '\0' '\n' < /proc/$$/cmdline > $dir/argv
tr '\0' '\n' < /proc/$$/environ > $dir/environ
[ $action = status ] && exit 2
exit 0`)
	t.Setenv("NOTIFY_SOCKET", "/run/not-for-agents")
	_, err := agentOf(path,
		config.FenceParam{Name: "ip", Value: "192.0.2.112"},
		config.FenceParam{Name: "password", Value: file(t, secret+"\n", 0o600), InFile: true},
	).Off(t.Context())
	must(t, err)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return string(b)
	}
	if want := "action=status\nnodename=serv2\nip=192.0.2.112\npassword=" + secret + "\n"; read("in") != want {
		t.Errorf("its input was %q, want %q", read("in"), want)
	}
	for _, name := range []string{"argv", "environ"} {
		if s := read(name); s == "" || strings.Contains(s, secret) || strings.Contains(s, "NOTIFY_SOCKET") {
			t.Errorf("its %s is %q", name, s)
		}
	}
}

func TestWhatFailsIsTriedAgainAndThenTold(t *testing.T) {
	path, dir := script(t, "echo no route to the switch, password "+`"$(echo "$in" | sed -n 's/^password=//p')"`+" >&2\nexit 1\n")
	a := agentOf(path, config.FenceParam{Name: "password", Value: file(t, secret, 0o600), InFile: true})
	a.retries = 2
	_, err := a.Off(t.Context())
	if err == nil || !strings.Contains(err.Error(), "action off for serv2: exit status 1: no route to the switch, password (secret)") {
		t.Errorf("told: %v", err)
	}
	if got := runs(t, dir); !slices.Equal(got, []string{"off", "off", "off"}) {
		t.Errorf("it was run for %v", got)
	}
}

// No answer is as good as off: not a failing status, not one that goes on to say on, and not an
// agent that ends otherwise.
func TestNothingButOffIsOff(t *testing.T) {
	for name, status := range map[string]struct{ body, want string }{
		"on still":       {"exit 0", "on still"},
		"a failure":      {"exit 1", "exit status 1"},
		"an odd status":  {"exit 3", "exit status 3"},
		"killed":         {"kill -9 $$", "killed"},
		"it never ends":  {"sleep 1000", "time limit of 1s"},
		"off, in a word": {"echo off", "on still"},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := script(t, "[ $action = off ] && exit 0\n"+status.body+"\n")
			a := agentOf(path)
			if a.timeout = 5 * time.Second; status.want == "time limit of 1s" {
				a.timeout = time.Second
			}
			if at, err := a.Off(t.Context()); err == nil || !strings.Contains(err.Error(), status.want) {
				t.Errorf("off at %d, %v; want an error with %q", at, err, status.want)
			}
		})
	}
}

// What an agent has started ends with it: an ssh that hangs must not cut the node an hour later.
func TestAnAgentThatHangsIsKilledWithItsChildren(t *testing.T) {
	path, dir := script(t, "sleep 1000 &\necho $! > $dir/child\nwait\n")
	a := agentOf(path)
	a.timeout = 3 * time.Second
	if _, err := a.Off(t.Context()); err == nil || !strings.Contains(err.Error(), "killed after the time limit of 3s") {
		t.Errorf("told: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "child"))
	must(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	await(t, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("its child lives: %s", stat)
		}
		return nil
	})
}

func await(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestACancelledAgentIsNotRunAgain(t *testing.T) {
	path, dir := script(t, "sleep 1000\n")
	a := agentOf(path)
	a.retries = 5
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := a.Off(ctx); done <- err }()
	await(t, func() error {
		b, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err == nil && len(b) == 0 {
			err = errors.New("its run is not written yet")
		}
		return err
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("told: %v", err)
	}
	if got := runs(t, dir); len(got) != 1 {
		t.Errorf("it was run for %v", got)
	}
}

func TestASecretThatOthersCanUseIsNotGivenAway(t *testing.T) {
	path, dir := script(t, "exit 2\n")
	for name, c := range map[string]struct{ path, want string }{
		"others can read it": {file(t, secret, 0o604), "others can use it"},
		"it is missing":      {"/nonexistent/secret", "no such file"},
		"it is a directory":  {t.TempDir(), "not a regular file"},
		"it is empty":        {file(t, "\n", 0o600), "one line"},
		"it has two lines":   {file(t, "a\naction=on\n", 0o600), "one line"},
		"it is endless":      {file(t, strings.Repeat("x", 5000), 0o600), "more than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := agentOf(path, config.FenceParam{Name: "password", Value: c.path, InFile: true}).Off(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("told: %v; want %q", err, c.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "runs")); err == nil {
		t.Errorf("the agent was run for %v", runs(t, dir))
	}
}

func TestAMissingAgentIsNamed(t *testing.T) {
	if _, err := agentOf("fence_of_nobody").Off(t.Context()); err == nil || !strings.Contains(err.Error(), "install the package fence-agents") {
		t.Errorf("told: %v", err)
	}
}

func TestAnAgentThatCutsNoPowerIsRefused(t *testing.T) {
	path, _ := script(t, `echo '<?xml version="1.0"?><resource-agent name="x"><parameters/><actions><action name="monitor"/></actions></resource-agent>'`)
	if _, err := agentOf(path).Unknown(t.Context()); err == nil || !strings.Contains(err.Error(), "does not know the action off") {
		t.Errorf("told: %v", err)
	}
	path, _ = script(t, "echo hello")
	if _, err := agentOf(path).Unknown(t.Context()); err == nil || !strings.Contains(err.Error(), "not the metadata of an agent") {
		t.Errorf("told: %v", err)
	}
}
