// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"strings"
	"testing"
	"time"
)

func TestRaces(t *testing.T) {
	for _, kind := range RaceKinds {
		t.Run(kind.Name, func(t *testing.T) {
			began := time.Now()
			f := Races(kind, 1, "", Limits{Depth: 40, States: 400_000})
			t.Logf("%d states, depth %d, whole %v, %v", f.States, f.Depth, f.Whole, time.Since(began))
			if f.Wrong != "" {
				t.Errorf("%s:\n%s", f.Wrong, strings.Join(f.Story, "\n"))
			}
		})
	}
}

func TestRaceMutations(t *testing.T) {
	for _, m := range Mutations {
		t.Run(m, func(t *testing.T) {
			for _, kind := range RaceKinds {
				began := time.Now()
				f := Races(kind, 1, m, Limits{Depth: 40, States: 200_000})
				t.Logf("%s: %d states, depth %d, whole %v, %v", kind.Name, f.States, f.Depth, f.Whole, time.Since(began))
				if f.Wrong != "" {
					t.Logf("%s:\n%s", f.Wrong, strings.Join(f.Story, "\n"))
					return
				}
			}
			t.Error("not found")
		})
	}
}
