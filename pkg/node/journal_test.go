// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/xdpha/xdpha/pkg/core"
)

func newJournal(t *testing.T, path string) *journal {
	t.Helper()
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// lines are the journal's lines that are whole entries, by time, and how many are not.
func lines(t *testing.T, path string) (at []int64, broken int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var e struct {
			AtNS int64  `json:"at_ns"`
			Kind string `json:"kind"`
		}
		if json.Unmarshal(line, &e) != nil || e.Kind == "" {
			broken++
			continue
		}
		at = append(at, e.AtNS)
	}
	return at, broken
}

func TestAJournalGoesOnAfterAHalfLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := newJournal(t, path)
	j.write(1, core.Started{})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, whole[:10]...), 0o600); err != nil {
		t.Fatal(err)
	}
	j = newJournal(t, path)
	j.write(2, core.Tick{})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if at, broken := lines(t, path); len(at) != 2 || at[1] != 2 || broken != 1 {
		t.Errorf("entries at %v, %d broken lines", at, broken)
	}
}

func TestAJournalIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := newJournal(t, path)
	j.write(1, core.Started{})
	j.size = journalBytes + 1
	j.write(2, core.Tick{})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int64{path: 2, path + ".1": 1} {
		if at, broken := lines(t, file); len(at) != 1 || at[0] != want || broken != 0 {
			t.Errorf("%s has entries at %v and %d broken lines", file, at, broken)
		}
	}
}

func TestAJournalThatCannotBeWrittenIsToldOnce(t *testing.T) {
	j := newJournal(t, filepath.Join(t.TempDir(), "journal"))
	j.write(1, core.Started{})
	if err := j.f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.flush(); err == nil {
		t.Error("nothing is told")
	}
	j.write(2, core.Tick{})
	if err := j.flush(); err != nil {
		t.Errorf("it is told again: %v", err)
	}
}
