// SPDX-License-Identifier: Apache-2.0

package core

// meet finds the counterpart: the owner, or who owned it last. Of what this node owns it is the node
// that it hands it over to. In a pair it is the other node.
func (m *Machine) meet(id *identity) {
	if !m.cfg.many() {
		return
	}
	highest := id.word.Gen()
	for _, p := range m.candidates(id) {
		if w := m.view(p).word(id.index); w.Has(Owner) && w.Gen() >= highest {
			id.peer, highest = p, w.Gen()
		}
	}
}

// unheard reports that a node has not been heard since this one started, and is not dead, or has
// another configuration: by that one it may own whatever it is, and the kernel takes nothing before it
// knows.
func (m *Machine) unheard() bool {
	for _, p := range m.others() {
		if m.view(p).State == PeerUnknown {
			return true
		}
	}
	return false
}

// behind reports that the kernel is about to adopt a higher generation.
func (m *Machine) behind(id *identity) bool {
	for _, p := range m.candidates(id) {
		if v := m.view(p); v.State == PeerUp && v.word(id.index).Gen() > id.word.Gen() {
			return true
		}
	}
	return false
}

// meant is who comes before all others: whom a yielded word names, or who is prepared for it or
// demands it; -1: nobody.
func (m *Machine) meant(id *identity) int {
	for _, p := range id.cfg.Prefer {
		w := m.view(p).word(id.index)
		if p == m.cfg.Self {
			w = id.word
		}
		if w.Gen() != id.word.Gen() {
			continue
		}
		if to, ok := w.To(); ok && w.Has(Yield) && id.has(to) {
			return to
		}
		if w.Has(Ready|Staged) || w.Has(Ready|Demand) {
			return p
		}
	}
	return -1
}

// order is in which the candidates come to take it.
func (m *Machine) order(id *identity) (nodes []int) {
	first := m.meant(id)
	if first >= 0 {
		nodes = append(nodes, first)
	}
	for _, p := range id.cfg.Prefer {
		if p != first {
			nodes = append(nodes, p)
		}
	}
	return nodes
}

// ownedBefore reports that somebody is known to have owned it.
func (m *Machine) ownedBefore(id *identity) bool {
	return id.released || m.theirs(id).Has(Owner) || m.theirs(id).Has(Yield)
}

// comes reports whether another node may take it now. What nobody has owned yet waits also for one
// that is not armed yet: all are about to be, and home comes first.
func (m *Machine) comes(id *identity, p int) bool {
	if m.ownedBefore(id) {
		return m.cannot(id, p) == ""
	}
	return m.absent(p) == ""
}

// rank is how many come before this node, of how many that may take it, with this one.
func (m *Machine) rank(id *identity) (rank, of int) {
	for _, p := range m.order(id) {
		switch {
		case p == m.cfg.Self:
			rank, of = of, of+1
		case m.comes(id, p):
			of++
		}
	}
	return rank, of
}

// heir is who would take it now, -1 if nobody would.
func (m *Machine) heir(id *identity) int {
	for _, p := range m.order(id) {
		mine := p == m.cfg.Self
		if mine && roleOf(id.word) == roleArmed || !mine && m.cannot(id, p) == "" {
			return p
		}
	}
	return -1
}

// mayTake reports whether an armed node shall win the key at the generation at which its kernel
// takes the identity: the owner hands it over to this node and it is prepared, or nobody owns it and
// it is this node's turn. Turns last for Release and go round, so that none waits for ever for one
// that has the key and cannot take.
func (m *Machine) mayTake(id *identity) bool {
	switch {
	case !id.has(m.cfg.Self), m.unheard(), m.behind(id):
		return false
	case m.peerOwns(id):
		return m.prepares(id) && id.addr.state == actOn
	case id.unownedSince == 0:
		return false // the owner was heard a moment ago
	}
	rank, of := m.rank(id)
	return (m.now-id.unownedSince)/m.cfg.Limits.Release%int64(of) == int64(rank)
}

// wantKeyOfMany: the owner needs the key when it cannot be sure of every grant, whoever is missing.
func (m *Machine) wantKeyOfMany(id *identity) uint64 {
	w := id.word
	switch {
	case w.Has(Owner):
		if !m.granted(id) || m.anySuspect(id) {
			return w.Gen()
		}
	case w.Has(Ready) && m.mayTake(id):
		return m.next(id, w.Gen())
	}
	return 0
}

func (m *Machine) anySuspect(id *identity) bool {
	for _, p := range m.candidates(id) {
		if m.view(p).State == PeerSuspect {
			return true
		}
	}
	return false
}

// releasedWordOfMany: what nobody takes goes the way of all that nobody owns, through the key. At
// this generation it is never owned again.
func (m *Machine) releasedWordOfMany(id *identity) Word {
	g := id.word.Gen()
	switch {
	case m.standby(), m.leaving:
	case (m.overdue(id) || len(m.fits(id)) == 0) && m.promise(id, m.next(id, g)):
		return MakeWord(Ready, g)
	}
	return id.word
}

// standbyWordOfMany arms, asks, stages and demands. It claims nothing: that is for the key.
func (m *Machine) standbyWordOfMany(id *identity) Word {
	w, g := id.word, id.word.Gen()
	if !id.has(m.cfg.Self) {
		return MakeWord(0, g)
	}
	free := !m.standby() && !m.leaving
	mayArm := free && (!m.durable.Frozen || id.released) // a frozen node only gets back what it had
	if free {
		m.promise(id, m.next(id, g))
		m.promise(id, m.next(id, m.outOfReach(id)))
	}
	switch {
	case m.unheard():
		if !mayArm {
			w &^= Ready | Staged
		}
		return w
	case m.behind(id):
		return w
	case m.superseded(id):
		return m.supersede(id, mayArm)
	case m.overdue(id) && !mayArm && m.heir(id) < 0:
		m.reportUncovered(id)
	}
	var f Word
	if mayArm && m.durable.Generations[id.cfg.Name] >= m.next(id, g) {
		f |= Ready | m.claim(id)
		if m.stagedOfMany(id) {
			f |= Staged
		}
		if m.demands(id) {
			f |= Demand
		}
	}
	if free && m.requested(id) && m.peerOwns(id) && m.theirs(id).Gen() == g {
		f |= Want
	}
	return MakeWord(f, g)
}

// claim is what shows whose it is once it is released, until somebody owns it.
func (m *Machine) claim(id *identity) Word {
	if !m.cfg.many() || m.peerOwns(id) {
		return 0
	}
	return id.word & (Staged | Demand)
}

// stagedOfMany: with the key in hand the kernel follows the release at once. It cannot be had before
// the release if the owner itself holds it, or if etcd knows a higher generation (see
// supersededOfMany).
func (m *Machine) stagedOfMany(id *identity) bool {
	k, next := m.key(id), m.next(id, id.word.Gen())
	return m.prepares(id) && id.addr.state == actOn && (k.Elsewhere || k.Held == next || m.outOfReach(id) != 0)
}

// supersededOfMany: to win the key at a higher generation is not to own it yet, as when a hand-over
// is called off. An owner goes by it when it has no right of its own left; another one when it would
// take what nobody owns and could not win the key, unless somebody else holds it and may be about to.
func (m *Machine) supersededOfMany(id *identity) bool {
	k := m.key(id)
	if id.word.Has(Owner) {
		return !m.granted(id) && k.Held == 0 && id.ho.phase == hoNone
	}
	return !m.peerOwns(id) && m.mayTake(id) && m.outOfReach(id) != 0 && !k.Elsewhere
}

// outOfReach is the generation that etcd knows if it is above the one at which this node would win the
// key, and 0 if not.
func (m *Machine) outOfReach(id *identity) uint64 {
	if stored := m.key(id).Stored; stored > m.next(id, id.word.Gen()) {
		return stored
	}
	return 0
}
