// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/config"
)

func spec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	s, err := bpf.LoadXdpha()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTypesOfKernelAndUserSpaceAreOfOneSize(t *testing.T) {
	types := spec(t).Types
	for _, c := range []struct {
		name string
		typ  reflect.Type
		size uintptr
	}{
		{"xd_address", reflect.TypeFor[bpf.XdphaXdAddress](), 16},
		{"xd_config", reflect.TypeFor[bpf.XdphaXdConfig](), 72 + 3*16 + 16*32 + 16*3*4 + 8*4},
		{"xd_control", reflect.TypeFor[bpf.XdphaXdControl](), 184 + 3*8*16},
		{"xd_event", reflect.TypeFor[bpf.XdphaXdEvent](), 48},
		{"xd_peer", reflect.TypeFor[bpf.XdphaXdPeer](), 8 * (16 + 16 + 2 + 3 + 6 + 32 + 5*(7+2*32))},
		{"xd_state", reflect.TypeFor[bpf.XdphaXdState](), 8 * (3 + 8 + 5 + 1 + 16 + 2 + 8 + 24 + 5 + 1 + 2*16 + 4 + 3*64 + 1 + 64*6)},
		{"xd_timeline", reflect.TypeFor[bpf.XdphaXdTimeline](), 72},
		{"detector", reflect.TypeFor[bpf.XdphaDetector](), 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kernel *btf.Struct
			if err := types.TypeByName(c.name, &kernel); err != nil {
				t.Fatal(err)
			}
			if c.typ.Size() != c.size || uintptr(kernel.Size) != c.size {
				t.Errorf("%d bytes in Go, %d in the kernel, want %d: a change of the ABI raises XDPHA_ABI", c.typ.Size(), kernel.Size, c.size)
			}
			refusePadding(t, c.typ)
		})
	}
}

// refusePadding fails where a compiler filled a gap: its bytes would cross to the kernel undefined.
func refusePadding(t *testing.T, typ reflect.Type) {
	t.Helper()
	switch typ.Kind() {
	case reflect.Array:
		refusePadding(t, typ.Elem())
	case reflect.Struct:
		var end uintptr
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Offset != end {
				t.Errorf("%v: %d bytes of padding before %s", typ, f.Offset-end, f.Name)
			}
			end = f.Offset + f.Type.Size()
			refusePadding(t, f.Type)
		}
		if end != typ.Size() {
			t.Errorf("%v: %d bytes of padding at its end", typ, typ.Size()-end)
		}
	}
}

// The kernel's leave of half a second is the configuration's too: boot_hold follows from it.
func TestTheLeaveIsAsLongInTheConfiguration(t *testing.T) {
	b, err := os.ReadFile("detector.h")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("#define SOLO_NS %dULL ", config.SoloFor.Nanoseconds()); !bytes.Contains(b, []byte(want)) {
		t.Errorf("detector.h has no %q", want)
	}
}

func TestMapsHoldTheTypesOfTheABI(t *testing.T) {
	for name, want := range map[string]struct{ key, value uintptr }{
		bpf.XdphaMapConfig:    {4, reflect.TypeFor[bpf.XdphaXdConfig]().Size()},
		bpf.XdphaMapControl:   {4, reflect.TypeFor[bpf.XdphaXdControl]().Size()},
		bpf.XdphaMapPeers:     {4, reflect.TypeFor[bpf.XdphaXdPeer]().Size()},
		bpf.XdphaMapState:     {4, reflect.TypeFor[bpf.XdphaXdState]().Size()},
		bpf.XdphaMapWords:     {4, 8},
		bpf.XdphaMapAddresses: {16, 4},
		bpf.XdphaMapTimelines: {4, reflect.TypeFor[bpf.XdphaXdTimeline]().Size()},
		bpf.XdphaMapMacs:      {8, 4},
		bpf.XdphaMapCounters:  {4, 8},
	} {
		m := spec(t).Maps[name]
		if uintptr(m.KeySize) != want.key || uintptr(m.ValueSize) != want.value {
			t.Errorf("map %s: key %d and value %d bytes, want %d and %d", name, m.KeySize, m.ValueSize, want.key, want.value)
		}
	}
}

func TestEveryReasonHasItsNameHere(t *testing.T) {
	var reasons *btf.Enum
	if err := spec(t).Types.TypeByName("xd_reason", &reasons); err != nil {
		t.Fatal(err)
	}
	for _, v := range reasons.Values {
		if v.Name == "REASON_COUNT" {
			if int(v.Value) != len(reasonNames) {
				t.Errorf("%d reasons, %d names", v.Value, len(reasonNames))
			}
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(v.Name, "REASON_"), "_", "-"))
		if reasonNames[v.Value] != name {
			t.Errorf("reason %d is %s, named %s", v.Value, name, reasonNames[v.Value])
		}
	}
}
