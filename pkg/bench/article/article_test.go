// SPDX-License-Identifier: Apache-2.0

package article

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/lab"
)

func TestEveryServiceOfTheExampleHasAClientAndNoOther(t *testing.T) {
	s := &scene{opt: Options{Example: "../../../testdata/examples/article"}}
	s.Lab = &lab.Lab{Dir: t.TempDir()}
	if err := s.readExample(); err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, c := range s.clients {
		used = append(used, c.String())
	}
	slices.Sort(used)
	want := []string{
		"dns at 192.0.2.21", "dns at 192.0.2.22", "ftp-download at 192.0.2.21", "ftp-download at 192.0.2.22", "ftp-upload at 192.0.2.22",
		"http at 192.0.2.21", "http at 192.0.2.22", "imap at 192.0.2.22", "radius at 192.0.2.21", "radius at 192.0.2.22",
		"samba at 192.0.2.21", "smtp at 192.0.2.21", "smtp at 192.0.2.22",
	}
	if d := cmp.Diff(want, used); d != "" {
		t.Error(d)
	}
}

func TestAStartThatFindsItsServiceRunningElsewhereIsWrong(t *testing.T) {
	for _, c := range []struct {
		fault lab.Fault
		line  string
		want  string
	}{
		{lab.FaultPower, "samba serv2 serv1", "samba was started on serv2 while it ran on serv1"},
		{lab.FaultHang, "samba serv2 serv1", "samba was started on serv2 while it ran on serv1"}, // where its guard should have ended it
		{lab.FaultDaemonStop, "samba serv1 serv2", "samba was started on serv1 while it ran on serv2"},
		{lab.FaultPower, "samba", `read what was started twice: "samba\n"`},
	} {
		s := &scene{Lab: &lab.Lab{Dir: t.TempDir()}}
		if err := os.Mkdir(s.locks(), 0o700); err != nil {
			t.Fatal(err)
		}
		violations := filepath.Join(s.locks(), "violations")
		if err := os.WriteFile(violations, []byte(c.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := Round{Fault: c.fault, Node: lab.Serv1}
		s.checkOnce(&r)
		s.checkOnce(&r) // it is told once
		if d := cmp.Diff([]string{c.want}, r.Wrong); d != "" || len(r.Notes) > 0 {
			t.Errorf("%s, %q: %s, notes %q", c.fault, c.line, d, r.Notes)
		}
	}
}

// TestTheGuardWritesDownASecondStart runs the guard itself, for two nodes with directories of their own.
func TestTheGuardWritesDownASecondStart(t *testing.T) {
	if _, err := exec.LookPath("flock"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	guard := strings.NewReplacer("/etc/xdpha/once", dir+"/$XDPHA_NODE/once", "/run/once-", dir+"/$XDPHA_NODE/run-").Replace(onceScript)
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "svc"), guard)
	write(filepath.Join(dir, "locks/made"), "")
	for _, node := range []string{lab.Serv1, lab.Serv2} {
		write(filepath.Join(dir, node, "once/svc"), "#!/bin/sh\n")
	}
	do := func(node, verb string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, "svc"), verb)
		cmd.Env = append(os.Environ(), "XDPHA_NODE="+node, "ARTICLE_LOCKS="+dir+"/locks")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s on %s: %v: %s", verb, node, err, out)
		}
	}
	expect := func(want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "locks/violations"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if string(b) != want {
			t.Errorf("written down is %q, not %q", b, want)
		}
	}
	t.Cleanup(func() { do(lab.Serv1, "stop"); do(lab.Serv2, "stop") })
	do(lab.Serv1, "start")
	do(lab.Serv1, "start") // in place
	do(lab.Serv1, "stop")
	do(lab.Serv2, "start")
	expect("")
	do(lab.Serv1, "start")
	expect("svc serv1 serv2\n")
	do(lab.Serv2, "stop")
	awaitHolder(t, filepath.Join(dir, "locks/svc.by"), lab.Serv1)
	do(lab.Serv2, "start")
	expect("svc serv1 serv2\nsvc serv2 serv1\n")
}

// awaitHolder returns when the lock went to the node that waited for it.
func awaitHolder(t *testing.T, path, node string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err == nil && string(b) == node+"\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lock is held by %q (%v), not by %s", b, err, node)
		}
	}
}

func TestALedgerKnowsWhatIsLost(t *testing.T) {
	l := newLedger("samba")
	l.add("a", "1", 10, 15)
	l.add("b", "2", 20, 22)
	l.add("c", "3", 20, 30) // under way while it is looked
	if good, total, lost := l.check(map[string]string{"a": "1", "b": "x"}, 25, true, true); good != 1 || total != 2 || !slices.Equal(lost, []string{"b"}) {
		t.Errorf("%d of %d, lost %v", good, total, lost)
	}
	l.forget(40) // but for a, which was promised
	if good, total, lost := l.check(nil, 50, false, false); good != 0 || total != 1 || !slices.Equal(lost, []string{"a"}) {
		t.Errorf("%d of %d, lost %v", good, total, lost)
	}
	if good, total, _ := l.check(map[string]string{"a": "1"}, 50, false, false); good != 1 || total != 1 {
		t.Errorf("%d of %d", good, total)
	}
}

func TestSilenceIsFromTheLastRightAnswerBeforeIt(t *testing.T) {
	bad := fmt.Errorf("silence")
	c := &client{past: []sample{{0, 10, nil}, {20, 30, nil}, {40, 50, bad}, {60, 90, nil}, {91, 95, nil}, {96, 200, nil}}}
	if v := c.look(35, 100); v.gapNs != 60 || v.answered != 2 || v.failed != 1 {
		t.Errorf("%+v", v)
	}
	if n, why := c.servedSince(55); n != 3 || why != nil {
		t.Errorf("%d %v", n, why)
	}
	if n, why := c.servedSince(35); n != 3 || why != bad {
		t.Errorf("%d %v", n, why)
	}
}

func TestMailsAreTakenApart(t *testing.T) {
	text := ""
	want := map[string]string{}
	for _, name := range []string{"imap-mail-1", "smtp-files-2"} {
		content := strings.Repeat("0123456789abcdef", 20)
		text += "Return-Path: <bob@example.org>\r\n" + letter(name, content)
		want[name] = sum(content)
	}
	if d := cmp.Diff(want, mails(text)); d != "" {
		t.Error(d)
	}
}
