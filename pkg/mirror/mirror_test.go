// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

// The nodes: serv1 owns at even generations, serv2 at odd ones.
const gen1, gen2, gen3 = 10, 11, 12

func (r *rig) flows(t testing.TB, generation uint64) {
	t.Helper()
	sender, receiver := r.a, r.b
	if ownerOf(generation) == 1 {
		sender, receiver = r.b, r.a
	}
	receiver.follow(generation, Standby)
	sender.follow(generation, Owner)
}

func TestWhatTheOwnerHasTheOtherNodeGets(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("sub/file", "content")
	r.b.write("extraneous", "of old times")
	r.flows(t, gen1)
	s := r.a.sync()
	if got := r.b.read("sub/file"); got != "content" {
		t.Errorf("the copy has %q", got)
	}
	if r.b.has("extraneous") {
		t.Error("what the owner has not is still there")
	}
	t.Logf("%+v", s)
	t.Logf("%+v", r.b.view())
}
