// SPDX-License-Identifier: Apache-2.0

package core

const persistRetry = 1_000_000_000

// persistOp is the one synced write in flight and what it carries.
type persistOp struct {
	op       uint64
	saved    Saved
	deadline int64
	retryAt  int64
	reported bool
	unsure   bool // a write failed, or has not ended yet: what is on the disk may be it or not
}

// promise wants an identity's generation on disk and reports whether it is.
func (m *Machine) promise(id *identity, gen uint64) bool {
	if m.want.Generations[id.cfg.Name] < gen {
		m.want.Generations[id.cfg.Name] = gen
	}
	return m.durable.Generations[id.cfg.Name] >= gen
}

func (m *Machine) drivePersist() {
	if m.persist.op != 0 || m.now < m.persist.retryAt || m.want.equal(m.durable) && !m.persist.unsure {
		return
	}
	m.persist.op = m.op()
	m.persist.saved = m.want.clone()
	m.persist.deadline = m.now + m.cfg.Limits.Persist
	m.emit(Persist{Op: m.persist.op, Saved: m.want.clone()})
}

func (m *Machine) persisted(err string) {
	p := &m.persist
	p.op = 0
	if err == "" {
		m.durable, p.reported, p.unsure = p.saved, false, false
		m.flagsSaved()
		return
	}
	p.retryAt, p.unsure = m.now+persistRetry, true
	if !p.reported {
		p.reported = true
		m.notify(KindPersistFailed, nil, "%s; nothing new is armed until it works", err)
	}
	m.flagsNotSaved(err)
}

func (s Saved) equal(o Saved) bool {
	if s.Standby != o.Standby || s.Frozen != o.Frozen || s.Held != o.Held || len(s.Generations) != len(o.Generations) {
		return false
	}
	for k, v := range s.Generations {
		if o.Generations[k] != v {
			return false
		}
	}
	return true
}
