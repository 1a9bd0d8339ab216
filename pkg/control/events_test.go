// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEventsAreReplayedThenFollowed(t *testing.T) {
	f := &fake{hub: NewHub(10)}
	c, stop := serve(t, f)
	for i := range 3 {
		f.hub.Publish(Event{Node: "serv1", Kind: "test", Text: fmt.Sprint("line\nbreak ", i), Fields: map[string]any{"n": float64(i)}})
	}
	var got []uint64
	collect := func(e Event) error { got = append(got, e.Seq); return nil }
	if err := c.Events(t.Context(), 1, false, collect); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]uint64{2, 3}, got); d != "" {
		t.Error("without follow:", d)
	}
	got = nil
	err := c.Events(t.Context(), 0, true, func(e Event) error {
		got = append(got, e.Seq)
		switch e.Seq {
		case 3:
			f.hub.Publish(Event{Kind: "new"})
		case 4:
			go stop()
		}
		return nil
	})
	if d := cmp.Diff([]uint64{1, 2, 3, 4}, got); d != "" {
		t.Error("with follow:", d, err)
	}
}

func TestServerEndsWhileEventsAreFollowed(t *testing.T) {
	f := &fake{hub: NewHub(1)}
	c, stop := serve(t, f)
	f.hub.Publish(Event{})
	began := time.Now()
	_ = c.Events(t.Context(), 0, true, func(Event) error { go stop(); return nil })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > drainTime {
		t.Errorf("took %v", d)
	}
}

func TestSlowReaderIsToldWhatItMissed(t *testing.T) {
	h := NewHub(4)
	r := h.Read(0)
	for range 10 {
		h.Publish(Event{})
	}
	events, missed := r.Ready()
	if missed != 6 || len(events) != 4 || events[0].Seq != 7 || events[3].Seq != 10 {
		t.Errorf("missed %d, events %v", missed, events)
	}
	if events, missed := r.Ready(); missed != 0 || len(events) != 0 {
		t.Errorf("again: missed %d, events %v", missed, events)
	}
	c, _ := serve(t, &fake{hub: h})
	var kinds []string
	if err := c.Events(t.Context(), 2, false, func(e Event) error {
		kinds = append(kinds, fmt.Sprint(e.Kind, e.Fields["missed"]))
		return nil
	}); err != nil || len(kinds) != 5 || kinds[0] != "missed4" {
		t.Errorf("%v, %v", kinds, err)
	}
}

func TestReaderOfAnEarlierRunGetsAll(t *testing.T) {
	h := NewHub(4)
	h.Publish(Event{})
	if events, missed := h.Read(99).Ready(); missed != 0 || len(events) != 1 {
		t.Errorf("missed %d, events %v", missed, events)
	}
}

func TestClosedHubEndsItsReadersAfterTheLastEvent(t *testing.T) {
	h := NewHub(4)
	r := h.Read(0)
	h.Publish(Event{})
	h.Close()
	if events, _, err := r.Next(t.Context()); err != nil || len(events) != 1 {
		t.Errorf("%v, %v", events, err)
	}
	if _, _, err := r.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestHubWithManyReadersAndWriters(t *testing.T) {
	h := NewHub(16)
	const writers, each = 4, 250
	var wg sync.WaitGroup
	for range 4 {
		r := h.Read(0)
		wg.Go(func() {
			var seen, last uint64
			for seen < writers*each {
				events, missed, err := r.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				seen += missed + uint64(len(events))
				for _, e := range events {
					if e.Seq <= last {
						t.Errorf("%d after %d", e.Seq, last)
					}
					last = e.Seq
				}
			}
		})
	}
	for range writers {
		wg.Go(func() {
			for range each {
				h.Publish(Event{})
			}
		})
	}
	wg.Wait()
}
