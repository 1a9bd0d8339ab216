// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

var errSilent = errors.New("no answer")

// fakeStore is a linearizable store in memory with faults: requests take time, get lost before or
// after they are carried out, or are carried out long after their sender has given up.
type fakeStore struct {
	mu       sync.Mutex
	revision int64
	leases   map[int64]time.Time // when they end, by the store's clock
	ttl      map[int64]time.Duration
	views    []view // revision is not used
	rate     float64
	rand     *rand.Rand
	delay    time.Duration // most
	loss     float64       // of a request, and of an answer
	late     float64       // of requests that are carried out after their sender gave up
	lateMax  time.Duration
	down     bool
	began    time.Time
}

func newFakeStore(identities int, rate float64, r *rand.Rand) *fakeStore {
	return &fakeStore{
		leases: map[int64]time.Time{}, ttl: map[int64]time.Duration{}, views: make([]view, identities),
		rate: rate, rand: r, began: time.Now(),
	}
}

// clock is the store's own: it runs at its rate.
func (s *fakeStore) clock() time.Time {
	return s.began.Add(time.Duration(float64(time.Since(s.began)) * s.rate))
}

func (s *fakeStore) chance(p float64) bool { return s.rand.Float64() < p }

// expire removes what has ended. mu is held, as in all that follow.
func (s *fakeStore) expire() {
	for id, end := range s.leases {
		if !s.clock().Before(end) {
			s.end(id)
		}
	}
}

func (s *fakeStore) end(lease int64) {
	delete(s.leases, lease)
	for i := range s.views {
		if v := &s.views[i]; v.lease == lease && v.ownerRev != 0 {
			s.revision++
			v.owner, v.ownerRev, v.lease = record{}, 0, 0
		}
	}
}

func (s *fakeStore) view(i int) view {
	v := s.views[i]
	v.revision = s.revision
	return v
}

// do carries out f as the network lets it.
func (s *fakeStore) do(ctx context.Context, f func() error) error {
	s.mu.Lock()
	down, lost, answerLost, late := s.down, s.chance(s.loss), s.chance(s.loss), s.chance(s.late)
	there := time.Duration(s.rand.Float64() * float64(s.delay))
	back := time.Duration(s.rand.Float64() * float64(s.delay))
	muchLater := time.Duration(s.rand.Float64() * float64(s.lateMax))
	s.mu.Unlock()
	if late {
		time.AfterFunc(muchLater, func() { _ = s.carryOut(f) })
	}
	if down || lost || late {
		<-ctx.Done()
		return errSilent
	}
	if sleep(ctx, there); ctx.Err() != nil {
		return errSilent
	}
	err := s.carryOut(f)
	if sleep(ctx, back); ctx.Err() != nil || answerLost {
		<-ctx.Done()
		return errSilent
	}
	return err
}

func (s *fakeStore) carryOut(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return f()
}

func (s *fakeStore) grant(ctx context.Context, ttl time.Duration) (id int64, granted time.Duration, err error) {
	err = s.do(ctx, func() error {
		s.revision++
		id, granted = 1_000_000+s.revision, ttl
		s.leases[id], s.ttl[id] = s.clock().Add(ttl), ttl
		return nil
	})
	return id, granted, err
}

func (s *fakeStore) renew(ctx context.Context, lease int64) (ttl time.Duration, err error) {
	err = s.do(ctx, func() error {
		if _, ok := s.leases[lease]; !ok {
			return errLeaseGone
		}
		ttl = s.ttl[lease]
		s.leases[lease] = s.clock().Add(ttl)
		return nil
	})
	return ttl, err
}

func (s *fakeStore) revoke(ctx context.Context, lease int64) error {
	return s.do(ctx, func() error { s.end(lease); return nil })
}

func (s *fakeStore) look(ctx context.Context, identities []int) (views []view, err error) {
	err = s.do(ctx, func() error {
		views = nil
		for _, i := range identities {
			views = append(views, s.view(i))
		}
		return nil
	})
	return views, err
}

func (s *fakeStore) take(ctx context.Context, i int, v view, r record, lease int64) (now view, err error) {
	err = s.do(ctx, func() error {
		if _, ok := s.leases[lease]; !ok {
			return errLeaseGone
		}
		if is := &s.views[i]; is.ownerRev == v.ownerRev && is.storedRev == v.storedRev {
			s.revision++
			*is = view{owner: r, ownerRev: s.revision, lease: lease, stored: r.Generation, storedRev: s.revision}
		}
		now = s.view(i)
		return nil
	})
	return now, err
}

func (s *fakeStore) drop(ctx context.Context, i int, v view) (now view, err error) {
	err = s.do(ctx, func() error {
		if is := &s.views[i]; is.ownerRev == v.ownerRev && is.storedRev == v.storedRev && is.ownerRev != 0 {
			s.revision++
			is.owner, is.ownerRev, is.lease = record{}, 0, 0
		}
		now = s.view(i)
		return nil
	})
	return now, err
}

func (s *fakeStore) diagnose(context.Context) string { return "silent" }

func (s *fakeStore) close() error { return nil }
