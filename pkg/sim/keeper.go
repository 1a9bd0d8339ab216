// SPDX-License-Identifier: Apache-2.0

package sim

// keeper is pkg/arbiter/etcd's Keeper by what its package comment promises, as steps of the world's
// one thread; its methods have the names of those that they stand for.
type keeper struct {
	d              *daemon
	lease          int64 // 0: none
	until, renewed int64 // of the lease: once a key is seen to stand by it; and as renewed, not confirmed yet
	keys           []*etcdKey
}

// etcdKey is one identity's.
type etcdKey struct {
	want      uint64 // generation; 0: none
	v         etcdView
	seen      bool  // nothing of ours is under way that could have changed v
	condemned int64 // a removal of the key as written there may still be under way
	told      int64
	toldGen   uint64
	busy      bool // with a request, or before the next try
}

// Shares of the lease.
const (
	renewShare = 4
	callShare  = 10
	retryShare = 40
)

// startKeeper is of a daemon that starts. What an earlier one told the kernel ends first.
func startKeeper(d *daemon) *keeper {
	k := &keeper{d: d}
	for i := range d.n.w.ids {
		k.keys = append(k.keys, &etcdKey{})
		d.n.k.setLeave(i, 0, 0)
	}
	k.keepLease()
	return k
}

// surely is until when a lease lasts that was renewed by a request of that time.
func (k *keeper) surely(sent, ttl int64) int64 {
	p := &k.d.n.w.p
	if p.mutate("a lease counts from the answer") {
		sent = k.d.n.clock()
	}
	return sent + int64((float64(ttl)/(1+clockError)-float64(p.Linger))*(1-clockError))
}

func (k *keeper) win(i int, gen uint64) {
	x := k.keys[i]
	if x.v.ownerRev != 0 && !k.mine(x) {
		x.seen = false // another had it a while ago
	}
	x.want = gen
	k.tell(i)
	k.rouse(i)
}

func (k *keeper) giveUp(i int) {
	k.keys[i].want = 0
	if !k.d.n.w.p.mutate("a key is given up before the kernel knows") {
		k.tell(i)
	}
	k.rouse(i)
}

// release gives everything up and ends the lease, for a daemon that leaves.
func (k *keeper) release() {
	for i := range k.keys {
		k.giveUp(i)
	}
	if k.lease != 0 {
		k.d.n.w.etcd.ask(k.d.n, 0, revokeLease(k.lease), func(etcdAnswer) {})
	}
}

func (k *keeper) mine(x *etcdKey) bool {
	return x.v.ownerRev != 0 && x.v.owner.node == k.d.n.self && (x.v.owner.boot == k.d.n.k.boot || k.d.n.w.p.mutate("a key of an earlier boot is one's own"))
}

func (k *keeper) held(x *etcdKey) bool {
	p := &k.d.n.w.p
	return x.want != 0 && k.lease != 0 && k.mine(x) && (x.v.lease == k.lease || p.mutate("a key of an earlier boot is one's own")) &&
		(x.v.ownerRev > x.condemned || p.mutate("a key counts whose removal is under way"))
}

// tell says to the kernel until when a key is held, if that is new.
func (k *keeper) tell(i int) {
	x := k.keys[i]
	var until int64
	var gen uint64
	if k.held(x) {
		until, gen = k.until, x.v.owner.gen
	}
	if until == x.told && gen == x.toldGen {
		return
	}
	changed := gen != x.toldGen
	x.told, x.toldGen = until, gen
	k.d.n.k.setLeave(i, gen, until)
	if changed {
		k.d.n.news()
		k.d.hint()
	}
}

// rouse looks at a key again, unless something is under way for it.
func (k *keeper) rouse(i int) {
	if !k.keys[i].busy {
		k.later(i, 0)
	}
}

func (k *keeper) later(i int, after int64) {
	x := k.keys[i]
	x.busy = true
	k.d.alive(after, func() { x.busy = false; k.work(i) })
}

// work does what comes next for a key.
func (k *keeper) work(i int) {
	x := k.keys[i]
	w := k.d.n.w
	switch {
	case !x.seen:
		k.request(i, lookAtKey(i))
	case x.want == 0 && k.mine(x):
		x.condemned = max(x.condemned, x.v.ownerRev)
		k.request(i, dropKey(i, x.v))
	case x.want == 0 || k.lease == 0:
	case x.v.ownerRev != 0 && !k.mine(x):
	case x.want < x.v.stored && !w.p.mutate("a generation below the highest wins"):
	case k.held(x) && x.v.owner.gen == x.want:
	default:
		k.request(i, takeKey(i, x.v, etcdRecord{k.d.n.self, x.want, k.d.n.k.boot}, k.lease))
	}
}

func (k *keeper) request(i int, do etcdRequest) {
	x, ttl := k.keys[i], k.d.n.w.p.TTL
	x.busy = true
	lease := k.lease
	k.call(0, do, func(a *etcdAnswer) {
		if a == nil || a.gone {
			if a != nil {
				k.expired(lease)
			}
			x.seen = false
			k.later(i, ttl/retryShare)
			return
		}
		x.seen = true
		k.see(i, a.views[0])
		k.tell(i)
		k.later(i, 0)
	})
}

// call asks etcd, and has one answer: nil, if none comes in time.
func (k *keeper) call(lease int64, do etcdRequest, answered func(a *etcdAnswer)) {
	done := false
	once := func(a *etcdAnswer) {
		if !done {
			done = true
			answered(a)
		}
	}
	w := k.d.n.w
	w.etcd.ask(k.d.n, lease, do, func(a etcdAnswer) { k.d.alive(0, func() { once(&a) }) })
	k.d.alive(w.p.TTL/callShare, func() { once(nil) })
}

// see takes a view, unless a newer one is known: answers overtake each other.
func (k *keeper) see(i int, v etcdView) {
	if x := k.keys[i]; v.revision >= x.v.revision || k.d.n.w.p.mutate("an older answer counts") {
		x.v, x.seen = v, true
	}
}

// keepLease grants, renews and confirms the lease for ever.
func (k *keeper) keepLease() {
	ttl := k.d.n.w.p.TTL
	began := k.d.n.clock()
	again := func(ok bool) {
		wait := ttl / retryShare
		if ok {
			wait = max(0, ttl/renewShare-(k.d.n.clock()-began))
		}
		k.d.alive(wait, k.keepLease)
	}
	k.renewLease(func(ok bool) {
		if !ok {
			again(false)
			return
		}
		k.lookAtAll(again)
	})
}

func (k *keeper) renewLease(then func(ok bool)) {
	lease, sent := k.lease, k.d.n.clock()
	if lease == 0 {
		k.call(0, grantLease(k.d.n.w.p.TTL), func(a *etcdAnswer) {
			if a != nil {
				k.begin(a.lease, k.surely(sent, a.ttl))
			}
			then(a != nil)
		})
		return
	}
	k.call(lease, renewLease(lease), func(a *etcdAnswer) {
		switch {
		case a == nil:
		case a.gone:
			k.expired(lease)
		case k.lease == lease:
			k.renewed = max(k.renewed, k.surely(sent, a.ttl))
			if k.d.n.w.p.mutate("a renewal counts unseen") {
				k.until = k.renewed
			}
		}
		then(a != nil && !a.gone)
	})
}

func (k *keeper) begin(lease, until int64) {
	k.lease, k.until, k.renewed = lease, until, until
	for i := range k.keys {
		k.rouse(i)
	}
}

// expired ends everything that went with a lease.
func (k *keeper) expired(lease int64) {
	if k.lease != lease {
		return
	}
	k.lease = 0
	for i, x := range k.keys {
		x.seen = false
		k.tell(i)
		k.rouse(i)
	}
}

// lookAtAll reads all keys: it confirms what was renewed before.
func (k *keeper) lookAtAll(then func(ok bool)) {
	lease, renewed := k.lease, k.renewed
	k.call(0, lookAtKeys(), func(a *etcdAnswer) {
		if a == nil {
			then(false)
			return
		}
		if k.lease == lease {
			k.until = max(k.until, renewed)
		}
		for i := range k.keys {
			k.see(i, a.views[i])
			k.tell(i)
			k.rouse(i)
		}
		then(true)
	})
}
