// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/mirror"
)

// A database may take minutes to start, and a peer be suspected many times meanwhile.
func TestMirrorsAreToldTheLatestWhenFewJobsWait(t *testing.T) {
	n := bare()
	n.Config.Identities[0].Mirror = []string{"data"}
	l := newLane() // whose job goes on and on
	n.effects.services = []*lane{l}
	for i := range 4 * tellWaiting {
		n.tellMirrors(0, mirroring{2, mirror.Owner, i%2 == 0, false})
	}
	if w := l.waiting(); w != tellWaiting {
		t.Errorf("%d jobs wait, want %d", w, tellWaiting)
	}
	for job := l.take(); job != nil; job = l.take() {
		job(context.Background())
	}
	last := mirroring{4, mirror.Standby, true, false}
	n.tellMirrors(0, last)
	n.tellMirrors(0, last)
	if l.waiting() != 1 || n.loop.mirroring[0] != last {
		t.Errorf("with room again %d jobs tell of %+v", l.waiting(), n.loop.mirroring[0])
	}
}

// The loop that waited for a disk that hangs would lose the supervisor's lease. What waits is all in
// the last one.
func TestADiskThatHangsHoldsNothingUp(t *testing.T) {
	n, dir := bare(), t.TempDir()
	n.inbox, n.ended = make(chan any, 300), make(chan struct{})
	var err error
	n.store, err = openStore(dir, n.Config)
	if err != nil {
		t.Fatal(err)
	}
	n.effects.disk = newLane()
	held, began := make(chan struct{}), make(chan struct{})
	n.effects.disk.put(func(context.Context) { close(began); <-held })
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go n.effects.disk.run(ctx)
	<-began
	const many = 200
	told := make(chan struct{})
	go func() {
		defer close(told)
		for op := range uint64(many) {
			n.act(core.Persist{Op: op + 1, Saved: core.Saved{Generations: map[string]uint64{"files": op}}})
		}
	}()
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Fatal("the loop waits for the disk")
	}
	close(held)
	for op := range uint64(many) {
		want := any(core.Failed{Op: op + 1, Err: errPersistLater.Error()})
		if op+1 == many {
			want = core.Done{Op: many}
		}
		if got := <-n.inbox; got != want {
			t.Errorf("the result is %+v, want %+v", got, want)
		}
	}
	again, err := openStore(dir, n.Config)
	if err != nil {
		t.Fatal(err)
	}
	if again.saved.Generations["files"] != many-1 {
		t.Errorf("on the disk is %+v", again.saved)
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

// What is stuck in a disk is not waited for for ever when the daemon ends, and nothing is taken from under it.
func TestTheEndIsNotHeldUpForEver(t *testing.T) {
	n, held := bare(), make(chan struct{})
	defer close(held)
	if err := n.awaitEnd(func() {}, time.Hour); err != nil || n.hangs {
		t.Errorf("without anything under way: %v", err)
	}
	if err := n.awaitEnd(func() { <-held }, time.Millisecond); err == nil || !n.hangs || n.close() != nil {
		t.Errorf("with a disk that hangs: %v, %v", err, n.hangs)
	}
}
