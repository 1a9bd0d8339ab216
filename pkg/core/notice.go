// SPDX-License-Identifier: Apache-2.0

package core

// nicWatch tells a NIC's failure from a flicker.
type nicWatch struct {
	badSince, wellSince int64
	bad                 bool
}

// lanChanged follows this node's NICs: a lost carrier counts at once, lost hosts
// after a while.
func (m *Machine) lanChanged() {
	for i, n := range m.obs.MyLan.nics() {
		w, name := &m.nics[i], nicNames[i]
		switch {
		case !n.Present:
			*w = nicWatch{}
			continue
		case n.Healthy():
			if w.bad {
				m.notify(KindLanBack, nil, "%s is back", name)
			}
			if w.wellSince == 0 {
				*w = nicWatch{wellSince: m.now}
			}
			continue
		case w.badSince == 0:
			*w = nicWatch{badSince: m.now}
		}
		if !w.bad && (!n.Carrier || m.now-w.badSince >= m.cfg.Limits.LanStable) {
			w.bad = true
			if n.Carrier {
				m.notify(KindLanLost, nil, "%s reaches %d of the %d listed hosts that it must", name, n.Reach, n.Majority)
			} else {
				m.notify(KindLanLost, nil, "%s has no carrier", name)
			}
		}
	}
}

// peerMemory is what was told last of a peer.
type peerMemory struct {
	boot         uint64
	supervisorOK bool
	deadAt       int64 // when it was seen to be dead
}

func (m *Machine) peersChanged(before []PeerView) {
	for _, p := range m.others() {
		if !m.seen {
			m.peers[p].supervisorOK = true
		}
		was := PeerUnknown
		if p < len(before) {
			was = before[p].State
		}
		m.peerChanged(p, was)
	}
}

func (m *Machine) peerChanged(p int, was PeerState) {
	v, known, name := m.view(p), &m.peers[p], m.cfg.Nodes[p]
	switch {
	case v.State == PeerUp && was != PeerUp && was != PeerSuspect:
		m.notify(KindPeerUp, nil, "%s is up", name)
	case v.State == PeerDead && was != PeerDead:
		known.deadAt = m.now
		m.notify(KindPeerDead, nil, "%s is dead", name)
	}
	if v.Boot != 0 && v.Boot != known.boot {
		if known.boot != 0 {
			m.notify(KindPeerRestarted, nil, "%s has restarted", name)
		}
		known.boot = v.Boot
		for _, id := range m.ids {
			id.peerBooted = !m.cfg.many()
		}
	}
	if v.State == PeerUp && v.SupervisorOK != known.supervisorOK {
		known.supervisorOK = v.SupervisorOK
		if v.SupervisorOK {
			m.notify(KindSupervisorBack, nil, "%s's supervisor is back", name)
		} else {
			m.notify(KindSupervisorLost, nil, "%s's kernel answers, but its supervisor does not run: %s", name, m.lostPolicy(v))
		}
	}
}

func (m *Machine) isolationChanged() {
	if m.obs.Isolated == m.isolated {
		return
	}
	m.isolated = m.obs.Isolated
	if m.isolated {
		m.notify(KindIsolated, nil, "this node is cut off: its gates are closed")
	} else {
		m.notify(KindIsolatedEnd, nil, "this node is no longer cut off")
	}
}

// lostPolicy says what follows from a lost supervisor.
func (m *Machine) lostPolicy(v PeerView) string {
	switch {
	case m.standby() || m.durable.Frozen || v.Frozen:
		return "nothing is done, for a node is frozen or in standby"
	case m.cfg.DemandIfLost:
		return "what it owns is demanded of its kernel"
	}
	return "its kernel releases what it owns when the lease ends"
}

func (m *Machine) linkChanged(e LinkChanged) {
	if e.Peer < 0 || e.Peer >= len(m.cfg.Nodes) {
		return
	}
	if e.Up {
		m.notify(KindLinkBack, nil, "link %s to %s is back", e.Link, m.cfg.Nodes[e.Peer])
	} else {
		m.notify(KindLinkLost, nil, "link %s to %s is lost; nothing moves for that", e.Link, m.cfg.Nodes[e.Peer])
	}
}

func (m *Machine) serviceState(e ServiceState) {
	failed, id := m.failed, (*identity)(nil)
	if e.Identity >= 0 {
		if e.Identity >= len(m.ids) {
			return
		}
		id = m.ids[e.Identity]
		failed = id.failed
	}
	switch {
	case e.Expired && failed[e.Service]:
		delete(failed, e.Service)
		m.notify(KindServiceExpired, id, "service %s failed here a while ago: it may be tried again", e.Service)
	case e.Expired:
	case e.Healthy && failed[e.Service]:
		delete(failed, e.Service)
		m.notify(KindServiceBack, id, "service %s is healthy again", e.Service)
	case !e.Healthy && !failed[e.Service]:
		failed[e.Service] = true
		m.notify(KindServiceFailed, id, "service %s: %s", e.Service, orUnknown(e.Err))
	}
}
