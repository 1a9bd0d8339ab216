// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"time"
)

// key is one identity's pair of keys.
type key struct {
	wake chan struct{}
	want uint64 // generation; 0: none
	v    view   // the newest that is known
	seen bool   // nothing of ours is under way that could have changed v
	// condemned: a removal of the owner's key as last written there may still be under way.
	condemned int64
	told      int64 // until when it is held, as Leave was told
	toldGen   uint64
}

func (x *key) rouse() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// see takes a view, unless a newer one is known: answers overtake each other.
func (x *key) see(v view) {
	if v.revision >= x.v.revision {
		x.v, x.seen = v, true
	}
}

// mine reports that the owner's key was written for the gates of this boot of this node.
func (k *Keeper) mine(x *key) bool {
	return x.v.ownerRev != 0 && x.v.owner.Node == k.Node && x.v.owner.Boot == k.Boot
}

// held reports that the key is wanted, and stands by this node's lease for as long as that lasts.
func (k *Keeper) held(x *key) bool {
	return x.want != 0 && k.lease != 0 && k.mine(x) && x.v.lease == k.lease && x.v.ownerRev > x.condemned
}

// tell says until when a key is held, if that is new. mu is held.
func (k *Keeper) tell(i int) {
	x := k.keys[i]
	var until int64
	var gen uint64
	if k.held(x) {
		until, gen = k.until, x.v.owner.Generation
	}
	if until == x.told && gen == x.toldGen {
		return
	}
	changed := gen != x.toldGen
	x.told, x.toldGen = until, gen
	k.Leave(i, gen, until)
	if changed {
		k.Changed()
	}
}

// step is what has to be done about a key.
type step int

const (
	rest step = iota // nothing, until something changes
	wait             // nothing, but it will have to be looked at again soon
	look
	take
	drop
)

func (k *Keeper) next(x *key) step {
	switch {
	case !x.seen:
		return look
	case x.want == 0 && k.mine(x):
		return drop
	case x.want == 0 || k.lease == 0:
		return rest
	case x.v.ownerRev != 0 && !k.mine(x):
		return wait
	case x.v.damaged != "", x.want < x.v.stored:
		return wait
	case k.held(x) && x.v.owner.Generation == x.want:
		return rest
	}
	return take
}

// work drives one key until ctx ends.
func (k *Keeper) work(ctx context.Context, i int) {
	x := k.keys[i]
	for ctx.Err() == nil {
		k.mu.Lock()
		todo, v, want, lease := k.next(x), x.v, x.want, k.lease
		if todo == drop {
			x.condemned = max(x.condemned, v.ownerRev)
		}
		k.mu.Unlock()
		switch todo {
		case rest:
			select {
			case <-ctx.Done():
			case <-x.wake:
			}
			continue
		case wait:
			select {
			case <-ctx.Done():
				return
			case <-x.wake:
				continue
			case <-time.After(k.TTL / retryShare):
			}
		}
		now, err := k.request(ctx, i, todo, v, want, lease)
		k.answered(i, lease, now, err)
		if err != nil {
			sleep(ctx, k.TTL/retryShare)
		}
	}
}

func (k *Keeper) answered(i int, lease int64, now view, err error) {
	if errors.Is(err, errLeaseGone) {
		k.expired(lease)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	x := k.keys[i]
	if x.seen = err == nil; x.seen {
		x.see(now)
		k.tell(i)
	}
}

func (k *Keeper) request(ctx context.Context, i int, todo step, v view, want uint64, lease int64) (view, error) {
	ctx, cancel := k.call(ctx)
	defer cancel()
	switch todo {
	case take:
		return k.store.take(ctx, i, v, record{k.Node, want, k.Boot}, lease)
	case drop:
		return k.store.drop(ctx, i, v)
	}
	views, err := k.store.look(ctx, []int{i})
	if err != nil {
		return view{}, err
	}
	return views[0], nil
}
