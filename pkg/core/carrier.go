// SPDX-License-Identifier: Apache-2.0

package core

import "slices"

// The NICs that may carry an identity, as numbered in Machine.nics.
const (
	nicLan = iota
	nicSpare
)

var nicNames = [...]string{nicLan: "lan", nicSpare: "spare"}

// regular is the NIC that carries an identity as a rule: at home lan, away spare, or lan where there
// is no spare.
func (m *Machine) regular(id *identity) int {
	if id.cfg.Home != m.cfg.Self && m.obs.MyLan.Spare.Present {
		return nicSpare
	}
	return nicLan
}

// aside reports whether the other one carries it, or is just made to.
func (a *actuator) aside() bool { return a.state == actOn || a.state != actOff && a.tried }

// carrierOf is the NIC that carries an identity here.
func (m *Machine) carrierOf(id *identity) int {
	if id.carry.aside() {
		return other(m.regular(id))
	}
	return m.regular(id)
}

func other(nic int) int { return nicLan + nicSpare - nic }

// wantAside chooses between a node's own two NICs, owner or not: a standby's is chosen ahead of the
// takeover. An identity leaves the NIC that carries it when that has lost the clients' network and the
// other one reaches more of it; and it goes back to its regular one when that has been well for a while,
// or soon if nobody is served by it.
func (m *Machine) wantAside(id *identity) bool {
	aside, nics := id.carry.aside(), m.obs.MyLan.nics()
	regular, here := m.regular(id), m.carrierOf(id)
	switch {
	case m.durable.Frozen:
		return aside
	case m.nics[here].bad && nics[other(here)].worth() > nics[here].worth() && !m.parted(here):
		return !aside
	}
	wait := m.cfg.Limits.LanStable
	if id.word.Has(Owner) {
		wait = m.cfg.Limits.LanBack
	}
	return aside && (!nics[regular].Healthy() || m.now-m.nics[regular].wellSince < wait)
}

// parted reports that a NIC has lost a part of the clients' network only, and no peer's that is on the same
// switch reaches the majority: clients on that side have nobody else. If lan is on one switch, the other
// node's spare is on it too.
func (m *Machine) parted(nic int) bool {
	if m.obs.MyLan.nics()[nic].worth() == 0 {
		return false
	}
	return !slices.ContainsFunc(m.others(), func(p int) bool {
		return m.view(p).State == PeerUp && m.view(p).Lan.nics()[other(nic)].Healthy()
	})
}

// dark reports that an identity is served by nobody while it stays here.
func (m *Machine) dark(id *identity) bool {
	regular := m.regular(id)
	if !m.nics[regular].bad {
		return false
	}
	return !m.obs.MyLan.Spare.Present || m.nics[other(regular)].bad || id.carry.state == actUnknown
}

// driveCarrier keeps an identity on the NIC that is wanted. Neither word nor generation has to do
// with it: the owner stays the owner, by another port.
func (m *Machine) driveCarrier(id *identity) {
	if !id.has(m.cfg.Self) || !m.obs.MyLan.Spare.Present {
		return
	}
	regular := m.regular(id)
	by := func(nic int) func(op uint64) Action {
		return func(op uint64) Action {
			if !id.carry.reported {
				m.notify(KindCarrier, id, "%s carries %s%s", nicNames[nic], id.cfg.Name, pick(nic == regular, " again", " in the place of "+nicNames[regular]))
			}
			return Carry{Op: op, Identity: id.index, Spare: nic == nicSpare, Addresses: id.addr.state == actOn || id.addr.state == actTurningOn}
		}
	}
	m.drive(&id.carry, m.wantAside(id), effect{on: by(other(regular)), off: by(regular), limit: m.cfg.Limits.Address})
}

// carryResult: whoever talks to the identity must learn where it is.
func (m *Machine) carryResult(id *identity, err string) {
	if m.settle(&id.carry, err) {
		m.notify(KindCarrierFailed, id, "put %s on %s: %s; tried again", id.cfg.Name, nicNames[m.carrierOf(id)], err)
	}
	if err != "" && id.addr.state == actOn {
		id.addr.state = actOff // they may have gone with the device
	}
	id.announceAgain = true
}
