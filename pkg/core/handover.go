// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
)

// handover is a planned change of owner, seen from the owner:
//
//	copying    OWNER: its data goes to the peer, services run
//	intent     OWNER|YIELD: the peer adds the addresses behind its gate
//	stopping   the peer is STAGED: exclusive services stop
//	last copy  they stopped: what has changed since goes to the peer
//	releasing  OWNER|YIELD -> YIELD
//	released   the peer's kernel takes it with the next frame
type handover struct {
	phase    hoPhase
	to       int // the node that shall take it
	gen      uint64
	cause    string
	force    bool
	unclean  bool   // forced although a service did not stop
	copy     uint64 // the Copy in flight; 0: none
	deadline int64
	commands []*command
}

type hoPhase int

const (
	hoNone hoPhase = iota
	hoCopying
	hoIntent
	hoStopping
	hoLastCopy
	hoReleasing
	hoReleased
)

var hoNames = [...]string{"", "copying", "intent", "stopping", "last copy", "releasing", "released"}

func (p hoPhase) String() string { return hoNames[p] }

// stops reports whether services are stopped, or stop, for it.
func (p hoPhase) stops() bool { return p == hoStopping || p == hoLastCopy || p == hoReleasing }

// beginHandover starts one to a node, or with -1 to the one that comes next, and reaches the
// clients if any does; or it joins the one that runs. It says why not.
func (m *Machine) beginHandover(id *identity, to int, cause string, force bool, c *command) string {
	if id.ho.phase == hoNone {
		if !id.word.Has(Owner) {
			return "this node does not own it"
		}
		if fits := m.fits(id); to == -1 && len(fits) > 0 {
			to = append(m.healthy(fits), fits...)[0]
		} else if to == -1 {
			return m.noneFits(id)
		}
		if why := m.cannot(id, to); why != "" {
			return why
		}
		id.peer = to
		id.ho = handover{phase: hoIntent, to: to, gen: id.word.Gen(), cause: cause, deadline: m.now + m.cfg.Limits.Stage}
		m.notify(KindHandover, id, "handing %s over to %s: %s", id.cfg.Name, m.peerName(id), cause)
		if id.cfg.Mirrored {
			m.copy(id, hoCopying, m.cfg.Limits.Copy)
		}
	}
	id.ho.force = id.ho.force || force
	if c != nil && !slices.Contains(id.ho.commands, c) {
		id.ho.commands = append(id.ho.commands, c)
	}
	return ""
}

// copy enters a phase that lasts until the data is copied.
func (m *Machine) copy(id *identity, phase hoPhase, limit int64) {
	ho := &id.ho
	ho.phase, ho.deadline, ho.copy = phase, m.now+limit, m.op()
	m.emit(Copy{Op: ho.copy, Identity: id.index, To: ho.to, Last: phase == hoLastCopy})
}

// copyResult: without its data an identity is not handed over, unless that is forced.
func (m *Machine) copyResult(id *identity, err string) {
	ho := &id.ho
	ho.copy = 0
	switch {
	case err != "" && !ho.force:
		id.ho = m.endHandover(id, "its data was not copied to "+m.peerName(id)+": "+err)
		return
	case err != "":
		m.notify(KindHandover, id, "%s goes to %s without the data that was not copied, as forced: %s", id.cfg.Name, m.peerName(id), err)
	}
	if ho.phase == hoCopying {
		ho.phase, ho.deadline = hoIntent, m.now+m.cfg.Limits.Stage
	} else {
		ho.phase, ho.deadline = hoReleasing, m.now+m.cfg.Limits.Stage
	}
}

// endHandover answers whoever waits and returns the empty hand-over. Going back is
// declarative: without a hand-over the owner's word is plain and services run.
func (m *Machine) endHandover(id *identity, err string) handover {
	if id.ho.phase == hoNone {
		return handover{}
	}
	if id.ho.copy != 0 {
		m.emit(CancelCopy{Op: id.ho.copy})
	}
	if err == "" {
		id.cause = KindHandoverDone
		m.notify(KindHandoverDone, id, "%s owns %s at generation %d", m.peerName(id), id.cfg.Name, m.theirs(id).Gen())
	} else {
		id.lastFailed = m.now
		m.notify(KindHandoverFailed, id, "%s: %s", id.cfg.Name, err)
	}
	for _, c := range id.ho.commands {
		c.resolve(id, err)
	}
	return handover{}
}

func (m *Machine) driveHandover(id *identity) {
	ho := &id.ho
	if ho.phase == hoNone {
		return
	}
	if ho.phase >= hoReleasing && !id.word.Has(Owner) {
		m.awaitTaking(id)
		return
	}
	if ho.phase == hoReleasing && (id.swap.op != 0 || id.stale) {
		return // it may be released already: services must not start again
	}
	if m.suspect(id) && m.now < ho.deadline {
		return // up or dead soon
	}
	if why := m.handoverBroken(id); why != "" {
		id.ho = m.endHandover(id, why)
		return
	}
	staged := m.theirs(id).Has(Ready | Staged)
	switch ho.phase {
	case hoCopying:
		if m.now >= ho.deadline {
			id.ho = m.endHandover(id, "its data was not copied in time")
		}
	case hoIntent:
		if staged && id.word.Has(Owner|Yield) {
			ho.phase, ho.deadline = hoStopping, m.now+m.cfg.Limits.Service
		} else if m.now >= ho.deadline {
			id.ho = m.endHandover(id, m.peerName(id)+" did not prepare in time")
		}
	case hoStopping:
		switch {
		case !staged:
			id.ho = m.endHandover(id, m.peerName(id)+" is no longer prepared")
		case id.svc.state != actOff && !ho.unclean:
			if m.now >= ho.deadline {
				id.ho = m.endHandover(id, "services did not stop in time")
			}
		case id.cfg.Mirrored:
			m.copy(id, hoLastCopy, m.cfg.Limits.LastCopy)
		default:
			ho.phase, ho.deadline = hoReleasing, m.now+m.cfg.Limits.Stage
		}
	case hoLastCopy:
		switch {
		case !staged:
			id.ho = m.endHandover(id, m.peerName(id)+" is no longer prepared")
		case m.now >= ho.deadline:
			m.emit(CancelCopy{Op: ho.copy})
			m.copyResult(id, "what has changed last was not copied in time")
		}
	case hoReleasing:
		if !staged || m.now >= ho.deadline {
			id.ho = m.endHandover(id, m.peerName(id)+" is no longer prepared")
		}
	}
}

func (m *Machine) handoverBroken(id *identity) string {
	if m.durable.Frozen && !m.leaving {
		return "this node was frozen"
	}
	return m.cannot(id, id.ho.to)
}

func (m *Machine) awaitTaking(id *identity) {
	switch {
	case m.peerOwns(id) && m.theirs(id).Gen() > id.ho.gen && id.peer != id.ho.to:
		id.ho = m.endHandover(id, fmt.Sprintf("%s took it, and not %s", m.peerName(id), m.cfg.Nodes[id.ho.to]))
	case m.peerOwns(id) && m.theirs(id).Gen() > id.ho.gen:
		id.ho = m.endHandover(id, "")
	case m.dead(id):
		id.ho = m.endHandover(id, m.peerName(id)+" died before it took it")
	case m.suspect(id): // it may have taken it
	case m.now >= id.ho.deadline:
		id.ho = m.endHandover(id, m.peerName(id)+" did not take it in time")
	}
}

// moveByItself begins the hand-overs that nobody at this node ordered.
func (m *Machine) moveByItself(id *identity) {
	if !id.word.Has(Owner) || id.ho.phase != hoNone || m.durable.Frozen || m.leaving {
		return
	}
	fits := m.fits(id)
	for _, p := range fits {
		if !m.view(p).word(id.index).Has(Want) {
			continue
		}
		if id.lastFailed == 0 || m.now-id.lastFailed >= m.cfg.Limits.MoveEvery {
			m.beginHandover(id, p, m.cfg.Nodes[p]+" asked for it", false, nil)
		}
		return
	}
	to, cause := m.reasonToMove(id, fits)
	left := m.moveWait(id)
	if cause == "" || left > 0 {
		m.sayHeld(id, cause, left)
		return
	}
	id.stays = false
	// Whoever moves again soon after the last time waits longer each time.
	every := m.cfg.Limits.MoveEvery
	if id.lastAuto != 0 && m.now-id.lastAuto < 10*max(id.hold, every) {
		id.hold = min(max(2*id.hold, every), 60*every)
	} else {
		id.hold = 0
	}
	id.lastAuto = m.now
	m.beginHandover(id, to, cause, false, nil)
}

// sayHeld tells once that an identity stays although there is a cause to move it.
func (m *Machine) sayHeld(id *identity, cause string, left int64) {
	if cause != "" && !id.stays {
		const second = 1_000_000_000
		m.notify(KindMoveHeld, id, "%s stays for %d s more, for it moved, or was to move, not long ago; then it goes: %s", id.cfg.Name, (left+second-1)/second, cause)
	}
	id.stays = cause != ""
}

// moveWait is how much longer an identity stays that would move by itself.
func (m *Machine) moveWait(id *identity) (left int64) {
	every := m.cfg.Limits.MoveEvery
	arrived, wait := id.arrived, max(id.hold, every)
	if !m.obs.MyLan.nics()[m.carrierOf(id)].Carrier {
		// A cable that is out serves nobody: twice it moves at once, and then waits as any other.
		arrived, wait = 0, id.hold
	}
	for _, last := range []struct{ at, wait int64 }{
		{id.lastAuto, wait}, {arrived, every}, {id.lastFailed, every},
	} {
		if last.at != 0 {
			left = max(left, last.at+last.wait-m.now)
		}
	}
	return left
}

// reasonToMove says why the owner should hand over by itself, and to which of those that could take
// it (-1: the one that comes next), or "".
func (m *Machine) reasonToMove(id *identity, fits []int) (to int, cause string) {
	healthy := m.healthy(fits)
	switch {
	case len(fits) > 0 && m.standby():
		return -1, "this node is in standby"
	case len(healthy) == 0:
		return -1, ""
	case m.dark(id):
		return healthy[0], "no NIC of this node that could carry it reaches the clients' network"
	case len(id.failed) > 0:
		return healthy[0], "its services failed on this node"
	case m.unwell() != "":
		return healthy[0], m.unwell() + " failed on this node"
	case m.failbackAt(id) != 0 && m.now >= m.failbackAt(id) && slices.Contains(healthy, id.cfg.Home):
		return id.cfg.Home, "it goes home"
	}
	return -1, ""
}

// healthy are those of some nodes that reach the clients' network, by whichever NIC.
func (m *Machine) healthy(nodes []int) (healthy []int) {
	for _, p := range nodes {
		if v := m.view(p).Lan; v.Lan.Healthy() || v.Spare.Healthy() {
			healthy = append(healthy, p)
		}
	}
	return healthy
}

// failbackAt is when an automatic give-back is due, 0 if none is.
func (m *Machine) failbackAt(id *identity) int64 {
	if id.cfg.Failback != "auto" || id.cfg.Home == m.cfg.Self || id.homeReadySince == 0 || m.durable.Frozen {
		return 0
	}
	return id.homeReadySince + id.cfg.FailbackAfter
}
