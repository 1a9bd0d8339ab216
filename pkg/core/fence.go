// SPDX-License-Identifier: Apache-2.0

package core

import "strings"

const (
	fenceRetryFirst = 1_000_000_000
	fenceRetryMost  = 30_000_000_000
	fenceShows      = 1_000_000_000 // until a reading shows what an agent has said
)

// fencing is the one order to switch the peer off.
type fencing struct {
	op       uint64 // in flight
	since    int64  // since when it is wanted; 0: it is not
	deadline int64
	retryAt  int64
	backoff  int64
}

// only is the other node of a pair.
func (m *Machine) only() int { return 1 - m.cfg.Self }

func (m *Machine) onlyDead() bool { return m.view(m.only()).State == PeerDead }

// awaitsFence lists what the kernel would take if the peer were known to be off.
func (m *Machine) awaitsFence() (names []string) {
	for _, id := range m.ids {
		if id.word.Has(Ready) && !id.word.Has(Owner) {
			names = append(names, id.cfg.Name)
		}
	}
	return names
}

// mayFence: a node that would not take anything has no reason to switch its peer off.
func (m *Machine) mayFence() bool {
	if !m.cfg.Fence || !m.onlyDead() || m.obs.Isolated || m.obs.Barred {
		return false
	}
	return !m.standby() && !m.durable.Frozen && !m.leaving
}

// driveFence has a dead peer switched off before anything of it is taken: the kernel takes nothing
// before it knows that. If both nodes live, the delay lets one of them be first.
func (m *Machine) driveFence() {
	f := &m.fence
	if !m.cfg.Fence || m.onlyDead() && m.obs.Fenced {
		return
	}
	names := m.awaitsFence()
	if !m.mayFence() || len(names) == 0 {
		m.cancelFence()
		return
	}
	if f.since == 0 {
		f.since = m.now
	}
	if f.op != 0 || m.now < max(f.since+m.cfg.FenceDelay, f.retryAt) {
		return
	}
	f.op, f.deadline = m.op(), m.now+m.cfg.Limits.Fence
	m.notify(KindFenceBegun, nil, "%s is switched off before this node takes %s", m.cfg.Nodes[m.only()], strings.Join(names, ", "))
	m.emit(Fence{Op: f.op})
}

func (m *Machine) cancelFence() {
	if m.fence.op != 0 {
		m.emit(CancelFence{Op: m.fence.op})
		why := "this node would take nothing now"
		if !m.onlyDead() {
			why = "it is heard"
		}
		m.notify(KindFenceCancelled, nil, "switching %s off is called off: %s", m.cfg.Nodes[m.only()], why)
	}
	m.fence = fencing{}
}

// fenceResult: an agent's success is believed when a reading shows that the kernel does.
func (m *Machine) fenceResult(err string) {
	f := &m.fence
	f.op = 0
	if err != "" && m.onlyDead() && m.obs.Fenced {
		return // somebody else has said so meanwhile, and the agent was called off
	}
	if err == "" {
		f.backoff, f.retryAt = 0, m.now+fenceShows
		m.notify(KindFenced, nil, "%s is off", m.cfg.Nodes[m.only()])
		return
	}
	f.backoff = min(max(2*f.backoff, fenceRetryFirst), fenceRetryMost)
	f.retryAt = m.now + f.backoff
	m.notify(KindFenceFailed, nil, "switch %s off: %s; tried again, until then nobody serves %s", m.cfg.Nodes[m.only()], err, strings.Join(m.awaitsFence(), ", "))
}
