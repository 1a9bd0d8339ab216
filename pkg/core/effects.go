// SPDX-License-Identifier: Apache-2.0

package core

const (
	retryFirst = 100_000_000
	retryMost  = 30_000_000_000
)

// actuator is something that is on or off and takes time to change. A result that
// is unknown is made certain by asking again: the actions are idempotent.
type actuator struct {
	state    actState
	op       uint64 // in flight while turning
	deadline int64
	retryAt  int64
	backoff  int64
	tried    bool // the direction of the last turn
	reported bool
}

type actState int

const (
	actUnknown actState = iota
	actOff
	actTurningOn
	actOn
	actTurningOff
)

func (a *actuator) late(now int64) bool { return a.op != 0 && now >= a.deadline }

// effect is how an actuator is turned.
type effect struct {
	on, off func(op uint64) Action
	limit   int64
	// cut: turning off need not wait for the end of turning on.
	cut bool
}

// drive turns an actuator towards what is wanted.
func (m *Machine) drive(a *actuator, want bool, e effect) {
	switch {
	case want && (a.state == actOn || a.state == actTurningOn):
		return
	case !want && (a.state == actOff || a.state == actTurningOff):
		return
	case a.state == actTurningOff, a.state == actTurningOn && !e.cut:
		return
	case a.state == actUnknown && a.tried == want && m.now < a.retryAt:
		return
	}
	a.op, a.deadline, a.tried = m.op(), m.now+e.limit, want
	if want {
		a.state = actTurningOn
		m.emit(e.on(a.op))
	} else {
		a.state = actTurningOff
		m.emit(e.off(a.op))
	}
}

// settle takes the result of a turn and reports whether a failure is news.
func (m *Machine) settle(a *actuator, err string) (news bool) {
	a.op = 0
	if err == "" {
		if a.state == actTurningOn {
			a.state = actOn
		} else {
			a.state = actOff
		}
		a.backoff, a.retryAt, a.reported = 0, 0, false
		return false
	}
	a.state = actUnknown
	a.backoff = min(max(2*a.backoff, retryFirst), retryMost)
	a.retryAt = m.now + a.backoff
	news, a.reported = !a.reported, true
	return news
}

// wantAddresses: on the owner; ahead of it when so configured or when the owner
// asks for preparation; and after a release until the peer has taken it, so that
// no moment is without them.
func (m *Machine) wantAddresses(id *identity) bool {
	w := id.word
	switch {
	case w.Has(Owner), id.ho.phase == hoReleased:
		return true
	case m.leaving:
		return false
	case id.cfg.StagingAhead && id.has(m.cfg.Self):
		return true
	}
	return w.Has(Ready) && m.prepares(id)
}

// driveEffects keeps addresses, announcement and services behind the word. Losing
// ownership takes both away at once; gaining it goes in order.
func (m *Machine) driveEffects(id *identity) {
	if !id.known {
		return
	}
	lim := m.cfg.Limits
	carried := id.carry.op == 0 // else the device is about to be another one
	if carried {
		m.drive(&id.addr, m.wantAddresses(id), effect{
			on:    func(op uint64) Action { return AddAddresses{Op: op, Identity: id.index} },
			off:   func(op uint64) Action { return RemoveAddresses{Op: op, Identity: id.index} },
			limit: lim.Address,
		})
	}
	m.noteOwned(id)
	gen := id.word.Gen()
	serving := id.word.Has(Owner) && id.addr.state == actOn && carried
	if serving && (id.announced != gen || id.announceAgain) {
		id.announced, id.announceAgain = gen, false
		m.emit(Announce{Identity: id.index, Generation: gen})
	}
	running := id.svc.state == actOn || id.svc.state == actTurningOn
	cut := m.cutOff(id)
	run := id.word.Has(Owner) && !id.ho.phase.stops() && !m.abandons(id) && !cut
	if running {
		// Started under another generation: the peer may have run them since.
		run = run && id.svcGen == gen
	} else if run && !serving {
		return // they wait for the addresses
	}
	if len(id.cfg.Exclusive) == 0 {
		id.svc.state, id.svcGen = actOff, gen
		if run {
			id.svc.state = actOn
		}
		return
	}
	if !running && run {
		if m.mustWait(id) {
			return
		}
		id.svcGen = gen
	}
	m.drive(&id.svc, run, effect{
		on:    func(op uint64) Action { return StartServices{Op: op, Identity: id.index, Generation: gen} },
		off:   func(op uint64) Action { return StopServices{Op: op, Identity: id.index} },
		limit: lim.Service,
		cut:   true,
	})
}

func (m *Machine) addressResult(id *identity, err string) {
	adding := id.addr.state == actTurningOn
	if m.settle(&id.addr, err) {
		verb := "remove"
		if adding {
			verb = "add"
		}
		m.notify(KindAddressFailed, id, "%s addresses of %s: %s; tried again", verb, id.cfg.Name, err)
	}
}

func (m *Machine) serviceResult(id *identity, err string, refused bool) {
	starting := id.svc.state == actTurningOn
	reported := id.svc.reported
	news := m.settle(&id.svc, err)
	if starting && refused {
		id.svc.reported = reported
		return // it is tried again
	}
	if err == "" {
		if starting {
			delete(id.failed, startFailed)
		}
		return
	}
	verb := "stop"
	if starting {
		verb = "start"
		id.failed[startFailed] = true
	}
	if news {
		m.notify(KindServiceFailed, id, "%s services of %s: %s", verb, id.cfg.Name, err)
	}
	if !starting && id.ho.phase == hoStopping {
		if id.ho.force {
			id.ho.unclean = true // ordered: go on; stopping is tried again
			return
		}
		id.ho = m.endHandover(id, "services did not stop: "+err)
	}
}

// startFailed stands for the services as a whole among the failed ones.
const startFailed = "(start)"

// wantConcurrent: a frozen node leaves its services alone.
func (m *Machine) wantConcurrent() bool { return !m.leaving || m.keep }

func (m *Machine) concurrentOps() effect {
	if len(m.cfg.Concurrent) == 0 {
		m.concurrent.state = actOff
		if m.wantConcurrent() {
			m.concurrent.state = actOn
		}
	}
	return effect{
		on:    func(op uint64) Action { return StartConcurrent{Op: op} },
		off:   func(op uint64) Action { return StopConcurrent{Op: op} },
		limit: m.cfg.Limits.Service,
		cut:   true,
	}
}
