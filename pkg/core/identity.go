// SPDX-License-Identifier: Apache-2.0

package core

import "fmt"

// identity is what the machine knows of one identity.
type identity struct {
	index int
	cfg   IdentityConfig

	known     bool // word has been observed
	word      Word // this node's
	peer      int  // the node that this one has to do with for it: see meet
	role      role
	cause     string // kind of the last change of owner
	lastClaim Word   // the owner word that this node last asked for
	released  bool   // this node was the last owner and nobody took it yet

	swap      swapOp
	swappedAt int64
	stale     bool // a swap failed: wait for a reading

	carry         actuator // on: the other NIC than its regular one carries it here
	addr, svc     actuator
	svcGen        uint64 // the generation that the services were started at
	wait          waiting
	rightless     rightless
	announced     uint64 // the generation that was last announced
	announceAgain bool

	ho           handover
	unownedSince int64 // since when nobody owns it although the peer is up; 0: not so
	unownedGen   uint64
	burnt        uint64 // the generation that this node has burnt its way to last
	uncovered    bool   // reported
	// peerBooted: the peer has booted, and its word has shown nothing of its daemon since: its
	// kernel adopts this node's generation before its daemon has looked at what it promised.
	peerBooted     bool
	homeReadySince int64 // since when its home node could take it; 0: it could not
	arrived        int64 // when it came here by hand-over
	lastAuto       int64 // the last automatic move
	hold           int64 // how long the next one must wait
	lastFailed     int64 // the last hand-over that failed
	stays          bool  // it would move, and waits: told
	twoOwners      bool
	wanted         uint64          // generation at which the key in etcd is wanted
	held           uint64          // and at which it was held when that was told last
	failed         map[string]bool // services that failed here
	asItIs         bool            // ordered: served here with the data that there is
}

// swapOp is a compare-and-swap in flight.
type swapOp struct {
	op       uint64
	old, new Word
	deadline int64
}

// role is this node's part in an identity.
type role int

const (
	roleUnknown  role = iota // not observed yet
	roleStandby              // not owner, not armed
	roleArmed                // not owner; the kernel may take it
	roleOwner                // owner
	roleYielding             // owner that asks the peer to prepare
	roleReleased             // was owner; the peer may take it
)

var roleNames = [...]string{"unknown", "standby", "armed", "owner", "yielding", "released"}

func (r role) String() string { return roleNames[r] }

func roleOf(w Word) role {
	switch {
	case w.Has(Owner | Yield):
		return roleYielding
	case w.Has(Owner):
		return roleOwner
	case w.Has(Yield):
		return roleReleased
	case w.Has(Ready):
		return roleArmed
	}
	return roleStandby
}

// follow takes a word that the kernel holds now. The kernel may have changed it
// several times since the last reading, so missing steps are put in.
func (m *Machine) follow(id *identity, w Word) {
	old, first := id.word, !id.known
	if !first && old == w {
		return
	}
	id.word, id.known = w, true
	to := roleOf(w)
	owned := id.role == roleOwner || id.role == roleYielding
	switch to {
	case roleOwner, roleYielding:
		if owned && old.Gen() != w.Gen() {
			m.becomeStandby(id)
			owned = false
		}
		if !owned {
			m.becomeOwner(id, m.causeOf(id, old, first))
		}
		if to == roleYielding {
			m.becomeYielding(id)
		} else if id.role == roleYielding {
			m.becomeOwnerAgain(id)
		}
	case roleReleased:
		switch {
		case id.role == roleReleased:
		case first: // found so at the start
			id.role, id.released = roleReleased, true
		case !owned:
			m.becomeOwner(id, KindTakeover)
			m.becomeReleased(id)
		default:
			m.becomeReleased(id)
		}
	case roleArmed:
		if owned {
			m.becomeStandby(id)
		}
		m.becomeArmed(id)
	case roleStandby:
		m.becomeStandby(id)
	}
}

// causeOf says why this node is the owner now.
func (m *Machine) causeOf(id *identity, old Word, first bool) string {
	switch {
	case first:
		return KindResume
	case id.released:
		return KindReclaim
	case id.lastClaim != 0 && id.word == id.lastClaim:
		return KindClaim
	case old.Has(Demand) && !m.dead(id):
		return KindStandDown
	case old.Has(Staged) && !m.dead(id):
		return KindHandoverIn
	case m.cfg.many() && !m.ownedBefore(id):
		return KindClaim
	}
	return KindTakeover
}

// leaveRole checks the predecessor of a change of role.
func (id *identity) leaveRole(to role, from ...role) {
	for _, r := range from {
		if id.role == r {
			id.role = to
			return
		}
	}
	panic(fmt.Sprintf("core: identity %s: %v cannot become %v", id.cfg.Name, id.role, to))
}

func (m *Machine) becomeOwner(id *identity, cause string) {
	id.leaveRole(roleOwner, roleUnknown, roleStandby, roleArmed, roleReleased)
	id.ho = m.endHandover(id, "it came back")
	id.cause, id.released, id.asItIs = cause, false, false // from here on its data is this node's
	clear(id.failed)                                       // failures of the last time are over
	if cause == KindHandoverIn {
		id.arrived = m.now
	}
	why := ""
	switch cause {
	case KindStandDown:
		why = fmt.Sprintf(": %s's kernel released it", m.peerName(id))
	case KindTakeover:
		if m.cfg.many() && m.up(id) {
			why = fmt.Sprintf(": %s released it", m.peerName(id))
			break
		}
		why = fmt.Sprintf(": %s is %v", m.peerName(id), m.view(id.peer).State)
	}
	m.notify(cause, id, "%s owns %s at generation %d%s", m.cfg.Nodes[m.cfg.Self], id.cfg.Name, id.word.Gen(), why)
}

func (m *Machine) becomeYielding(id *identity) {
	id.leaveRole(roleYielding, roleOwner, roleYielding)
}

func (m *Machine) becomeOwnerAgain(id *identity) {
	id.leaveRole(roleOwner, roleYielding)
}

func (m *Machine) becomeReleased(id *identity) {
	meant := id.ho.phase == hoReleasing && id.word.Gen() == id.ho.gen
	id.leaveRole(roleReleased, roleOwner, roleYielding)
	id.released = true
	if meant {
		id.ho.phase, id.ho.deadline = hoReleased, m.now+m.cfg.Limits.Release
		return
	}
	if m.abandons(id) {
		m.notify(KindLeaving, id, "%s is stopped: nobody could take it", id.cfg.Name)
		return
	}
	demander := m.peerName(id)
	if m.cfg.many() {
		demander = "another node"
	}
	why := "this node's supervisor was late, or " + demander + " demanded it, or has booted while this node did not serve"
	id.ho = m.endHandover(id, "the kernel released it: "+why)
	m.notify(KindLapsed, id, "the kernel released %s at generation %d: %s", id.cfg.Name, id.word.Gen(), why)
}

func (m *Machine) becomeArmed(id *identity) {
	id.leaveRole(roleArmed, roleUnknown, roleStandby, roleArmed, roleReleased)
}

func (m *Machine) becomeStandby(id *identity) {
	owned := id.role == roleOwner || id.role == roleYielding
	handed := id.ho.phase == hoReleasing // taken before the release was read back
	id.leaveRole(roleStandby, roleUnknown, roleStandby, roleArmed, roleOwner, roleYielding, roleReleased)
	if owned && !handed {
		id.ho = m.endHandover(id, "the peer took it")
		id.cause = KindLost
		m.notify(KindLost, id, "%s lost at generation %d", id.cfg.Name, id.word.Gen())
	}
}

// peerOwns reports whether the peer is owner by what is known now. What a dead
// peer said last does not count, nor a word that this node's will close.
func (m *Machine) peerOwns(id *identity) bool {
	return (m.up(id) || m.suspect(id)) && m.theirs(id).Has(Owner) && m.theirs(id).Gen() >= id.word.Gen()
}

// watch keeps the times that policy depends on.
func (m *Machine) watch(id *identity) {
	if m.suspect(id) {
		return // no news yet
	}
	if m.theirs(id).Flags() != 0 {
		id.peerBooted = false
	}
	known := m.up(id) || m.dead(id) && m.unsynced(id)
	if m.cfg.many() {
		known = !m.unheard()
	}
	unowned := known && !id.word.Has(Owner) && !m.peerOwns(id)
	switch {
	case !unowned:
		id.unownedSince, id.uncovered = 0, false
	case id.unownedSince == 0 || id.unownedGen != id.word.Gen():
		id.unownedSince, id.unownedGen = m.now, id.word.Gen()
	}
	switch {
	case !id.word.Has(Owner) || m.cannot(id, id.cfg.Home) != "":
		id.homeReadySince = 0
	case id.homeReadySince == 0:
		id.homeReadySince = m.now
	}
	if m.peerOwns(id) {
		id.released, id.asItIs = false, false // what was ordered while nobody owned it is over
	}
	rival := m.rival(id)
	two := rival >= 0
	if two && !id.twoOwners {
		who := "both nodes own " + id.cfg.Name
		if m.cfg.many() {
			who = m.cfg.Nodes[rival] + " owns " + id.cfg.Name + " too"
		}
		m.notify(KindTwoOwners, id, "%s: here generation %d, there %d", who, id.word.Gen(), m.view(rival).word(id.index).Gen())
	}
	if !two && id.twoOwners && id.word.Has(Owner) {
		id.announceAgain = true // the network may have learned the other place
	}
	id.twoOwners = two
}

// rival is another node that owns what this one owns, and has not heard of it yet; -1: there is none.
func (m *Machine) rival(id *identity) int {
	for _, p := range m.candidates(id) {
		w := m.view(p).word(id.index)
		if id.word.Has(Owner) && m.view(p).State == PeerUp && w.Has(Owner) && w.Gen() <= id.word.Gen() {
			return p
		}
	}
	return -1
}
