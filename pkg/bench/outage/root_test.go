// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// Times are not asserted: they are the machine's. Who serves is, so no processor that is stolen for some
// milliseconds may look like a death.
func TestEverySectionMeasures(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	program := filepath.Join(t.TempDir(), "xdpha")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/xdpha/xdpha/ctl/xdpha")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdpha: %v\n%s", err, out)
	}
	o := Options{
		Rounds: 2, Profile: "cautious", LadderProfile: "cautious", Seed: 1, Executable: program, For: 9 * time.Second, Counts: []int{1, 50},
		PairFaults: []lab.Fault{lab.FaultHang, lab.FaultDaemonKill, lab.FaultCrossover, lab.FaultClaim},
		Faults:     []lab.Fault{lab.FaultHang, lab.FaultDaemonStop, lab.FaultHandOver, lab.FaultService}, Progress: func(s string) { t.Log(s) },
	}
	for _, s := range Sections {
		t.Run(string(s), func(t *testing.T) {
			o := o
			o.Sections = []Section{s}
			var out strings.Builder
			r, err := Run(t.Context(), &out, o)
			t.Log(out.String())
			must(t, err)
			if !r.Good() {
				t.Error("not as it should be")
			}
			wantAll(t, s, r)
		})
	}
}

// wantAll holds that a section measured as much as it was asked for.
func wantAll(t *testing.T, s Section, r Report) {
	t.Helper()
	switch s {
	case Kinds:
		if r.Kinds.Total.Faults != 8 {
			t.Errorf("%d faults, want 8", r.Kinds.Total.Faults)
		}
	case Pairs:
		if r.Pairs.Total.Rounds != 2 || len(r.Pairs.Rounds) != 2 {
			t.Errorf("%+v, want 2 rounds", r.Pairs.Total)
		}
	case Starved:
		for _, v := range r.Starved.Variants {
			if v.Faults != 2 || v.DualAnswers != 0 || v.Rounds[0].OrdinaryNs == 0 {
				t.Errorf("%s: %+v", v.name(), v)
			}
		}
	case Addresses:
		for _, c := range r.Addresses.Counts {
			if c.Faults != 2 {
				t.Errorf("%d addresses: %d faults, want 2", c.Addresses, c.Faults)
			}
		}
	case Tickle:
		for _, v := range r.Tickle.Variants {
			if len(v.Rounds) != 2 || v.Tickle != (v.Unnoticed == 0) {
				t.Errorf("%+v", v)
			}
		}
	case Ladder:
		for _, rung := range r.Ladder.Rungs {
			if rung.Turns != 1 || rung.Sent == 0 {
				t.Errorf("%+v", *rung)
			}
		}
	}
}
