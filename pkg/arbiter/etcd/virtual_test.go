// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testTTL   = 3 * time.Second
	testError = 0.001
	testLong  = time.Millisecond // linger
)

// gates are what several keepers were told of one identity, on one true clock.
type gates struct {
	t     testing.TB
	ttl   time.Duration // of the leases of keepers made from now on
	mu    sync.Mutex
	began time.Time
	until map[string]time.Duration // in true time; a frame lingers behind it
	times int                      // how often somebody's began
	most  time.Duration            // the latest that anybody was ever told
}

func newGates(t testing.TB) *gates {
	return &gates{t: t, ttl: testTTL, began: time.Now(), until: map[string]time.Duration{}}
}

// keep makes a keeper whose clock runs at a rate.
func (g *gates) keep(node, boot string, rate float64, s store) *Keeper {
	return newKeeper(Options{
		Cluster: "c", Node: node, Boot: boot, Identities: []string{"files"}, TTL: g.ttl, ClockError: testError, Linger: testLong,
		Now:     func() int64 { return int64(float64(time.Since(g.began)) * rate) },
		Leave:   func(_ int, _ uint64, until int64) { g.told(node, time.Duration(float64(until)/rate)) },
		Changed: func() {},
	}, s)
}

func (g *gates) told(node string, until time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Since(g.began)
	g.most = max(g.most, until)
	if until > now {
		if g.until[node] <= now {
			g.times++
		}
		for other, end := range g.until {
			if other != node && now < end+testLong {
				g.t.Errorf("at %v %s serves until %v, and %s until %v", now, node, until, other, end)
			}
		}
	} else if until == 0 && g.until[node] > now {
		until = now // it ends now, and a frame lingers
	}
	g.until[node] = until
}

func (g *gates) open(node string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.began) < g.until[node]
}

// bubble runs f by virtual time, with a way to run keepers that end with it.
func bubble(t *testing.T, f func(t *testing.T, run func(*Keeper))) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		f(t, func(k *Keeper) { wg.Go(func() { k.Run(ctx) }) })
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Two keepers want and give up at random, requests are slow, lost or late, and clocks differ by
// all that they may.
func TestNeverTwoHoldAKey(t *testing.T) {
	won := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, run func(*Keeper)) { won += ramble(t, seed, run) })
		})
	}
	if won < 1000 {
		t.Errorf("a key was won %d times only", won)
	}
}

// ramble goes on for ten minutes, and returns how often a key was won.
func ramble(t *testing.T, seed uint64, run func(*Keeper)) int {
	r := rand.New(rand.NewPCG(seed, 1))
	rates := [3]float64{1 - testError, 1, 1 + testError}
	s := newFakeStore(1, rates[r.IntN(3)], rand.New(rand.NewPCG(seed, 2)))
	s.delay, s.loss, s.late, s.lateMax = 50*time.Millisecond, 0.05, 0.05, 10*time.Second
	g := newGates(t)
	var gens [2]uint64
	keepers := []*Keeper{g.keep("serv1", "a", rates[r.IntN(3)], s), g.keep("serv2", "b", rates[r.IntN(3)], s)}
	for _, k := range keepers {
		run(k)
	}
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
		pass(time.Duration(r.Int64N(int64(2 * time.Second))))
		n := r.IntN(2)
		k := keepers[n]
		switch r.IntN(4) {
		case 0:
			k.GiveUp(0)
		case 1:
			s.mu.Lock()
			s.down = r.IntN(4) == 0
			s.mu.Unlock()
		default:
			gens[n] = max(gens[n], k.Claims()[0].Stored) + 1
			gens[n] += (gens[n] + uint64(n)) % 2
			k.Win(0, gens[n])
		}
	}
	return g.times
}

func TestAKeyIsWonAndHeldForAsLongAsEtcdAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		k := g.keep("serv1", "a", 1, s)
		run(k)
		k.Win(0, 2)
		pass(time.Minute)
		if c := k.Claims()[0]; !g.open("serv1") || c.Generation != 2 || c.Stored != 2 || c.Holder != "serv1" {
			t.Fatalf("after a minute: %+v", c)
		}
		s.down = true
		pass(testTTL)
		if g.open("serv1") {
			t.Error("the key counts although etcd has not answered for as long as the lease lasts")
		}
		s.down = false
		pass(testTTL)
		if !g.open("serv1") {
			t.Error("the key is not won again when etcd answers")
		}
	})
}

func TestGivingUpIsToldBeforeTheKeyIsFree(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		k := g.keep("serv1", "a", 1, s)
		run(k)
		k.Win(0, 2)
		pass(time.Second)
		s.delay = 100 * time.Millisecond
		if k.GiveUp(0); g.open("serv1") || k.Claims()[0].UntilNS != 0 {
			t.Error("the key counts after it was given up")
		}
		if s.views[0].ownerRev == 0 {
			t.Error("the key was free before that was told")
		}
		pass(time.Second)
		if s.views[0].ownerRev != 0 {
			t.Errorf("a key that was given up still stands: %+v", s.views[0])
		}
	})
}

// The answer to the removal is lost, and the removal is carried out when the key is wanted again.
func TestALateRemovalTakesNothingThatCounts(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		k := g.keep("serv1", "a", 1, s)
		run(k)
		k.Win(0, 2)
		pass(testTTL)
		before := s.views[0]
		s.down = true
		k.GiveUp(0)
		pass(testTTL / callShare)
		s.down = false
		k.Win(0, 2)
		pass(testTTL / 2)
		if !g.open("serv1") {
			t.Fatal("the key was not won again")
		}
		if v, err := s.drop(t.Context(), 0, before); err != nil || v.ownerRev == 0 {
			t.Errorf("the late removal took a key that counts: %+v, %v", v, err)
		}
	})
}

func TestAGenerationBelowTheHighestWinsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		s.views[0].stored, s.views[0].storedRev, s.revision = 7, 1, 1
		k := g.keep("serv1", "a", 1, s)
		run(k)
		k.Win(0, 6)
		pass(time.Minute)
		if c := k.Claims()[0]; c.Generation != 0 || c.Stored != 7 || g.open("serv1") {
			t.Errorf("generation 6 won over 7: %+v", c)
		}
		k.Win(0, 8)
		pass(time.Second)
		if c := k.Claims()[0]; c.Generation != 8 || c.Stored != 8 || !g.open("serv1") {
			t.Errorf("generation 8 did not win over 7: %+v", c)
		}
	})
}

func TestAKeyOfAnEarlierBootIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		lease, _, _ := s.grant(t.Context(), testTTL)
		if _, err := s.take(t.Context(), 0, view{}, record{"serv1", 2, "before"}, lease); err != nil {
			t.Fatal(err)
		}
		k := g.keep("serv1", "now", 1, s)
		run(k)
		k.Win(0, 2)
		pass(testTTL - time.Second)
		if g.open("serv1") {
			t.Error("a key of an earlier boot counts as won")
		}
		pass(2 * time.Second)
		if !g.open("serv1") {
			t.Error("it was not won when the earlier one had expired")
		}
	})
}

func TestAKeyOfThisBootIsTakenOverByTheNextDaemon(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		lease, _, _ := s.grant(t.Context(), testTTL)
		if _, err := s.take(t.Context(), 0, view{}, record{"serv1", 2, "now"}, lease); err != nil {
			t.Fatal(err)
		}
		k := g.keep("serv1", "now", 1, s)
		run(k)
		k.Win(0, 2)
		pass(time.Second)
		if !g.open("serv1") || s.views[0].lease == lease {
			t.Errorf("the key does not stand by the new daemon's lease: %+v", s.views[0])
		}
	})
}

// A member that does not know yet that the lease is gone confirms it.
func TestARenewalCountsOnlyWhenTheKeyIsSeenToStand(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		k := g.keep("serv1", "a", 1, stale{s})
		run(k)
		k.Win(0, 2)
		pass(time.Second)
		was := g.most
		s.mu.Lock()
		for id := range s.leases {
			s.end(id)
		}
		s.mu.Unlock()
		pass(testTTL / renewShare)
		if c := k.Claims()[0]; g.most > was || c.Generation != 0 {
			t.Errorf("a key counted until %v, and nobody has seen it after its lease was renewed at %v: %+v", g.most, was, c)
		}
	})
}

// The answer to a reading of before comes after that to the taking.
func TestAnOverhauledAnswerChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		k := g.keep("serv1", "a", 1, &slowLook{s})
		run(k)
		pass(testTTL/renewShare + 10*time.Millisecond) // the second reading is under way
		k.Win(0, 2)
		pass(time.Millisecond)
		if !g.open("serv1") {
			t.Fatal("the key was not won while a reading was under way")
		}
		if pass(testTTL); g.times != 1 || !g.open("serv1") {
			t.Errorf("the key was lost and won %d times: %+v", g.times, k.Claims()[0])
		}
	})
}

// slowLook answers long after it has read.
type slowLook struct{ *fakeStore }

func (s *slowLook) look(ctx context.Context, identities []int) ([]view, error) {
	views, err := s.fakeStore.look(ctx, identities)
	sleep(ctx, testTTL/callShare-time.Millisecond)
	return views, err
}

// stale renews whatever lease.
type stale struct{ *fakeStore }

func (s stale) renew(context.Context, int64) (time.Duration, error) { return testTTL, nil }

// Whoever stands still between the question and its answer counts from the question.
func TestAPauseIsInsideTheTimeThatCounts(t *testing.T) {
	bubble(t, func(t *testing.T, run func(*Keeper)) {
		s, g := newFakeStore(1, 1, rand.New(rand.NewPCG(1, 1))), newGates(t)
		var paused int64
		k := g.keep("serv1", "a", 1, s)
		now := k.Now
		k.Now = func() int64 { return now() + paused }
		slow := &pausing{fakeStore: s, pause: func() { paused += int64(time.Hour) }}
		k.store = slow
		run(k)
		k.Win(0, 2)
		pass(time.Second)
		slow.on = true
		pass(testTTL / renewShare)
		slow.on = false
		synctest.Wait()
		if c := k.Claims()[0]; c.UntilNS > now()+int64(testTTL) && paused == 0 || paused != 0 && c.UntilNS > now()+paused {
			t.Errorf("after a pause of %v between question and answer the key counts until %d, now is %d", time.Duration(paused), c.UntilNS, now()+paused)
		}
		if paused == 0 {
			t.Error("nobody was paused")
		}
	})
}

type pausing struct {
	*fakeStore
	on    bool
	pause func()
}

func (s *pausing) renew(ctx context.Context, lease int64) (time.Duration, error) {
	ttl, err := s.fakeStore.renew(ctx, lease)
	if s.on {
		s.pause()
	}
	return ttl, err
}

func TestTheTimeThatCountsAllowsForClocksAndLingering(t *testing.T) {
	o := Options{ClockError: testError, Linger: testLong}
	until := float64(o.surely(0, testTTL))
	// The slowest clock here, the fastest there.
	if end, lease := until/(1-testError)+float64(testLong), float64(testTTL)/(1+testError); end > lease {
		t.Errorf("the last frame leaves at %v, the lease ends at %v", time.Duration(end), time.Duration(lease))
	}
	if short := float64(testTTL) - until; short > float64(testTTL)/100 {
		t.Errorf("%v of the lease are not used", time.Duration(short))
	}
}
