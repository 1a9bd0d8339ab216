// SPDX-License-Identifier: Apache-2.0

package core

// standby reports whether this node takes nothing: as ordered, or because it is held.
func (m *Machine) standby() bool { return m.durable.Standby || m.held }

// holdReturning decides, when the peer is up for the first time, whether a node that has booted is
// held: the peer owns something, or has just released it, and so has served what this node knows
// nothing of. With the peer dead nobody can tell, and served is better than dark. Only an order ends
// it, for only people and mirrors know what is on the disks; so it is saved as the standby that it is.
func (m *Machine) holdReturning() {
	if !m.returning || !m.up() {
		return
	}
	m.returning = false
	for _, id := range m.ids {
		if id.peer.Has(Owner) || id.peer.Has(Yield) {
			m.held, m.want.Standby = true, true
			m.notify(KindHeld, nil, "%s is held in standby: %s has served %s meanwhile; `xdpha standby off` when its data is back",
				m.cfg.Nodes[m.cfg.Self], m.peerName(), id.cfg.Name)
			return
		}
	}
}
