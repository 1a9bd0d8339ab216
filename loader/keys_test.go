// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"testing"
)

// A number that named a key names no other one, so that no program reads half of each.
func TestKeysChangeAndNumbersDoNot(t *testing.T) {
	d := openKeys(t, sandbox(t), Key{K0: 1, K1: 2, ID: 3})
	defer d.Close()
	for _, step := range []struct {
		name string
		keys []Key
		want error
		word uint64
	}{
		{"a second one", []Key{{K0: 1, K1: 2, ID: 3}, {K0: 4, K1: 5, ID: 6}}, nil, 0x10603},
		{"in the other order", []Key{{K0: 4, K1: 5, ID: 6}, {K0: 1, K1: 2, ID: 3}}, nil, 0x10306},
		{"one left out", []Key{{K0: 4, K1: 5, ID: 6}}, nil, 0x10606},
		{"its number for another one", []Key{{K0: 7, K1: 2, ID: 3}, {K0: 4, K1: 5, ID: 6}}, ErrKeyNumber, 0x10606},
		{"the same with another half", []Key{{K0: 4, K1: 5, ID: 6}, {K0: 1, K1: 1 << 40, ID: 3}}, ErrKeyNumber, 0x10606},
		{"itself again", []Key{{K0: 1, K1: 2, ID: 3}}, nil, 0x10303},
	} {
		if err := d.SetKeys(step.keys); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.name, err, step.want)
		}
		if d.control.Keys != step.word {
			t.Errorf("%s: in force are %#x, want %#x", step.name, d.control.Keys, step.word)
		}
	}
}

func TestAStartWithOtherKeysTakesOverIfOneIsKept(t *testing.T) {
	one, two, three := Key{K0: 1, K1: 1, ID: 1}, Key{K0: 2, K1: 2, ID: 2}, Key{K0: 3, K1: 3, ID: 3}
	pins := sandbox(t)
	for _, start := range []struct {
		name    string
		keys    []Key
		adopted bool
	}{
		{"the first", []Key{one}, false},
		{"one more", []Key{one, two}, true},
		{"the second alone", []Key{two}, true},
		{"a third alone", []Key{three}, false},
		{"with a number that is free after a start anew", []Key{three, {K0: 9, K1: 9, ID: 2}}, true},
		{"the number of a key that is there", []Key{{K0: 8, K1: 8, ID: 3}}, false},
	} {
		d := openKeys(t, pins, start.keys...)
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		if d.Adopted() != start.adopted || d.control.Keys != keysWord(start.keys) {
			t.Errorf("%s: taken over %v, in force %#x", start.name, d.Adopted(), d.control.Keys)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func openKeys(t *testing.T, pins string, keys ...Key) *Datapath {
	t.Helper()
	cfg := Config{Nodes: 2, Keys: keys, Probe: 1e6, SuspectAfter: 3e6, DeadAfter: 5e6, BootHold: 3e9, ConfirmProbes: 3}
	d, err := Open(cfg, Options{PinDir: pins, Log: slog.New(slog.DiscardHandler), Anew: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
