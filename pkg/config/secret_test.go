// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	src := strings.Replace(string(readFile(t, filepath.Join(testdata, "good", "least.yaml"))), "secret_file: secret", "secret_file: "+name, 1)
	return Parse("t.yaml", []byte(src), Options{Hostname: "serv1", CheckMode: true})
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
