// SPDX-License-Identifier: Apache-2.0

package core

// standby reports whether this node takes nothing: as ordered, or because it is held.
func (m *Machine) standby() bool { return m.durable.Standby || m.held }

// holdReturning decides, when its peers are up for the first time, whether a node that has booted is
// held: one of them owns something that this node may own, or has just released it, and so has served what this node knows
// nothing of. With all of them dead nobody can tell, and served is better than dark. An order ends it,
// or with UntilSynced the mirrors do, for only people and mirrors know what is on the disks; it is
// saved as the standby that it is.
func (m *Machine) holdReturning() {
	if !m.returning {
		return
	}
	up, unheard := false, false
	for _, p := range m.others() {
		v := m.view(p)
		up, unheard = up || v.State == PeerUp, unheard || v.State == PeerUnknown
		if v.State != PeerUp {
			continue
		}
		for _, id := range m.ids {
			if w := v.word(id.index); id.has(m.cfg.Self) && (w.Has(Owner) || w.Has(Yield)) {
				m.returning, m.held, m.want.Standby = false, true, true
				m.want.Held = m.cfg.UntilSynced
				m.notify(KindHeld, nil, "%s is held in standby: %s has served %s meanwhile; %s",
					m.cfg.Nodes[m.cfg.Self], m.cfg.Nodes[p], id.cfg.Name, pick(m.cfg.UntilSynced, "it ends when its data is back", "`xdpha standby off` when its data is back"))
				return
			}
		}
	}
	m.returning = !up || unheard
}

// endHold ends by itself a hold that is until the data is back: of all that has data, another node owns it,
// which is there to copy it from, or is up and neither owns it nor has newer data. Then this node's is the newest,
// and to wait for more would leave it unserved.
func (m *Machine) endHold() {
	if !m.want.Held || !m.durable.Held {
		return
	}
	for _, id := range m.ids {
		if !id.cfg.Mirrored || !id.has(m.cfg.Self) {
			continue
		}
		if m.obs.unsynced(id.index) || !m.peerOwns(id) && !m.up(id) {
			return
		}
	}
	m.held, m.want.Standby, m.want.Held = false, false, false
	m.notify(KindHoldEnded, nil, "%s is no longer held: its data is back", m.cfg.Nodes[m.cfg.Self])
}
