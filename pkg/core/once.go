// SPDX-License-Identifier: Apache-2.0

package core

// A service that must run once is started here when it has ended elsewhere. Who owns is not enough
// for that: a node whose daemon does not act loses its identities by its kernel alone. There a guard
// ends what runs, and the frames say when it has (PeerView.Runs). A node that is not heard cannot say
// so; its guard ends what runs a known time after its right to serve (IdentityConfig.AfterSilence). That
// right may have outlived its death here, by a key in etcd or the listed hosts' leave, but not the moment
// in which this node came to own.

// waiting is why services that shall start do not start yet.
type waiting struct {
	gen   uint64 // what is known here is of the ownership at this generation
	since int64  // when that was first seen
	until int64  // how long a peer is waited for that says that they run there; 0: none has said so
	told  waitCause
	over  bool // it was waited for long enough
}

type waitCause int

const (
	waitNone   waitCause = iota
	waitNews             // a node that is heard has not shown that it knows who owns: it will in a moment
	waitRuns             // a node says that they run there
	waitSilent           // a node is silent, and cannot have ended them yet
)

// mustWait reports that services may still run on another node, or that it was told to wait longer.
func (m *Machine) mustWait(id *identity) bool {
	w := &id.wait
	cause, p := m.holder(id)
	if cause == waitRuns && w.until == 0 {
		w.until = m.now + m.cfg.Limits.PeerServices
	}
	name, peer := id.cfg.Name, m.cfg.Nodes[p]
	switch {
	case cause == waitNone, w.over:
		return false
	case cause == waitRuns && m.now >= w.until:
		w.over = true
		m.notify(KindServicesUnconfirmed, id, "%s has not said within %v that the services of %s have ended there: they start here all the same; look there, and end them or the node", peer, duration(m.cfg.Limits.PeerServices), name)
		return false
	case cause == w.told, cause == waitNews:
		return true
	case cause == waitRuns:
		m.notify(KindServicesWait, id, "the services of %s wait until they have ended on %s, for %v at most", name, peer, duration(m.cfg.Limits.PeerServices))
	default:
		m.notify(KindServicesWait, id, "the services of %s wait until %s, if it lives, has ended them: for %v of its silence", name, peer, duration(id.cfg.AfterSilence))
	}
	w.told = cause
	return true
}

// noteOwned remembers since when this node owns, for those that may have owned until then.
func (m *Machine) noteOwned(id *identity) {
	if gen := id.word.Gen(); id.word.Has(Owner) && id.wait.gen != gen {
		id.wait = waiting{gen: gen, since: m.now, over: id.cfg.Runs && id.cause == KindResume} // they may run here already
	}
}

// holder is a node that says that the services run there, or one that cannot say; who says comes first.
// What was under way when two nodes lost sight of each other may arrive late, and makes one look alive
// for a moment that is not heard any more: its words count when they show this ownership.
func (m *Machine) holder(id *identity) (cause waitCause, p int) {
	for _, other := range m.candidates(id) {
		v, from, silent := m.view(other), id.wait.since, waitNews
		if v.State == PeerDead {
			if silent = waitSilent; id.cause == KindHandoverIn {
				from = 0 // from a node that had stopped them: nobody owned in between
			}
			from = max(from, m.peers[other].deadAt)
		}
		switch {
		case v.State == PeerUnknown, v.State == PeerDead && m.obs.Fenced:
		case v.runs(id.index) && (v.State != PeerDead || m.goesOn(v)):
			return waitRuns, other
		case m.now-from < id.cfg.AfterSilence && v.mayRun(id):
			if silent > cause {
				cause, p = silent, other
			}
		}
	}
	return cause, p
}

// goesOn is whether a silent node does not end what it runs: it asks nobody for its right, so it does
// not know that it is cut off, or it was told to leave everything where it is. Its own word tells, or
// the fence agent's. Without an arbiter it is not waited for.
func (m *Machine) goesOn(v PeerView) bool {
	return m.cfg.EndAfter != 0 && v.Frozen || m.cfg.EndAfter == 0 && m.cfg.Fence
}

// runs is whether services of an identity that must run once may run on a node, as it said last.
func (v PeerView) runs(identity int) bool { return identity < len(v.Runs) && v.Runs[identity] }

// mayRun: a node may run what it said, or could have started; one that was never heard, anything; and so
// may one that did not know yet that this node owns, for it may have taken it itself, before or by now.
func (v PeerView) mayRun(id *identity) bool {
	word := v.word(id.index)
	return v.Boot == 0 || v.runs(id.index) || word.Has(Owner) || word.Gen() < id.word.Gen()
}

// rightless is the time for which an owner has had no right to serve.
type rightless struct {
	since int64 // 0: it has the right
	told  bool
}

// cutOff reports that this node has owned without the right to serve for so long that its services
// must end, for another node may be about to start them. A frozen network moves nothing.
func (m *Machine) cutOff(id *identity) bool {
	r := &id.rightless
	if m.cfg.EndAfter == 0 || !id.word.Has(Owner) || m.granted(id) || m.key(id).Held != 0 || m.durable.Frozen {
		*r = rightless{}
		return false
	}
	if r.since == 0 {
		r.since = m.now
	}
	if m.now-r.since < m.cfg.EndAfter {
		return false
	}
	if !r.told && id.svc.state != actOff {
		r.told = true
		m.notify(KindServicesEnded, id, "the services of %s are stopped until this node may serve again: for %v neither another node nor the arbiter has let it", id.cfg.Name, duration(m.cfg.EndAfter))
	}
	return true
}

// servicesEnded: past this machine an identity's services have ended. If they shall run they are stopped
// as far as is known here, and started. While they are started anyway a refusal is no news.
func (m *Machine) servicesEnded(e ServicesEnded) {
	if e.Identity < 0 || e.Identity >= len(m.ids) {
		return
	}
	id := m.ids[e.Identity]
	switch {
	case !e.Refused:
		m.notify(KindServicesEnded, id, "the guard has ended the services of %s, for this daemon did not act", id.cfg.Name)
	case id.svc.state == actOn:
		m.notify(KindServicesEnded, id, "a service of %s was not let start again, for nobody let this node serve it: all are stopped, and started when it may", id.cfg.Name)
	default:
		return
	}
	id.svcGen = 0 // of no ownership
}
