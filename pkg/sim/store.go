// SPDX-License-Identifier: Apache-2.0

package sim

// store is etcd: three members that are one linearizable store, with leases on a clock of its own.
// A node asks all members at once. A request, or its answer, may be lost or late; it may be carried
// out by each member, and long after its sender has given up.
type store struct {
	w      *world
	offset int64
	drift  float64

	revision int64
	leases   map[int64]*etcdLease
	views    []etcdView // by identity

	down      [members]bool
	cut       [][members]bool // by node: it does not reach that member
	former    int             // a member that is cut off from the others, which led them; -1: none
	leadsTo   int64           // until when it believes that it still does
	far       int64           // most that a request or an answer takes
	slow      int64           // and how much more, now
	straggles bool            // many requests are carried out after their sender gave up
}

const members = 3

// etcdLease is one, which ends by the store's clock.
type etcdLease struct{ ttl, ends int64 }

// etcdRecord is the value of an owner's key.
type etcdRecord struct {
	node int
	gen  uint64
	boot uint64
}

// etcdView is what the two keys of an identity are at a revision of the store.
type etcdView struct {
	revision        int64
	owner           etcdRecord
	ownerRev, lease int64 // 0: there is no owner's key
	stored          uint64
	storedRev       int64
}

// etcdAnswer is what a request came to.
type etcdAnswer struct {
	gone       bool // the lease is
	lease, ttl int64
	views      []etcdView
}

func newStore(w *world) *store {
	return &store{
		w: w, offset: w.rnd(s, 1000*s), drift: (2*w.r.Float64() - 1) * clockError,
		leases: map[int64]*etcdLease{}, views: make([]etcdView, len(w.ids)), cut: make([][members]bool, w.p.Nodes), former: -1,
		far: w.rnd(200*us, w.p.TTL/25),
	}
}

func (s *store) clock() int64 { return s.offset + int64(float64(s.w.now)*(1+s.drift)) }

// heal mends everything.
func (s *store) heal() {
	s.down, s.former, s.slow, s.straggles = [members]bool{}, -1, 0, false
	clear(s.cut)
}

// leads reports whether a member has a majority with it.
func (s *store) leads(m int) bool {
	up := 0
	for i, down := range s.down {
		if !down && i != s.former {
			up++
		}
	}
	return !s.down[m] && m != s.former && up > members/2
}

// electionTimeout is as long as a leader that hears no other member believes in itself after another
// one may lead: no lease is shorter than one and a half.
func (s *store) electionTimeout() int64 { return s.w.p.TTL / 2 }

// elect has another member lead: it does not know what is left of a lease, starts it anew, and adds
// what the former leader may still promise.
func (s *store) elect() {
	s.expire()
	for _, l := range s.leases {
		l.ends = s.clock() + l.ttl + s.electionTimeout()
	}
}

// depose cuts off the member that leads.
func (s *store) depose(m int) {
	s.former, s.leadsTo = m, s.clock()+s.electionTimeout()
	s.elect()
}

// believes reports whether a member confirms a lease that it cannot renew: the former leader does so
// for a while, and any longer for one whose end it has not heard of.
func (s *store) believes(m int, lease int64) bool {
	return lease != 0 && s.former == m && !s.down[m] && (s.clock() < s.leadsTo || s.leases[lease] == nil)
}

// expire removes what has ended.
func (s *store) expire() {
	for id, l := range s.leases {
		if l.ends <= s.clock() {
			s.end(id)
		}
	}
}

func (s *store) end(lease int64) {
	delete(s.leases, lease)
	for i := range s.views {
		if v := &s.views[i]; v.ownerRev != 0 && v.lease == lease {
			s.revision++
			v.owner, v.ownerRev, v.lease = etcdRecord{}, 0, 0
		}
	}
}

func (s *store) view(i int) etcdView {
	v := s.views[i]
	v.revision = s.revision
	return v
}

// What a request does when it is carried out.
type etcdRequest func(s *store) etcdAnswer

func grantLease(ttl int64) etcdRequest {
	return func(s *store) etcdAnswer {
		s.revision++
		s.leases[s.revision] = &etcdLease{ttl, s.clock() + ttl}
		return etcdAnswer{lease: s.revision, ttl: ttl}
	}
}

func renewLease(lease int64) etcdRequest {
	return func(s *store) etcdAnswer {
		l := s.leases[lease]
		if l == nil {
			return etcdAnswer{gone: true}
		}
		l.ends = s.clock() + l.ttl
		return etcdAnswer{ttl: l.ttl}
	}
}

func revokeLease(lease int64) etcdRequest {
	return func(s *store) etcdAnswer { s.end(lease); return etcdAnswer{} }
}

func lookAtKeys() etcdRequest {
	return func(s *store) (a etcdAnswer) {
		for i := range s.views {
			a.views = append(a.views, s.view(i))
		}
		return a
	}
}

func lookAtKey(i int) etcdRequest {
	return func(s *store) etcdAnswer { return etcdAnswer{views: []etcdView{s.view(i)}} }
}

func (s *store) unchanged(i int, v etcdView) bool {
	is := &s.views[i]
	return is.ownerRev == v.ownerRev && is.storedRev == v.storedRev || s.w.p.mutate("a key is taken unseen")
}

func takeKey(i int, v etcdView, r etcdRecord, lease int64) etcdRequest {
	return func(s *store) etcdAnswer {
		if s.leases[lease] == nil {
			return etcdAnswer{gone: true}
		}
		if s.unchanged(i, v) {
			s.revision++
			s.views[i] = etcdView{owner: r, ownerRev: s.revision, lease: lease, stored: r.gen, storedRev: s.revision}
		}
		return etcdAnswer{views: []etcdView{s.view(i)}}
	}
}

func dropKey(i int, v etcdView) etcdRequest {
	return func(s *store) etcdAnswer {
		if is := &s.views[i]; is.ownerRev != 0 && s.unchanged(i, v) {
			s.revision++
			is.owner, is.ownerRev, is.lease = etcdRecord{}, 0, 0
		}
		return etcdAnswer{views: []etcdView{s.view(i)}}
	}
}

// ask has every member carry out a request, and answers by the first one's answer; lease is that
// which the request renews, or 0.
func (s *store) ask(n *node, lease int64, do etcdRequest, answered func(a etcdAnswer)) {
	w := s.w
	first := true
	for m := range members {
		if s.cut[n.self][m] {
			continue
		}
		carryOut := func() {
			var a etcdAnswer
			switch {
			case s.leads(m):
				s.expire()
				a = do(s)
			case s.believes(m, lease):
				a = etcdAnswer{ttl: w.p.TTL}
			default:
				return
			}
			if s.cut[n.self][m] || w.chance(50) {
				return
			}
			w.after(s.travel(), func() {
				if first {
					first = false
					answered(a)
				}
			})
		}
		switch {
		case w.chance(50): // it is lost
		case w.chance(60) || s.straggles && w.chance(3):
			w.after(w.rnd(0, 5*w.p.TTL), carryOut)
		default:
			w.after(s.travel(), carryOut)
		}
	}
}

func (s *store) travel() int64 {
	d := s.w.rnd(100*us, s.far)
	if s.slow > 0 {
		d += s.w.rnd(0, s.slow)
	}
	return d
}
