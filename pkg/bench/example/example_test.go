// SPDX-License-Identifier: Apache-2.0

package example

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

const examples = "../../../testdata/examples"

// TestExamplesAreGoodAndWhole: each folder has a configuration that is taken, and every program of its own that
// the configuration names.
func TestExamplesAreGoodAndWhole(t *testing.T) {
	all, err := filepath.Glob(filepath.Join(examples, "*"))
	if err != nil || len(all) < 4 {
		t.Fatalf("the examples are %v (%v)", all, err)
	}
	for _, dir := range all {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var digests []uint32
			for _, node := range []string{lab.Serv1, lab.Serv2} {
				cfg, err := config.Load(filepath.Join(dir, ConfigPath), config.Options{Node: node, ReadFile: func(string) ([]byte, error) {
					return []byte(strings.Repeat("0123456789abcdef", 4) + "\n"), nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				digests = append(digests, cfg.Digest)
				for _, s := range cfg.Services {
					for _, command := range []string{s.Start, s.Stop, s.Check, s.Promote, s.Demote} {
						lookAtPrograms(t, dir, command)
					}
				}
			}
			if digests[0] != digests[1] {
				t.Errorf("the nodes would not agree: %v", digests)
			}
			if text, err := os.ReadFile(filepath.Join(dir, "README.md")); err != nil || len(text) < 200 {
				t.Errorf("no README of any use: %v", err)
			}
		})
	}
}

// lookAtPrograms: what a command runs of the example's own is there, can be run, and is a script without a slip.
func lookAtPrograms(t *testing.T, dir, command string) {
	t.Helper()
	for _, word := range strings.Fields(command) {
		if !strings.HasPrefix(word, "/etc/") || strings.HasPrefix(word, "/etc/init.d") {
			continue
		}
		path := filepath.Join(dir, word)
		info, err := os.Stat(path)
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		if !strings.HasPrefix(word, ProgramsDir) {
			continue
		}
		if info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be run", path)
		}
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", path, err, out)
		}
	}
}
