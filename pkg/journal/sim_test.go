// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/sim"
)

func simulated(t *testing.T, seed uint64, newCore func(core.Config, core.Saved) sim.Core) {
	t.Helper()
	r := sim.Run(sim.Options{Seed: seed, Params: sim.Timings(int64(time.Millisecond), int64(5*time.Millisecond), true), New: newCore})
	if r.Violation != nil {
		t.Fatalf("seed %d: %s", seed, r.Violation.Text)
	}
}

func seeds() uint64 {
	if testing.Short() {
		return 5
	}
	return 30
}

// twin is a core beside one that is restored now and then from the first one's state.
type twin struct {
	t        *testing.T
	r        *rand.Rand
	cfg      core.Config
	a, b     *core.Machine
	restored *int
}

func (w *twin) Snapshot() core.Snapshot { return w.a.Snapshot() }

func (w *twin) Step(now int64, ev core.Event) []core.Action {
	if w.r.IntN(20) == 0 {
		text, err := json.Marshal(w.a.State())
		if err != nil {
			w.t.Fatal(err)
		}
		var s core.State
		if err := json.Unmarshal(text, &s); err != nil {
			w.t.Fatal(err)
		}
		if w.b, err = core.Restore(w.cfg, s); err != nil {
			w.t.Fatal(err)
		}
		*w.restored++
	}
	want, got := w.a.Step(now, ev), w.b.Step(now, ev)
	if !reflect.DeepEqual(want, got) {
		w.t.Fatalf("at %d, %T: %+v, and restored: %+v", now, ev, want, got)
	}
	return want
}

// The two nodes' whole lives are decided beside a core that a state was put into.
func TestARestoredCoreDecidesAsTheOneBefore(t *testing.T) {
	restored := 0
	for seed := range seeds() {
		r := rand.New(rand.NewPCG(seed, 1))
		simulated(t, seed, func(cfg core.Config, saved core.Saved) sim.Core {
			return &twin{t, r, cfg, core.New(cfg, saved), core.New(cfg, saved), &restored}
		})
	}
	if restored < 100 {
		t.Errorf("a core was restored %d times only", restored)
	}
	t.Logf("restored %d times", restored)
}

// recorded is a core with a journal, and what it did, by input.
type recorded struct {
	*Writer
	*core.Machine
	text *core.Transcript
	out  *[]string
}

func (r recorded) Step(at int64, ev core.Event) []core.Action {
	line := r.text.Event(at, ev)
	actions := r.Writer.Step(at, ev)
	if _, isTick := ev.(core.Tick); isTick && len(actions) == 0 {
		return actions // whether it was kept shows in all that follows
	}
	var s strings.Builder
	s.WriteString(line + "\n")
	for _, a := range actions {
		s.WriteString("\t" + r.text.Action(a) + "\n")
	}
	*r.out = append(*r.out, s.String())
	return actions
}

// journalled runs a seed with a journal for each node, and returns what its cores did.
func journalled(t *testing.T, dir string, seed uint64, full int64) (did [2][]string) {
	t.Helper()
	var open [2]*Writer
	simulated(t, seed, func(cfg core.Config, saved core.Saved) sim.Core {
		if j := open[cfg.Self]; j != nil {
			closed(t, j)
		}
		j := unbegun(t, filepath.Join(dir, cfg.Nodes[cfg.Self], Name))
		j.full = full
		open[cfg.Self] = j
		m := core.New(cfg, saved)
		j.Begin(Start{Version: "sim", Boot: fmt.Sprint(seed), Config: cfg, Saved: saved}, m)
		text := core.NewTranscript(cfg)
		did[cfg.Self] = append(did[cfg.Self], strings.Join(text.Head(saved), "\n")+"\n")
		return recorded{j, m, text, &did[cfg.Self]}
	})
	for _, j := range open {
		closed(t, j)
	}
	return did
}

// withoutIdleTicks is what a replay did, by input; heads of files that go on are left out.
func withoutIdleTicks(t *testing.T, path string) (did []string) {
	t.Helper()
	err := Replay(path, func(p Played) error {
		if p.Wrong != "" {
			return fmt.Errorf("%s:%d: %s", p.File, p.Line, p.Wrong)
		}
		if p.Start != nil {
			if !p.Resumed {
				did = append(did, strings.Join(p.Head, "\n")+"\n")
			}
			return nil
		}
		if _, isTick := p.Input.Event.(core.Tick); isTick && len(p.Lines) == 0 {
			return nil
		}
		s := p.Text + "\n"
		for _, l := range p.Lines {
			s += "\t" + l + "\n"
		}
		did = append(did, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return did
}

// Two nodes' lives, with all their faults, come out of their journals byte for byte; of files that
// were full, what is still there does.
func TestSimulatedLivesAreReplayed(t *testing.T) {
	for name, full := range map[string]int64{"in one file": FileBytes, "in files of 64 KiB": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			inputs := 0
			for seed := range seeds() {
				dir := t.TempDir()
				mkdirs(t, dir)
				did := journalled(t, dir, seed, full)
				for self, node := range nodeNames {
					got := withoutIdleTicks(t, filepath.Join(dir, node))
					inputs += len(got)
					want := did[self]
					if full != FileBytes {
						want = want[len(want)-len(got):]
					}
					if a, b := strings.Join(got, ""), strings.Join(want, ""); a != b {
						t.Fatalf("seed %d, %s: played:\n%s\nnot:\n%s", seed, node, firstDifference(got, want), node)
					}
				}
			}
			t.Logf("%d inputs", inputs)
			if inputs < 1000 {
				t.Errorf("%d inputs only", inputs)
			}
		})
	}
}

func firstDifference(a, b []string) string {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("%d of %d and %d: %s\nand live: %s", i, len(a), len(b), a[i], b[min(i, len(b)-1)])
		}
	}
	return fmt.Sprintf("%d and %d inputs", len(a), len(b))
}

var nodeNames = [2]string{"serv1", "serv2"}

func mkdirs(t *testing.T, dir string) {
	t.Helper()
	for _, n := range nodeNames {
		if err := os.Mkdir(filepath.Join(dir, n), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
