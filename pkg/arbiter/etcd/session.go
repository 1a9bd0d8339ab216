// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Shares of the lease: it is renewed so often that two renewals may fail, a request that takes
// longer than its share is asked again, and what failed is tried again soon.
const (
	renewShare = 4
	callShare  = 10
	retryShare = 40
)

func (k *Keeper) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, k.TTL/callShare)
}

// keepLease grants, renews and confirms the lease until ctx ends.
func (k *Keeper) keepLease(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		err := k.renewLease(ctx)
		if err == nil {
			err = k.lookAtAll(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		k.note(ctx, err)
		wait := k.TTL/renewShare - time.Since(began)
		if err != nil {
			wait = k.TTL / retryShare
		}
		sleep(ctx, wait)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// renewLease renews the lease, or gets a new one.
func (k *Keeper) renewLease(ctx context.Context) error {
	k.mu.Lock()
	lease := k.lease
	k.mu.Unlock()
	ctx, cancel := k.call(ctx)
	defer cancel()
	sent := k.Now()
	if lease == 0 {
		lease, ttl, err := k.store.grant(ctx, k.TTL)
		if err != nil {
			return err
		}
		k.begin(lease, k.surely(sent, ttl))
		return nil
	}
	ttl, err := k.store.renew(ctx, lease)
	switch {
	case errors.Is(err, errLeaseGone):
		k.expired(lease)
		return err
	case err != nil:
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease == lease {
		k.renewed = max(k.renewed, k.surely(sent, ttl))
	}
	return nil
}

// begin starts with a new lease. No key stands by it yet: one that will be put shows that it lives.
func (k *Keeper) begin(lease, until int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lease, k.until, k.renewed = lease, until, until
	for _, x := range k.keys {
		x.rouse()
	}
}

// expired ends everything that went with a lease.
func (k *Keeper) expired(lease int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease != lease {
		return
	}
	k.lease = 0
	for i, x := range k.keys {
		x.seen = false
		k.tell(i)
		x.rouse()
	}
}

// lookAtAll reads all keys: it confirms what was renewed before, and it makes a taking one request.
func (k *Keeper) lookAtAll(ctx context.Context) error {
	k.mu.Lock()
	lease, renewed := k.lease, k.renewed
	k.mu.Unlock()
	ctx, cancel := k.call(ctx)
	defer cancel()
	views, err := k.store.look(ctx, k.all)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease == lease {
		k.until = max(k.until, renewed)
	}
	for i, x := range k.keys {
		x.see(views[i])
		k.tell(i)
		x.rouse()
	}
	return nil
}

// note keeps how it fares, and tells when that changes.
func (k *Keeper) note(ctx context.Context, err error) {
	now := State{Reached: err == nil || errors.Is(err, errLeaseGone)}
	if !now.Reached {
		ctx, cancel := k.call(ctx)
		defer cancel()
		now.Error = fmt.Sprintf("etcd does not answer: %s: check arbiter.etcd and that a majority of its members runs", k.store.diagnose(ctx))
	}
	k.mu.Lock()
	changed := k.state != now
	k.state = now
	k.mu.Unlock()
	if changed {
		k.Changed()
	}
}
