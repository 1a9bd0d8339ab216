// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/bench"
)

// Times are not asserted: they are the machine's. That every answer came is.
func TestEveryKindOfQuestionIsAnsweredAndTimed(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("root is needed for namespaces and programs, and XDPHA_REQUIRE_ROOT=1 forbids to skip")
		}
		t.Skip("root is needed for namespaces and programs")
	}
	var out strings.Builder
	r, err := bench.Run(t.Context(), &out, bench.Options{Short: true, Repeat: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	if len(r.Runs) != 2 {
		t.Fatalf("%d runs, want 2", len(r.Runs))
	}
	for _, run := range r.Runs {
		checkRun(t, run)
	}
	for _, want := range []string{"heartbeat / bare reflector", "kernel's own ARP", "gate open, out"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q", want)
		}
	}
}

func checkRun(t *testing.T, run bench.Result) {
	t.Helper()
	if run.Mode != "native" {
		t.Errorf("XDP is %q on veth, want native", run.Mode)
	}
	if len(run.RoundTrips) != 5 || len(run.Ratios) != 3 || len(run.Costs) != 8 {
		t.Errorf("%d round trips, %d ratios, %d costs; want 5, 3, 8", len(run.RoundTrips), len(run.Ratios), len(run.Costs))
	}
	for _, x := range run.RoundTrips {
		if x.Answers == 0 || x.Lost != 0 || x.MedianNS <= 0 || x.P99NS < x.MedianNS || x.MaxNS < x.P99NS {
			t.Errorf("not every question was answered, or times are out of order: %+v", x)
		}
	}
	for _, x := range run.Ratios {
		if !(x.Value > 0) || math.IsInf(x.Value, 0) {
			t.Errorf("not a ratio: %+v", x)
		}
	}
	for _, x := range run.Costs {
		if !(x.NS > 0) || math.IsInf(x.NS, 0) {
			t.Errorf("not a time: %+v", x)
		}
	}
}
