// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Options are what a Keeper needs.
type Options struct {
	Endpoints  []string
	TLS        *tls.Config // nil: none
	Prefix     string      // of all keys, as in /xdpha
	Cluster    string
	Node       string
	Boot       string // names the boot of the gates that the keys are for
	Identities []string
	TTL        time.Duration // whole seconds; etcd may grant more
	ClockError float64       // ρ, of the rate of any clock
	Linger     time.Duration // ε, for which a frame stays under way behind the gate
	Now        func() int64  // ns, of the clock that the gates use
	// Leave is told until when an identity's key is surely held, and at which generation; 0: not
	// at all. It is called in order, must not block, and must not call the Keeper.
	Leave func(identity int, generation uint64, untilNS int64)
	// Changed is told that Claims or State say something new. It must neither block nor call the
	// Keeper.
	Changed func()
}

// Keeper holds one lease for the node and, by it, the keys that are wanted.
type Keeper struct {
	Options
	store store
	all   []int // every identity

	mu      sync.Mutex // guards what follows
	lease   int64      // 0: none
	until   int64      // until when the lease surely lasts, once a key is seen to stand by it
	renewed int64      // the same, not confirmed yet
	keys    []*key
	state   State
}

// Claim is what is known of one identity's key.
type Claim struct {
	Wanted     uint64 // generation; 0: it is not wanted
	Generation uint64 // at which it is held; 0: it is not
	UntilNS    int64  // until when it surely is
	Stored     uint64 // the highest generation that ever held it, as far as known
	Holder     string // node whose key stands, "" if none does
}

// State is how the Keeper fares with etcd.
type State struct {
	Reached bool
	Error   string // why not, and what to do
	Lease   bool   // the node has one
}

// ErrEndpoints: the endpoints cannot be right.
var ErrEndpoints = errors.New("no endpoints: write arbiter: {etcd: {endpoints: [https://HOST:2379, …]}}")

// New prepares a Keeper; Run makes it work.
func New(o Options) (*Keeper, error) {
	if len(o.Endpoints) == 0 {
		return nil, ErrEndpoints
	}
	var prefixes []string
	for _, id := range o.Identities {
		prefixes = append(prefixes, strings.Join([]string{o.Prefix, o.Cluster, id}, "/"))
	}
	s, err := dial(o.Endpoints, o.TLS, prefixes)
	if err != nil {
		return nil, err
	}
	return newKeeper(o, s), nil
}

func newKeeper(o Options, s store) *Keeper {
	k := &Keeper{Options: o, store: s}
	for i := range o.Identities {
		k.all = append(k.all, i)
		k.keys = append(k.keys, &key{wake: make(chan struct{}, 1)})
	}
	return k
}

// Run works until ctx ends. The keys stay as they are then, until the lease expires.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range k.keys {
		wg.Go(func() { k.work(ctx, i) })
	}
	k.keepLease(ctx)
	wg.Wait()
}

// Close ends the connections, after Run.
func (k *Keeper) Close() error { return k.store.close() }

// Win wants an identity's key at a generation, from now on and until GiveUp.
func (k *Keeper) Win(identity int, generation uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	x := k.keys[identity]
	if x.v.ownerRev != 0 && !k.mine(x) {
		x.seen = false // another had it a while ago
	}
	x.want = generation
	k.tell(identity)
	x.rouse()
}

// GiveUp wants it no more. When it returns, Leave has been told so, and only Win changes that.
func (k *Keeper) GiveUp(identity int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[identity].want = 0
	k.tell(identity)
	k.keys[identity].rouse()
}

// Release gives everything up and ends the lease, after Run: for a node that leaves.
func (k *Keeper) Release(ctx context.Context) error {
	for i := range k.keys {
		k.GiveUp(i)
	}
	k.mu.Lock()
	lease := k.lease
	k.mu.Unlock()
	if lease == 0 {
		return nil
	}
	if err := k.store.revoke(ctx, lease); err != nil {
		return fmt.Errorf("end the lease in etcd: %w: the keys go when it expires", err)
	}
	return nil
}

// Claims are what is known of each identity's key.
func (k *Keeper) Claims() []Claim {
	k.mu.Lock()
	defer k.mu.Unlock()
	var claims []Claim
	for _, x := range k.keys {
		claims = append(claims, Claim{Wanted: x.want, Generation: x.toldGen, UntilNS: x.told, Stored: x.v.stored, Holder: x.v.owner.Node})
	}
	return claims
}

// State is how the Keeper fares with etcd.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state
	s.Lease = k.lease != 0
	return s
}
