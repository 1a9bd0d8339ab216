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
			t.Parallel()
			f := Races(kind, 1, "", Limits{Depth: 7, States: 200_000})
			t.Logf("%d states, to a depth of %d", f.States, f.Depth)
			if f.Wrong != "" {
				t.Errorf("%s:\n%s", f.Wrong, strings.Join(f.Story, "\n"))
			}
		})
	}
}

// Two states are one only if no step can tell them apart: every field of a kernel is part of the
// encoding, and of what it knows of the other node, but for those that nothing in this world changes
// or reads.
func TestEveryFieldThatAStepReadsIsPartOfTheState(t *testing.T) {
	p := smallTimings("")
	encoded := func(change func(k *kernel)) string {
		r := newRaces(&RaceKinds[0], &p, 1)
		change(&r.k[0])
		return string(r.encode(nil))
	}
	before := encoded(func(*kernel) {})
	fields := func(kind reflect.Type, at func(k *kernel) unsafe.Pointer, left ...string) {
		for i := range kind.NumField() {
			f := kind.Field(i)
			changed := encoded(func(k *kernel) {
				at := unsafe.Add(at(k), f.Offset)
				if f.Type.Kind() == reflect.Int64 {
					*(*int64)(at) = k.other().heardAny - 3
				} else if !slices.Contains(left, f.Name) {
					*(*byte)(at) ^= 2
				}
			})
			if changed == before && !slices.Contains(left, f.Name) {
				t.Errorf("%s of a %s is not part of the encoding", f.Name, kind.Name())
			}
		}
	}
	fields(reflect.TypeFor[kernel](), func(k *kernel) unsafe.Pointer { return unsafe.Pointer(k) },
		"p", "around", "self", "candidates", "boot", "floor", "started", // nobody boots
		"renewed", "lan", "flags", "running", // for the daemon
		"fenced", "leave", "leaveGen", "taken", // these worlds have no fence agent, no etcd and two nodes
		"hurry", "due", // the moves choose when
		"words", "peers", // checked below
	)
	fields(reflect.TypeFor[peer](), func(k *kernel) unsafe.Pointer { return unsafe.Pointer(k.other()) },
		"boot", "myNonce", "myNonceBefore", "nonce", "unproven", "knocked", // nobody boots
		"said", "saidAt", "runs", // for the daemon
		"words", // checked below
	)
	for _, change := range []func(*kernel){func(k *kernel) { k.words[0]++ }, func(k *kernel) { k.other().words[0]++ }} {
		if encoded(change) == before {
			t.Error("a word is not part of the encoding")
		}
	}
}
