// SPDX-License-Identifier: Apache-2.0

package core

// standby reports whether this node takes nothing: as ordered, or because it is held.
func (m *Machine) standby() bool { return m.durable.Standby || m.held || m.returning && m.up() }

// hasBooted: the kernel's words are new, and this node may have owned something before.
func (m *Machine) hasBooted(o Observed) bool {
	floor := false
	for i, id := range m.ids {
		if i < len(o.Local) && o.Local[i] != 0 {
			return false
		}
		floor = floor || id.cfg.Floor > 0
	}
	return floor
}

// holdReturning decides, once the peer is up and its words say something, whether a node that has
// booted is held: the peer owns something at a generation above all that this node may have owned,
// and so has served what this node knows nothing of. With the peer dead nobody can tell, and
// served is better than dark. Only an order ends it, for only people and mirrors know what is on
// the disks; so it is saved as the standby that it is.
func (m *Machine) holdReturning() {
	if !m.returning || !m.up() {
		return
	}
	var news *identity
	for _, id := range m.ids {
		if id.peer == 0 && !id.word.Has(Owner) {
			return // it has booted, too
		}
		if m.peerOwns(id) && id.peer.Gen() > id.cfg.Floor {
			news = id
		}
	}
	m.returning = false
	if news == nil {
		return
	}
	m.held, m.want.Standby = true, true
	m.notify(KindHeld, nil, "%s is held in standby: %s has owned %s since; `xdpha standby off` when its data is back",
		m.cfg.Nodes[m.cfg.Self], m.peerName(), news.cfg.Name)
}
