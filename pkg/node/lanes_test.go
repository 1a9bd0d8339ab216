// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/mirror"
)

// A database may take minutes to start; the loop that waited for it would lose the supervisor's lease.
func TestAPeerThatIsSuspectedAgainAndAgainDoesNotFillALane(t *testing.T) {
	n := bare()
	n.ended = make(chan struct{})
	n.Config.Identities[0].Mirror = []string{"data"}
	l := make(lane, laneSize) // whose job goes on and on
	n.effects.services = []lane{l}
	told := make(chan struct{})
	go func() {
		defer close(told)
		for i := range 4 * laneSize {
			n.tellMirrors(0, mirroring{2, mirror.Owner, i%2 == 0})
		}
	}()
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Fatal("the loop waits for a lane")
	}
	if room := cap(l) - len(l); room < laneSize/2 {
		t.Errorf("there is room for %d more jobs", room)
	}
	for len(l) > 0 {
		(<-l)(context.Background())
	}
	last := mirroring{4, mirror.Standby, true}
	n.tellMirrors(0, last)
	n.tellMirrors(0, last)
	if len(l) != 1 || n.loop.mirroring[0] != last {
		t.Errorf("with room again %d jobs tell of %+v", len(l), n.loop.mirroring[0])
	}
}

// A service that is up and fails at once must not count as healthy for the rest of its life.
func TestWhatIsToldOfServicesComesInOrder(t *testing.T) {
	n := bare()
	const many = 20_000
	n.inbox, n.ended = make(chan any, 1), make(chan struct{}) // a loop that is busy: nobody who tells waits for it
	for i := range many {
		n.told.post(n, i)
	}
	for i := range many {
		select {
		case ev := <-n.inbox:
			if ev != i {
				t.Fatalf("%v came instead of %d", ev, i)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d has not come", i)
		}
	}
}
