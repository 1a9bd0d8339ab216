// SPDX-License-Identifier: Apache-2.0

package core

// nicWatch tells a NIC's failure from a flicker.
type nicWatch struct {
	badSince int64
	bad      bool
}

// carrier returns the NIC that carries an identity: at home lan, away spare, or
// lan where there is no spare.
func carrier(v LanView, home bool) NIC {
	if !home && v.Spare.Present {
		return v.Spare
	}
	return v.Lan
}

func (m *Machine) carrierWatch(id *identity) nicWatch {
	if id.cfg.Home != m.cfg.Self && m.obs.MyLan.Spare.Present {
		return m.nics[1]
	}
	return m.nics[0]
}

// lanChanged follows this node's NICs: a lost carrier counts at once, lost hosts
// after a while.
func (m *Machine) lanChanged() {
	for i, n := range []NIC{m.obs.MyLan.Lan, m.obs.MyLan.Spare} {
		w, name := &m.nics[i], [...]string{"lan", "spare"}[i]
		switch {
		case !n.Present:
			*w = nicWatch{}
			continue
		case n.Healthy():
			if w.bad {
				m.notify(KindLanBack, nil, "%s is back", name)
			}
			*w = nicWatch{}
			continue
		case w.badSince == 0:
			w.badSince = m.now
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

func (m *Machine) peerChanged(before PeerState) {
	o := m.obs
	if before != o.Peer {
		switch o.Peer {
		case PeerUp:
			if before != PeerSuspect {
				m.notify(KindPeerUp, nil, "%s is up", m.peerName())
			}
		case PeerDead:
			m.notify(KindPeerDead, nil, "%s is dead", m.peerName())
		}
	}
	if o.PeerBoot != 0 && o.PeerBoot != m.peerBoot {
		if m.peerBoot != 0 {
			m.notify(KindPeerRestarted, nil, "%s has restarted", m.peerName())
		}
		m.peerBoot = o.PeerBoot
		for _, id := range m.ids {
			id.peerBooted = true
		}
	}
	if m.up() && o.PeerSupervisorOK != m.peerSupOK {
		m.peerSupOK = o.PeerSupervisorOK
		if m.peerSupOK {
			m.notify(KindSupervisorBack, nil, "%s's supervisor is back", m.peerName())
		} else {
			m.notify(KindSupervisorLost, nil, "%s's kernel answers, but its supervisor does not run: %s", m.peerName(), m.lostPolicy())
		}
	}
	if o.Isolated != m.isolated {
		m.isolated = o.Isolated
		if m.isolated {
			m.notify(KindIsolated, nil, "this node is cut off: its gates are closed")
		} else {
			m.notify(KindIsolatedEnd, nil, "this node is no longer cut off")
		}
	}
}

// lostPolicy says what follows from a lost supervisor.
func (m *Machine) lostPolicy() string {
	switch {
	case m.standby() || m.durable.Frozen || m.obs.PeerFrozen:
		return "nothing is done, for a node is frozen or in standby"
	case m.cfg.DemandIfLost:
		return "what it owns is demanded of its kernel"
	}
	return "its kernel releases what it owns when the lease ends"
}

func (m *Machine) linkChanged(e LinkChanged) {
	if e.Up {
		m.notify(KindLinkBack, nil, "link %s to %s is back", e.Link, m.peerName())
	} else {
		m.notify(KindLinkLost, nil, "link %s to %s is lost; nothing moves for that", e.Link, m.peerName())
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
	case e.Healthy && failed[e.Service]:
		delete(failed, e.Service)
		m.notify(KindServiceBack, id, "service %s is healthy again", e.Service)
	case !e.Healthy && !failed[e.Service]:
		failed[e.Service] = true
		m.notify(KindServiceFailed, id, "service %s: %s", e.Service, orUnknown(e.Err))
	}
}
