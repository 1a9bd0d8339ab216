// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParametersOfAnAgentAreTakenAsTheyAreWritten(t *testing.T) {
	got := good(t, "fence.yaml").Arbiter
	want := &Fence{Agent: "fence_ipmilan", Timeout: 20 * time.Second, Retries: 2, Nodes: [2]FenceNode{
		{Delay: 5 * time.Second, Params: []FenceParam{
			{Name: "ip", Value: "192.0.2.111"}, {Name: "lanplus", Value: "1"},
			{Name: "password", Value: "/etc/xdpha/fence-serv1", InFile: true}, {Name: "ssl_insecure", Value: "true"}, {Name: "username", Value: "xdpha"},
		}},
		{Params: []FenceParam{
			{Name: "identity_file", Value: "/etc/xdpha/id_fence"}, {Name: "ip", Value: "192.0.2.112"}, {Name: "lanplus", Value: "1"},
			{Name: "password_script", Value: "/etc/xdpha/fence-serv2.sh"},
		}},
	}}
	if diff := cmp.Diff(want, got.Fence); diff != "" {
		t.Error(diff)
	}
	if !got.AsksForRight() || len(got.Reach) != 3 {
		t.Errorf("the listed hosts beside it are lost: %+v", got)
	}
}

// A node that boots first would switch off one that boots a little slower.
func TestWithAFenceAgentABootingNodeWaitsLonger(t *testing.T) {
	if hold := good(t, "fence.yaml").Timing.BootHold; hold != 2*time.Minute {
		t.Errorf("boot_hold %v", hold)
	}
}

func TestTheFileOfAFenceSecretIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	mine, theirs := filepath.Join(dir, "of-serv1"), filepath.Join(dir, "of-serv2")
	src := strings.NewReplacer("/etc/xdpha/fence-serv1", mine, "password_script: /etc/xdpha/fence-serv2.sh", "password_file: "+theirs,
		"secret_file: secret", "secret_file: "+secret).Replace(string(readFile(t, filepath.Join(testdata, "good", "fence.yaml"))))
	write := func(name, content string, mode os.FileMode) {
		if err := errors.Join(os.WriteFile(name, []byte(content), mode), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(secret, secretLine, 0o600)
	check := func() error {
		_, err := Parse("t.yaml", []byte(src), Options{Hostname: "serv1"})
		return err
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), theirs) || strings.Contains(err.Error(), mine+":") {
		t.Errorf("the other node's file is missing: %v", err)
	}
	write(theirs, "x", 0o640)
	if err := check(); err == nil || !strings.Contains(err.Error(), "mode 0640") {
		t.Errorf("others can read it: %v", err)
	}
	write(theirs, "x", 0o600)
	if err := check(); err != nil {
		t.Errorf("all is well: %v", err)
	}
}
