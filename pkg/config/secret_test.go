// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func withSecret(t *testing.T, secret string, mode os.FileMode) (*Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return withSecretAt(t, name)
}

func withSecretAt(t *testing.T, name string) (*Config, error) {
	t.Helper()
	src := strings.Replace(string(readFile(t, filepath.Join(testdata, "good", "least.yaml"))), "secret_file: secret", "secret_file: "+name, 1)
	return Parse("t.yaml", []byte(src), Options{Hostname: "serv1"})
}

func newSecret(t *testing.T) string {
	t.Helper()
	s, err := NewSecret()
	if err != nil || len(s) != 64 {
		t.Fatalf("%q, %v", s, err)
	}
	return s
}

func TestTheFirstSecretSignsAndTheSecondIsKnown(t *testing.T) {
	a := strings.Repeat("1", 64)
	b := strings.Repeat("2", 64)
	c, err := withSecret(t, "\n"+a+"\n"+b+"\n\n", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	one, err := withSecret(t, a, 0o400)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Keys) != 2 || len(one.Keys) != 1 || c.Keys[0] != one.Keys[0] || c.Keys[0] == c.Keys[1] {
		t.Errorf("%d and %d keys", len(c.Keys), len(one.Keys))
	}
	if c.Digest != one.Digest {
		t.Error("the keys are in the digest")
	}
}

func TestAKeyBelongsToOneCluster(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	if deriveKey(secret, "a") == deriveKey(secret, "b") {
		t.Error("one key for two clusters")
	}
}

func TestBadSecretsAreRefusedAndNeverShown(t *testing.T) {
	s := newSecret(t)
	for _, tt := range []struct {
		name, secret string
		mode         os.FileMode
		want         string
	}{
		{"others can read", s, 0o644, "chmod 0600"},
		{"group can write", s, 0o620, "chmod 0600"},
		{"empty", "", 0o600, ":1:1: no secret"},
		{"short", s[:62], 0o600, ":1:1: not a secret"},
		{"long", s + "00", 0o600, ":1:1: not a secret"},
		{"not hex", s[:63] + "x", 0o600, ":1:1: not a secret"},
		{"second line bad", s + "\n" + s[:60], 0o600, ":2:1: not a secret"},
		{"same twice", s + "\n" + s, 0o600, ":2:1: this secret cannot be told"},
		{"three", strings.Repeat("1", 64) + "\n" + strings.Repeat("2", 64) + "\n" + strings.Repeat("3", 64), 0o600, ":3:1: more than 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := withSecret(t, tt.secret, tt.mode)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), s[:16]) {
				t.Error("the message shows the secret")
			}
		})
	}
}

func TestASecretThatOthersCanReachIsRefusedWithTheCommandThatHelps(t *testing.T) {
	const stranger = 64998
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, mode os.FileMode) string {
		for _, err := range []error{os.WriteFile(at(name), []byte(newSecret(t)+"\n"), 0o600), os.Chmod(at(name), mode)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return at(name)
	}
	link := func(how func(string, string) error, target, name string) string {
		if err := how(target, at(name)); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	own := write("own", 0o600)
	open := write("open", 0o640)
	pipe, huge, foreign := at("pipe"), write("huge", 0o600), write("foreign", 0o600)
	for _, err := range []error{unix.Mkfifo(pipe, 0o600), os.Truncate(huge, maxSecretFile+1), os.Mkdir(at("dir"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, path, want string }{
		{"mode 0600", own, ""},
		{"a symbolic link to mode 0600", link(os.Symlink, own, "link"), ""},
		{"a second name of mode 0600", link(os.Link, own, "hard"), ""},
		{"mode 0640", open, "wrong mode: " + open + " has mode 0640, others can use it; run: chmod 0600 " + open},
		{"a symbolic link to mode 0640", link(os.Symlink, open, "openlink"), "has mode 0640"},
		{"a second name of mode 0640", link(os.Link, open, "openhard"), "has mode 0640"},
		{"a directory", at("dir"), at("dir") + " is not a regular file"},
		{"a pipe that nobody writes to", pipe, pipe + " is not a regular file"},
		{"a device", "/dev/zero", "/dev/zero is not a regular file"},
		{"a link to nothing", link(os.Symlink, at("nothing"), "dangling"), "make one with: xdpha keygen --out " + at("dangling")},
		{"a file without end", huge, "has more than 4096 bytes"},
		{"another user's", foreign, "wrong owner: " + foreign + " belongs to 64998, who is neither root nor the daemon's user; run: chown root " + foreign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.path == foreign {
				if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
					t.Skip("needs root")
				}
				if err := os.Chown(foreign, stranger, stranger); err != nil {
					t.Fatal(err)
				}
			}
			_, err := withSecretAt(t, tt.path)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
