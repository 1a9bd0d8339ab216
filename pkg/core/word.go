// SPDX-License-Identifier: Apache-2.0

package core

// driveWord asks for the word that the policy wants, one swap at a time.
func (m *Machine) driveWord(id *identity) {
	if !id.known || id.swap.op != 0 || id.stale {
		return
	}
	var want Word
	switch {
	case id.word.Has(Owner):
		want = m.ownerWord(id)
	case id.word.Has(Yield) && m.cfg.many():
		want = m.releasedWordOfMany(id)
	case id.word.Has(Yield):
		want = m.releasedWord(id)
	case m.cfg.many():
		want = m.standbyWordOfMany(id)
	default:
		want = m.standbyWord(id)
	}
	if want == id.word {
		return
	}
	if want.Has(Owner) && !id.word.Has(Owner) {
		id.lastClaim = want
	}
	id.swap = swapOp{op: m.op(), old: id.word, new: want, deadline: m.now + m.cfg.Limits.Swap}
	m.emit(Swap{Op: id.swap.op, Identity: id.index, Old: id.word, New: want})
}

func (m *Machine) ownerWord(id *identity) Word {
	g := id.word.Gen()
	if m.superseded(id) {
		return m.supersede(id, false)
	}
	// Ahead of need, so that a release that nobody takes can be undone without
	// waiting for a disk.
	m.promise(id, m.next(id, g+1))
	switch id.ho.phase {
	case hoIntent, hoStopping, hoLastCopy:
		return MakeWord(Owner|Yield|m.target(id), g)
	case hoReleasing:
		return MakeWord(Yield|m.target(id), g)
	}
	if m.abandons(id) && id.svc.state == actOff {
		return MakeWord(Yield, g) // for the peer, whenever it comes
	}
	return MakeWord(Owner, g)
}

// target names the node that a hand-over is to; in a pair nobody asks.
func (m *Machine) target(id *identity) Word {
	if m.cfg.many() {
		return ToNode(id.ho.to)
	}
	return 0
}

// releasedWord takes back what the peer did not take.
func (m *Machine) releasedWord(id *identity) Word {
	if m.standby() || m.leaving {
		return id.word
	}
	g := id.word.Gen()
	switch {
	case m.dead(id):
		// The next generation here too: the peer may have been wrongly declared dead,
		// and the frame that released this one may still reach it.
		if m.promise(id, m.next(id, g+1)) {
			return MakeWord(Ready|Want, g+1)
		}
	case m.overdue(id), m.up(id) && id.ho.phase == hoNone && m.theirs(id).Gen() == g && !m.theirs(id).Has(Ready):
		return m.burn(id) // at once if the peer is not armed: it will not take it
	}
	return id.word
}

// burn moves to the next generation without owning it, which ends every claim to
// the present one: the peer's kernel adopts it with the first frame and no longer
// follows a frame that released the old one. Taking the released word back at its
// own generation could make two owners, because the peer's kernel may be doing the
// same in this moment. With Want in the very word that makes the peer adopt the
// generation, the peer knows whose claim it is. The claim itself waits until the
// peer's word shows that generation (see mayClaim). So does the next burning: a node that stood still
// knows nothing of what the peer took meanwhile, and would get past that by the second one. Nor is
// anything burnt while the peer is suspected: what it has taken shows with its next frame.
func (m *Machine) burn(id *identity) Word {
	g := id.word.Gen()
	shown := m.up(id) && m.theirs(id).Gen() >= g
	if m.suspect(id) || id.burnt == g && !shown || !m.promise(id, m.next(id, g+1)) {
		return id.word
	}
	id.burnt = g + 1
	return MakeWord(Want, g+1)
}

// next is the least generation above gen that this node may own: of its own residue, so that no
// generation is ever owned by two nodes, and above all that it may have owned before it booted.
// The kernel counts in the same way.
func (m *Machine) next(id *identity, gen uint64) uint64 {
	gen = max(gen, id.cfg.Floor) + 1
	nodes := uint64(len(m.cfg.Nodes))
	return gen + (uint64(m.cfg.Self)+nodes-gen%nodes)%nodes
}

// overdue reports that nobody has taken it for so long that somebody must act.
func (m *Machine) overdue(id *identity) bool {
	return id.unownedSince != 0 && m.now-id.unownedSince >= m.cfg.Limits.Release
}

// standbyWord arms, claims, asks and stages.
func (m *Machine) standbyWord(id *identity) Word {
	w, g := id.word, id.word.Gen()
	free := !m.standby() && !m.leaving
	whole := !m.unsynced(id) && (m.unwell() == "" || m.dead(id)) // served badly is better than dark
	mayArm := free && whole && !m.failedHere(id) && (!m.durable.Frozen || w.Has(Want) && !m.peerOwns(id))
	if free {
		m.promise(id, m.next(id, g))
	}
	if m.view(id.peer).State == PeerUnknown { // hold after boot
		if !mayArm {
			w &^= Ready | Staged
		}
		return w
	}
	if g < id.cfg.Floor && !m.leaving && !m.peerOwns(id) {
		return m.raise(id, mayArm)
	}
	if m.superseded(id) {
		return m.supersede(id, mayArm)
	}
	if m.up(id) && m.theirs(id).Gen() > g {
		return w // the kernel is about to adopt it
	}
	if m.mayClaim(id) {
		if m.promise(id, m.next(id, g)) {
			return MakeWord(Owner, m.next(id, g))
		}
		return w
	}
	switch {
	case !m.overdue(id):
	case free && whole && !m.durable.Frozen:
		if b := m.burn(id); b != w {
			return b
		}
	default:
		m.reportUncovered(id)
	}
	var f Word
	if mayArm && m.durable.Generations[id.cfg.Name] >= m.next(id, g) {
		f |= Ready
		if m.prepares(id) && id.addr.state == actOn {
			f |= Staged
		}
	}
	switch {
	case !free:
	case !m.peerOwns(id):
		f |= w & Want // a claim, kept until somebody owns it
	case m.requested(id) && m.theirs(id).Gen() == g:
		f |= Want
	}
	if f.Has(Ready) && m.demands(id) {
		f |= Demand
	}
	return MakeWord(f, g)
}

// prepares reports whether this node prepares to take what the peer hands over. What is prepared
// stays so in a short silence: the peer does not know of it, and goes on.
func (m *Machine) prepares(id *identity) bool {
	w, p := id.word, m.theirs(id)
	heard := m.up(id) || m.suspect(id) && w.Has(Staged)
	if m.claim(id).Has(Staged) {
		return true
	}
	return heard && p.Has(Yield) && p.Gen() == w.Gen() && m.meansMe(p)
}

// meansMe: what a pair's node yields can only be for the other one.
func (m *Machine) meansMe(w Word) bool {
	to, _ := w.To()
	return to == m.cfg.Self || !m.cfg.many()
}

// demands reports whether the peer's kernel shall be asked to release an identity, past its
// supervisor: it is lost and the policy says so, or this is ordered and nothing else helped.
func (m *Machine) demands(id *identity) bool {
	if !m.up(id) || !m.peerOwns(id) || m.theirs(id).Gen() != id.word.Gen() {
		return false
	}
	owner := m.view(id.peer)
	lost := m.cfg.DemandIfLost && !owner.SupervisorOK && !owner.Frozen
	return m.forced(id) || lost && (!m.cfg.many() || m.heir(id) == m.cfg.Self)
}

// raise brings a word that a reboot has cleared up to what this node promised
// before: it may have owned that generation, so the next owner must come after it.
// Not while the peer owns: its words count, and the promise covers the next one.
func (m *Machine) raise(id *identity, mayArm bool) Word {
	switch {
	case m.up(id) && !m.theirs(id).Has(Yield):
		return MakeWord(0, id.cfg.Floor)
	case m.dead(id) && mayArm && m.promise(id, m.next(id, id.cfg.Floor)):
		return MakeWord(Ready, id.cfg.Floor)
	}
	return id.word
}

// mayClaim reports whether this node may make itself owner while the peer is up.
// Both nodes show the same generation, so neither is behind; and of the two only
// one has the right to it: see the package comment.
func (m *Machine) mayClaim(id *identity) bool {
	w, p := id.word, m.theirs(id)
	switch {
	case !m.up(id) || m.obs.Isolated || m.standby() || m.leaving:
		return false
	case m.durable.Frozen && !w.Has(Want): // a frozen node only gets back what it had
		return false
	case m.unsynced(id):
		return false
	case p.Has(Owner) || p.Gen() != w.Gen():
		return false
	case m.key(id).Elsewhere: // somebody serves by it whom nobody here hears
		return false
	case p.Has(Yield) && w.Has(Ready): // the kernel does it
		return false
	case id.peerBooted && !m.overdue(id):
		return false // it may have promised more than it knows of, and says so soon
	case id.cfg.Home == m.cfg.Self:
		return !p.Has(Want) || w.Has(Want)
	}
	return w.Has(Want) && !p.Has(Want)
}

func (m *Machine) reportUncovered(id *identity) {
	if id.uncovered {
		return
	}
	id.uncovered = true
	why := "while it is in standby, frozen or leaving"
	switch {
	case m.unsynced(id) && m.obs.unasked(id.index):
		why = "for " + m.peerName(id) + " is heard and its mirrors have not answered whether they have newer data: see the troubles of `xdpha status`; `xdpha move --force` takes it all the same"
	case m.unsynced(id):
		why = "for its copy of the data is not whole; `xdpha move --force` takes it all the same"
	}
	m.notify(KindUncovered, id, "nobody owns %s, and this node may not %s", id.cfg.Name, why)
}

// unwell is a vital service that failed on this node, or "".
func (m *Machine) unwell() string {
	for _, s := range m.cfg.Vital {
		if m.failed[s] {
			return s
		}
	}
	return ""
}

// failedHere: services of it failed on this node, and that counts still. It is not taken back for that
// time, unless the peer dies, or it is ordered here.
func (m *Machine) failedHere(id *identity) bool {
	for s := range id.failed {
		if s != startFailed && !m.dead(id) && !m.requested(id) { // of startFailed there is one with a name, which expires
			return true
		}
	}
	return false
}

// unsynced: with a copy of the data that is not whole, or is older than another node's, services do
// not start here.
func (m *Machine) unsynced(id *identity) bool {
	return id.cfg.Mirrored && m.obs.unsynced(id.index) && !id.asItIs
}
