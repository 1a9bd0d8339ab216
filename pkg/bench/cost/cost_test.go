// SPDX-License-Identifier: Apache-2.0

package cost_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/bench/cost"
)

func TestAPairAtRestIsMeasured(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("root is needed for namespaces and programs, and XDPHA_REQUIRE_ROOT=1 forbids to skip")
		}
		t.Skip("root is needed for namespaces and programs")
	}
	program := filepath.Join(t.TempDir(), "xdpha")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../../ctl/xdpha")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out strings.Builder
	all, err := cost.Run(t.Context(), &out, cost.Options{Short: true, Executable: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	if len(all) != 3 {
		t.Fatalf("%d intervals, want 3", len(all))
	}
	for _, r := range all {
		if r.DaemonBytes == 0 || r.MapBytes == 0 || r.CodeBytes == 0 || r.KernelCPU <= 0 || r.KernelCPU > 1 || r.DaemonCPU > 2 {
			t.Errorf("not what a pair at rest costs: %+v", r)
		}
		if len(r.Programs) != 3 {
			t.Errorf("%d programs, want in, out and tick: %+v", len(r.Programs), r.Programs)
		}
		for _, p := range r.Programs {
			if p.PerSecond <= 0 || p.NS <= 0 {
				t.Errorf("%s did not run: %+v", p.Name, p)
			}
		}
	}
	if !strings.Contains(out.String(), "a probe every 100µs") {
		t.Error("the table lacks the shortest interval")
	}
}
