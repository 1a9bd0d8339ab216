// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEtcdIsTakenAsItIsWritten(t *testing.T) {
	got := good(t, "etcd.yaml")
	want := &Etcd{
		Endpoints: []string{"https://192.0.2.9:2379", "https://192.0.2.10:2379", "https://[2001:db8::9]:2379"}, TTL: 4 * time.Second,
		CA: "/etc/xdpha/etcd-ca.pem", Cert: "/etc/xdpha/etcd.pem", Key: "/etc/xdpha/etcd.key",
	}
	if diff := cmp.Diff(want, got.Arbiter.Etcd); diff != "" {
		t.Error(diff)
	}
	if !got.Arbiter.AsksForRight() {
		t.Error("nobody needs a right to serve")
	}
}

// The owner asks etcd when it suspects its peer, and needs the answer before the last grant ends.
func TestWithEtcdAPeerIsSuspectedEarlier(t *testing.T) {
	got := good(t, "etcd.yaml").Timing
	if got.SuspectAfter != 2*got.Probe || got.SuspectAfter >= good(t, "fence.yaml").Timing.SuspectAfter {
		t.Errorf("suspected after %v, with probes every %v", got.SuspectAfter, got.Probe)
	}
}

func TestTheKeyForEtcdIsASecret(t *testing.T) {
	dir := t.TempDir()
	src := strings.NewReplacer("/etc/xdpha", dir, "secret_file: secret", "secret_file: "+filepath.Join(dir, "secret")).
		Replace(string(readFile(t, filepath.Join(testdata, "good", "etcd.yaml"))))
	for name, content := range map[string]string{"secret": secretLine, "etcd-ca.pem": "x", "etcd.pem": "x", "etcd.key": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func() error {
		_, err := Parse("t.yaml", []byte(src), Options{Hostname: "serv1"})
		return err
	}
	if err := check(); err != nil {
		t.Errorf("all is well: %v", err)
	}
	for name, mode := range map[string]os.FileMode{"etcd.key": 0o640, "etcd.pem": 0o644} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), "etcd.key has mode 0640, others can use it; run: chmod 0600") || strings.Contains(err.Error(), "etcd.pem has") {
		t.Errorf("others can read the key: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "etcd-ca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), "cannot read ca") {
		t.Errorf("the authority's file is missing: %v", err)
	}
}
