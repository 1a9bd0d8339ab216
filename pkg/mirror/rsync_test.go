// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

// The distribution's rsync is asked what it would ask of the other end.
func TestTheReceiverSaysToItselfWhatTheSenderWouldAskFor(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs rsync")
	}
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	shell := filepath.Join(dir, "shell")
	if err := os.WriteFile(shell, []byte("#!/bin/sh\nshift\nprintf '%s\\n' \"$@\" >"+asked+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	set := &config.Mirror{Exclude: []string{"*.tmp", "+ odd"}, BytesPerSecond: 50_000_000}
	for _, k := range []kind{kindFull, kindChanges, kindDry} {
		cmd := exec.Command("rsync", clientArgs(k, set, shell)...)
		cmd.Dir = dir
		_ = cmd.Run() // the shell leads nowhere
		b, err := os.ReadFile(asked)
		if err != nil {
			t.Fatalf("%s: rsync does not take the options: %v", k, err)
		}
		if err := os.Remove(asked); err != nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSpace(string(b)), "\n")[1:] // after "rsync"
		for i, a := range got {
			if letters, abilities, ok := strings.Cut(a, "e."); ok && a[0] == '-' && a[1] != '-' {
				got[i] = letters + "e"
				for _, a := range "LsfxCv" {
					if !strings.ContainsRune(abilities, a) {
						t.Errorf("%s: this rsync cannot do %c", k, a)
					}
				}
			}
		}
		got = slices.DeleteFunc(got, func(a string) bool { return strings.HasPrefix(a, "--bwlimit=") }) // the sender's own concern
		want := slices.Clone(serverArgs(k))
		want[1], _, _ = strings.Cut(want[1], ".")
		for i, a := range want {
			want[i] = strings.Replace(a, "--modify-window=", "-@", 1)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n rsync asks %q\n we say     %q", k, got, want)
		}
	}
}

func TestRsyncsNumbersAreTakenApart(t *testing.T) {
	var seen []Progress
	r := &reader{progress: func(p Progress) { seen = append(seen, p) }}
	for _, part := range []string{
		"\r              0   0%    0.00kB/s    0:00:00 (xfr#0, to-", "chk=3/5)", "\r          32768  64%   31.25MB/s    0:00:00  ",
		"\n\nNumber of files: 50001 (reg: 50000, dir: 1)\nNumber of created files: 2 (reg: 2)\nNumber of deleted files: 1 (reg: 1)\n",
		"Number of regular files transferred: 7\nTotal file size: 6442450944 bytes\nTotal transferred file size: 99 bytes\nTotal bytes sent: 18446744073709551616\n",
		strings.Repeat("x", 3*maxLine) + "\n",
	} {
		if n, err := r.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	want := Stats{Files: 50001, Bytes: 6442450944, Copied: 7, CopiedBytes: 99, Created: 2, Deleted: 1} // one number is none
	if r.stats != want {
		t.Errorf("%+v", r.stats)
	}
	if !slices.Equal(seen, []Progress{{0, 0, 3}, {32768, 64, 0}}) {
		t.Errorf("%+v", seen)
	}
}

func TestTheFirstWordsOfAnErrorAreKept(t *testing.T) {
	said := &tail{}
	for range 1000 {
		if n, err := said.Write([]byte("first\r\nsecond\n\xff\n")); n != 16 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := said.String(); got != "first; second; ?; first" {
		t.Errorf("%q", got)
	}
}

func TestAProgramsNameReachesRsyncWhole(t *testing.T) {
	if got, err := shell("/opt/x d/xdpha"); err != nil || got != `"/opt/x d/xdpha" mirror-pipe --` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := shell(`/opt/"/xdpha`); err == nil {
		t.Error("a quote is taken")
	}
}

func TestTheVersionOfRsyncIsRead(t *testing.T) {
	for said, want := range map[string][2]int{
		"rsync  version 3.2.7  protocol version 31\nCopyright": {3, 2},
		"rsync  version v3.1.3pre1  protocol version 31":       {3, 1},
		"rsync  version 10.20  protocol version 99":            {},
		"openrsync: protocol version 29":                       {},
		"rsync  version":                                       {},
		"":                                                     {},
	} {
		got, ok := rsyncVersion(said)
		if ok != (want != [2]int{}) || got != want && ok {
			t.Errorf("%q: %v, %v", said, got, ok)
		}
	}
}

func TestAProcessThatDoesNotListenIsKilledWithItsChildren(t *testing.T) {
	p := &process{Cmd: exec.Command("sh", "-c", `trap '' TERM; (while :; do sleep 1000; done) & echo up; while :; do wait; done`)}
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	up, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	p.Stdout = out
	err = p.start(nil)
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errRoleEnded)
	if err := p.wait(ctx); !errors.Is(err, errRoleEnded) {
		t.Errorf("%v", err)
	}
	if n, err := up.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("somebody still lives: %d, %v", n, err)
	}
}
