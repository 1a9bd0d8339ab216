// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestRsyncWritesBelowItsPathAlone(t *testing.T) {
	if _, err := landlockABI(); errors.Is(err, errNoLandlock) {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	inside, outside := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	mustMkdir(t, filepath.Join(inside, "a"))
	mustMkdir(t, filepath.Join(inside, "b"))
	mustMkdir(t, outside)
	if err := os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	const script = `cd in && echo x >a/new && mv a/new b/moved && ln b/moved linked && rm -r a && cat ../out/kept >read
		cd ../out; echo x >new; rm kept; mv ../in/b/moved moved; echo x >>kept; ln -s x link; mkdir dir; : >kept`
	for _, tt := range []struct {
		name     string
		writable *os.File
		inside   bool
	}{{"the receiver's", open, true}, {"the sender's", nil, false}} {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		if err := confined(tt.writable, cmd.Start); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // parts of it must fail
		if _, err := os.Stat(filepath.Join(inside, "read")); (err == nil) != tt.inside {
			t.Errorf("%s: could write inside: %v, want %v", tt.name, err == nil, tt.inside)
		}
		entries, err := os.ReadDir(outside)
		if b, rerr := os.ReadFile(filepath.Join(outside, "kept")); err != nil || rerr != nil || len(entries) != 1 || string(b) != "kept" {
			t.Errorf("%s: wrote outside: %v, %q", tt.name, entries, b)
		}
		if err := os.RemoveAll(filepath.Join(inside, "read")); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody else was confined.
	if err := os.WriteFile(filepath.Join(outside, "free"), nil, 0o600); err != nil {
		t.Error(err)
	}
}
