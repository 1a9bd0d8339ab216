// SPDX-License-Identifier: Apache-2.0

package core

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unsafe"
)

func stateConfig() Config {
	return Config{Nodes: []string{"serv1", "serv2"}, Identities: []IdentityConfig{{Name: "files"}}}
}

// busyMachine has one of everything, and all of it zero.
func busyMachine() *Machine {
	m := New(stateConfig(), Saved{})
	m.persist.saved = Saved{}.clone()
	m.flags = &SetFlags{}
	m.commands = []*command{m.newCommand(0, 0)}
	*m.commands[0] = command{waiting: map[int]bool{}, asking: map[int]bool{}, forcing: map[int]bool{}, begun: map[int]bool{}}
	m.ids[0].ho.commands = m.commands[:1:1]
	m.obs = Observed{Local: []Word{0}, Peers: []PeerView{{Words: []Word{0}}, {Words: []Word{0}}}, Granted: []bool{false}, Keys: []Key{{}}}
	m.ids[0].peer, m.ids[0].carry = 0, actuator{}
	return m
}

// notState is what a state does not say: it is the configuration, or lasts for one step.
var notState = []string{".cfg", ".out", ".ids[0].cfg", ".ids[0].index"}

// leaves calls f with every value that a machine consists of, settable.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	for _, not := range notState {
		if path == not {
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if strings.HasSuffix(path, ".ho.commands[0]") {
			return // the same as in .commands
		}
		leaves(v.Elem(), path, f)
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Field(i)
			leaves(reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem(), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Array, reflect.Slice:
		if v.Kind() == reflect.Slice && v.Len() == 0 {
			f(path, v)
			return
		}
		for i := range v.Len() {
			leaves(v.Index(i), path+"["+string(rune('0'+i))+"]", f)
		}
	default:
		f(path, v)
	}
}

func setLeaf(t *testing.T, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.String:
		v.SetString("x")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		setLeaf(t, path, v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if key.Kind() == reflect.String {
			key.SetString("files")
		}
		setLeaf(t, path, value)
		v.SetMapIndex(key, value)
	default:
		t.Fatalf("%s: the test cannot set a %v", path, v.Type())
	}
}

// Whatever single thing a machine knows, its state says, in its own place, also as JSON.
func TestAStateForgetsNothing(t *testing.T) {
	var paths []string
	leaves(reflect.ValueOf(busyMachine()), "", func(path string, _ reflect.Value) { paths = append(paths, path) })
	if len(paths) < 90 {
		t.Fatalf("a machine has %d values only: %v", len(paths), paths)
	}
	for _, target := range paths {
		m := busyMachine()
		leaves(reflect.ValueOf(m), "", func(path string, v reflect.Value) {
			if path == target {
				setLeaf(t, path, v)
			}
		})
		b, err := json.Marshal(m.State())
		if err != nil {
			t.Fatal(err)
		}
		var s State
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		got, err := Restore(stateConfig(), s)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s is lost or misplaced", target)
		}
		if reflect.DeepEqual(m, busyMachine()) {
			t.Errorf("%s was not set", target)
		}
		if got.ids[0].ho.commands[0] != got.commands[0] {
			t.Fatal("a hand-over's command is not the machine's own")
		}
	}
}

// A state is the caller's: the machine goes on without touching it.
func TestAStateSharesNothing(t *testing.T) {
	m := busyMachine()
	s, same := m.State(), busyMachine().State()
	m.want.Generations["files"], m.durable.Generations["files"], m.failed["dns"] = 1, 1, true
	m.obs.Local[0], m.obs.Peers[1].Words[0], m.obs.Keys[0].Held, m.flags.Frozen, m.ids[0].failed["samba"], m.commands[0].waiting[0] = 1, 1, 1, true, true, true
	m.persist.saved.Generations["files"] = 1
	if !reflect.DeepEqual(s, same) {
		t.Errorf("the state has changed with the machine:\n%+v\n%+v", s, same)
	}
}

func TestAStateOfNoMachineIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*State)
		want  string
	}{
		"another version":   {func(s *State) { s.Version++ }, "version 6"},
		"identities":        {func(s *State) { s.Identities = nil }, "of 0 identities"},
		"nodes":             {func(s *State) { s.Peers = nil }, "of 0 nodes"},
		"counterpart":       {func(s *State) { s.Identities[0].Peer = 2 }, "counterpart is node 2"},
		"hand-over's node":  {func(s *State) { s.Identities[0].Handover.To = -1 }, "hand-over to node -1"},
		"role":              {func(s *State) { s.Identities[0].Role = 6 }, "identity files: no role 6"},
		"phase":             {func(s *State) { s.Identities[0].Handover.Phase = -1 }, "no phase -1"},
		"addresses":         {func(s *State) { s.Identities[0].Addr.State = 5 }, "addresses: no state 5"},
		"services":          {func(s *State) { s.Identities[0].Svc.State = -1 }, "services: no state -1"},
		"concurrent":        {func(s *State) { s.Concurrent.State = 9 }, "concurrent services: no state 9"},
		"hand-over's order": {func(s *State) { s.Identities[0].Handover.Commands = []int{1} }, "command 1 of 1"},
		"order's identity":  {func(s *State) { s.Commands[0].Begun = []int{1} }, "identity 1 of 1"},
		"order's kind":      {func(s *State) { s.Commands[0].Kind = 5 }, "no known kind: 5"},
	} {
		t.Run(name, func(t *testing.T) {
			s := busyMachine().State()
			if _, err := Restore(stateConfig(), s); err != nil {
				t.Fatalf("the state as it was: %v", err)
			}
			c.spoil(&s)
			if _, err := Restore(stateConfig(), s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, and not %q", err, c.want)
			}
		})
	}
}
