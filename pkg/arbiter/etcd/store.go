// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// errLeaseGone: etcd no longer knows the lease.
var errLeaseGone = errors.New("the lease has expired")

// record is the value of an owner's key.
type record struct {
	Node       string `json:"node"`
	Generation uint64 `json:"generation"`
	Boot       string `json:"boot"`
}

// view is what the two keys of an identity were at one revision of the store.
type view struct {
	revision  int64 // of the store, when this was so
	owner     record
	ownerRev  int64 // the owner's key was last written there; 0: there is none
	lease     int64 // of the owner's key
	stored    uint64
	storedRev int64 // 0: there is none
	damaged   string
}

// store is etcd as far as a Keeper needs it.
type store interface {
	// grant returns a new lease and how long it lasts.
	grant(ctx context.Context, ttl time.Duration) (int64, time.Duration, error)
	// renew returns how long the lease lasts from now on, or errLeaseGone.
	renew(ctx context.Context, lease int64) (time.Duration, error)
	// revoke ends a lease and all keys with it.
	revoke(ctx context.Context, lease int64) error
	// look reads the keys of these identities, linearizably and at one revision.
	look(ctx context.Context, identities []int) ([]view, error)
	// take writes both keys, if they still are as in v; it returns what they are.
	take(ctx context.Context, identity int, v view, r record, lease int64) (view, error)
	// drop removes the owner's key if it still is as in v; it returns what the keys are.
	drop(ctx context.Context, identity int, v view) (view, error)
	// diagnose says what is wrong with each member.
	diagnose(ctx context.Context) string
	close() error
}

// cluster asks all members at once and goes by the first answer: one that has died together with
// the peer must not cost the time after which that is noticed. That a request is carried out twice
// changes nothing, for each names what it expects.
type cluster struct {
	members []*clientv3.Client
	tls     *tls.Config
	prefix  []string // of an identity's keys
}

const (
	maxValue       = 1 << 10 // largest value that is read; a longer one is not ours
	generationBits = 48      // of an ownership word: a larger one would begin at 0 again there
)

func dial(endpoints []string, security *tls.Config, prefix []string) (*cluster, error) {
	c := &cluster{tls: security, prefix: prefix}
	for _, e := range endpoints {
		m, err := clientv3.New(clientv3.Config{
			Endpoints: []string{e}, TLS: security, Logger: zap.NewNop(), MaxUnaryRetries: 1,
			DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connect to etcd at %s: %w: write it as https://HOST:2379", e, err), c.close())
		}
		c.members = append(c.members, m)
	}
	return c, nil
}

func (c *cluster) close() error {
	var errs []error
	for _, m := range c.members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// first asks every member and returns the first answer; without any, an error.
func first[T any](ctx context.Context, c *cluster, ask func(context.Context, *clientv3.Client) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	answers := make(chan answer, len(c.members))
	for _, m := range c.members {
		go func() {
			v, err := ask(ctx, m)
			answers <- answer{v, err}
		}()
	}
	var none T
	var err error
	for range c.members {
		a := <-answers
		if a.err == nil || errors.Is(a.err, errLeaseGone) {
			return a.v, a.err
		}
		err = a.err
	}
	return none, err
}

func leaseError(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return errLeaseGone
	}
	return err
}

func (c *cluster) grant(ctx context.Context, ttl time.Duration) (int64, time.Duration, error) {
	r, err := first(ctx, c, func(ctx context.Context, m *clientv3.Client) (*clientv3.LeaseGrantResponse, error) {
		return m.Grant(ctx, int64(ttl/time.Second))
	})
	if err != nil {
		return 0, 0, err
	}
	return int64(r.ID), time.Duration(r.TTL) * time.Second, nil
}

func (c *cluster) renew(ctx context.Context, lease int64) (time.Duration, error) {
	r, err := first(ctx, c, func(ctx context.Context, m *clientv3.Client) (*clientv3.LeaseKeepAliveResponse, error) {
		r, err := m.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
		return r, leaseError(err)
	})
	if err != nil {
		return 0, err
	}
	return time.Duration(r.TTL) * time.Second, nil
}

func (c *cluster) revoke(ctx context.Context, lease int64) error {
	_, err := first(ctx, c, func(ctx context.Context, m *clientv3.Client) (*clientv3.LeaseRevokeResponse, error) {
		r, err := m.Revoke(ctx, clientv3.LeaseID(lease))
		return r, leaseError(err)
	})
	if errors.Is(err, errLeaseGone) {
		return nil
	}
	return err
}

func (c *cluster) ownerKey(i int) string      { return c.prefix[i] + "/owner" }
func (c *cluster) generationKey(i int) string { return c.prefix[i] + "/generation" }

// read are the requests whose answers viewOf understands.
func (c *cluster) read(i int) []clientv3.Op {
	return []clientv3.Op{clientv3.OpGet(c.ownerKey(i)), clientv3.OpGet(c.generationKey(i))}
}

func (c *cluster) look(ctx context.Context, identities []int) ([]view, error) {
	var ops []clientv3.Op
	for _, i := range identities {
		ops = append(ops, c.read(i)...)
	}
	r, err := first(ctx, c, func(ctx context.Context, m *clientv3.Client) (*clientv3.TxnResponse, error) {
		return m.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil {
		return nil, err
	}
	var views []view
	for n := range identities {
		v, err := viewOf(r, 2*n)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// unchanged are the comparisons by which a transaction finds the keys as in v.
func (c *cluster) unchanged(i int, v view) []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(c.ownerKey(i)), "=", v.ownerRev),
		clientv3.Compare(clientv3.ModRevision(c.generationKey(i)), "=", v.storedRev),
	}
}

func (c *cluster) take(ctx context.Context, i int, v view, rec record, lease int64) (view, error) {
	value, err := json.Marshal(rec)
	if err != nil {
		return view{}, err
	}
	return c.swap(ctx, i, v,
		clientv3.OpPut(c.ownerKey(i), string(value), clientv3.WithLease(clientv3.LeaseID(lease))),
		clientv3.OpPut(c.generationKey(i), strconv.FormatUint(rec.Generation, 10)))
}

func (c *cluster) drop(ctx context.Context, i int, v view) (view, error) {
	return c.swap(ctx, i, v, clientv3.OpDelete(c.ownerKey(i)))
}

// swap does ops if the keys are as in v, and returns what they are after it.
func (c *cluster) swap(ctx context.Context, i int, v view, ops ...clientv3.Op) (view, error) {
	then := append(ops, c.read(i)...)
	r, err := first(ctx, c, func(ctx context.Context, m *clientv3.Client) (*clientv3.TxnResponse, error) {
		r, err := m.Txn(ctx).If(c.unchanged(i, v)...).Then(then...).Else(c.read(i)...).Commit()
		return r, leaseError(err)
	})
	if err != nil {
		return view{}, err
	}
	if r.Succeeded {
		return viewOf(r, len(ops))
	}
	return viewOf(r, 0)
}

// viewOf reads the two answers that begin at n.
func viewOf(r *clientv3.TxnResponse, n int) (view, error) {
	if len(r.Responses) < n+2 {
		return view{}, fmt.Errorf("etcd answered %d of the %d requests of a transaction", len(r.Responses), n+2)
	}
	v := view{revision: r.Header.Revision}
	if kvs := r.Responses[n].GetResponseRange().GetKvs(); len(kvs) > 0 {
		v.ownerRev, v.lease = kvs[0].ModRevision, kvs[0].Lease
		if len(kvs[0].Value) > maxValue || json.Unmarshal(kvs[0].Value, &v.owner) != nil {
			v.owner = record{Node: "somebody else"}
		}
	}
	if kvs := r.Responses[n+1].GetResponseRange().GetKvs(); len(kvs) > 0 {
		v.storedRev = kvs[0].ModRevision
		g, err := strconv.ParseUint(string(kvs[0].Value), 10, generationBits)
		if err != nil {
			v.damaged = fmt.Sprintf("etcd key %s holds %.40q, which is no generation: write the highest one of `xdpha status` of all nodes there", kvs[0].Key, kvs[0].Value)
		}
		v.stored = g
	}
	return v, nil
}
