// SPDX-License-Identifier: Apache-2.0

package core

// standby reports whether this node takes nothing: as ordered, or because it is held.
func (m *Machine) standby() bool { return m.durable.Standby || m.held }

// holdReturning decides, when its peers are up for the first time, whether a node that has booted is
// held: one of them owns something that this node may own, or has just released it, and so has served what this node knows
// nothing of. With all of them dead nobody can tell, and served is better than dark. Only an order ends
// it, for only people and mirrors know what is on the disks; so it is saved as the standby that it is.
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
				m.notify(KindHeld, nil, "%s is held in standby: %s has served %s meanwhile; `xdpha standby off` when its data is back",
					m.cfg.Nodes[m.cfg.Self], m.cfg.Nodes[p], id.cfg.Name)
				return
			}
		}
	}
	m.returning = !up || unheard
}
