// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestRaces(t *testing.T) {
	for _, kind := range RaceKinds {
		t.Run(kind.Name, func(t *testing.T) {
			f := Races(kind, 1, "", Limits{Depth: 7, States: 200_000})
			t.Logf("%d states, to a depth of %d", f.States, f.Depth)
			if f.Wrong != "" {
				t.Errorf("%s:\n%s", f.Wrong, strings.Join(f.Story, "\n"))
			}
		})
	}
}

// Two states are one only if no step can tell them apart: every field of a kernel is part of the
// encoding, but for those that nothing in this world changes or reads.
func TestEveryFieldThatAStepReadsIsPartOfTheState(t *testing.T) {
	left := []string{
		"p", "around", "self", "boot", "nonce", "nonceBefore", "peerBoot", "peerNonce", "candidate", "floor", "started", "knocked", // nobody boots
		"peer", "peerAt", "lan", "flags", "renewed", // for the daemon
		"fenced", "leave", "leaveGen", // these worlds have no fence agent, and no etcd
		"hurry", "due", // the moves choose when
		"words", "peerWords", // checked below
	}
	p := smallTimings("")
	encoded := func(change func(k *kernel)) string {
		r := newRaces(&RaceKinds[0], &p, 1)
		change(&r.k[0])
		return string(r.encode(nil))
	}
	before := encoded(func(*kernel) {})
	kind := reflect.TypeFor[kernel]()
	for i := range kind.NumField() {
		f := kind.Field(i)
		if slices.Contains(left, f.Name) {
			continue
		}
		changed := encoded(func(k *kernel) {
			at := unsafe.Add(unsafe.Pointer(k), f.Offset)
			if f.Type.Kind() == reflect.Int64 {
				*(*int64)(at) = k.heardAny - 3
			} else {
				*(*byte)(at) ^= 2
			}
		})
		if changed == before {
			t.Errorf("%s is not part of the encoding", f.Name)
		}
	}
	for _, change := range []func(*kernel){func(k *kernel) { k.words[0]++ }, func(k *kernel) { k.peerWords[0]++ }} {
		if encoded(change) == before {
			t.Error("a word is not part of the encoding")
		}
	}
}
