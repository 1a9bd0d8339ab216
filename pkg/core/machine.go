// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
)

// Machine is one node's policy. It is not safe for concurrent use.
type Machine struct {
	cfg Config
	now int64
	out []Action
	ops uint64 // the last Op given out

	started bool
	seen    bool // at least one Observed
	left    bool
	leaving bool
	keep    bool // leaving frozen: everything stays as it is

	obs      Observed // the last one
	nics     [2]nicWatch
	peers    []peerMemory // by node number
	isolated bool
	ids      []*identity

	durable Saved // on disk
	want    Saved // to be on disk
	persist persistOp
	flags   *SetFlags // as last set
	fence   fencing

	commands   []*command
	concurrent actuator
	failed     map[string]bool // concurrent services

	returning bool // has booted, and has not heard the peer yet
	held      bool // and the peer has served meanwhile: in standby until that is ended
}

// New returns a machine that waits for Started.
func New(cfg Config, saved Saved) *Machine {
	cfg = cfg.complete()
	m := &Machine{cfg: cfg, durable: saved.clone(), want: saved.clone(), failed: map[string]bool{}, returning: cfg.Hold}
	m.peers = make([]peerMemory, len(cfg.Nodes))
	for i, c := range cfg.Identities {
		id := &identity{index: i, cfg: c, peer: c.firstOther(cfg.Self), failed: map[string]bool{}}
		id.carry = actuator{state: pick(c.Aside, actOn, actOff), tried: c.Aside}
		m.ids = append(m.ids, id)
	}
	return m
}

// Step takes one event at a boottime in ns and returns what to do about it, in
// order.
func (m *Machine) Step(now int64, ev Event) []Action {
	if m.left {
		return nil
	}
	m.now, m.out = max(now, m.now), nil
	switch e := ev.(type) {
	case Started:
		m.started = true
	case Tick:
		m.lanChanged() // what was seen last may have been so for long enough
	case Observed:
		m.observed(e)
	case Swapped:
		m.swapped(e)
	case Done:
		m.finished(e.Op, "", false)
	case Failed:
		m.finished(e.Op, orUnknown(e.Err), e.Refused)
	case LinkChanged:
		m.linkChanged(e)
	case ServiceState:
		m.serviceState(e)
	case ServicesEnded:
		m.servicesEnded(e)
	case CmdMove:
		m.cmdMove(e)
	case CmdGiveback:
		m.cmdGiveback(e)
	case CmdStandby:
		m.cmdStandby(e)
	case CmdFreeze:
		m.cmdFreeze(e)
	case CmdLeave:
		m.cmdLeave(e)
	default:
		panic(fmt.Sprintf("core: unknown event %T", ev))
	}
	if m.started {
		m.evaluate()
	}
	return m.out
}

// evaluate brings everything one step closer to what it should be.
func (m *Machine) evaluate() {
	m.expire()
	m.driveFlags()
	m.drive(&m.concurrent, m.wantConcurrent(), m.concurrentOps())
	if m.seen {
		for _, id := range m.ids {
			m.driveCarrier(id)
			m.driveHandover(id)
			m.moveByItself(id)
			m.driveWord(id)
			m.driveKey(id)
			m.driveEffects(id)
		}
		m.driveFence()
		m.driveCommands()
	}
	m.drivePersist()
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

func (m *Machine) op() uint64 {
	m.ops++
	return m.ops
}

func (m *Machine) notify(kind string, id *identity, format string, args ...any) {
	i := -1
	if id != nil {
		i = id.index
	}
	m.emit(Notify{Kind: kind, Identity: i, Text: fmt.Sprintf(format, args...)})
}

// observed takes the maps' contents. It reports every change once.
func (m *Machine) observed(o Observed) {
	before := m.obs
	m.obs = o.clone()
	m.peersChanged(before.Peers)
	m.isolationChanged()
	m.lanChanged()
	for i, id := range m.ids {
		if i >= len(o.Local) {
			continue
		}
		if o.At == 0 || o.At > id.swappedAt {
			id.stale = false
			m.follow(id, o.Local[i])
		}
		m.meet(id)
		m.watch(id)
	}
	m.seen = true
	m.holdReturning()
	m.endHold()
}

func (m *Machine) swapped(e Swapped) {
	if e.Identity < 0 || e.Identity >= len(m.ids) {
		return
	}
	id := m.ids[e.Identity]
	if e.OK && e.Identity < len(m.obs.Local) {
		m.obs.Local[e.Identity] = e.Current // as seen, though not read
	}
	if id.swap.op == 0 || id.swap.op != e.Op {
		return
	}
	done := id.swap
	id.swap = swapOp{}
	id.swappedAt = m.now
	if !e.OK {
		// Somebody was faster: the kernel. Nothing is retried before the next reading.
		id.stale = true
		return
	}
	if roleOf(done.new) == roleReleased || done.new.Has(Demand) {
		m.emit(Pulse{}) // the peer's kernel waits for just this, and nobody serves until it comes
	}
	if id.word == done.old { // else a reading has shown it already, and perhaps more
		m.follow(id, done.new)
	}
	m.watch(id)
}

// finished routes a result to what waits for it.
func (m *Machine) finished(op uint64, err string, refused bool) {
	if op == 0 {
		return
	}
	if m.persist.op == op {
		m.persisted(err)
		return
	}
	if m.fence.op == op {
		m.fenceResult(err)
		return
	}
	if m.concurrent.op == op {
		m.settle(&m.concurrent, err)
		if err != "" {
			m.notify(KindServiceFailed, nil, "concurrent services: %s", err)
		}
		return
	}
	for _, id := range m.ids {
		switch op {
		case id.carry.op:
			m.carryResult(id, err)
			return
		case id.addr.op:
			m.addressResult(id, err)
			return
		case id.svc.op:
			m.serviceResult(id, err, refused)
			return
		case id.ho.copy:
			m.copyResult(id, err)
			return
		}
	}
}

// expire gives up on operations whose time is over; a late result is ignored.
func (m *Machine) expire() {
	const late = "no result in time"
	if m.persist.op != 0 && m.now >= m.persist.deadline {
		m.persisted("save state: " + late)
	}
	if m.fence.op != 0 && m.now >= m.fence.deadline {
		m.emit(CancelFence{Op: m.fence.op})
		m.fenceResult(late)
	}
	if m.concurrent.late(m.now) {
		m.finished(m.concurrent.op, late, false)
	}
	for _, id := range m.ids {
		if id.swap.op != 0 && m.now >= id.swap.deadline {
			id.swap, id.stale, id.swappedAt = swapOp{}, true, m.now
		}
		if id.carry.late(m.now) {
			m.carryResult(id, late)
		}
		if id.addr.late(m.now) {
			m.addressResult(id, late)
		}
		if id.svc.late(m.now) {
			m.serviceResult(id, late, false)
		}
	}
}

func (m *Machine) driveFlags() {
	f := SetFlags{Standby: m.durable.Standby || m.held || m.leaving, Frozen: m.durable.Frozen}
	if m.flags == nil || *m.flags != f {
		m.flags = &f
		m.emit(f)
	}
}

func (s Saved) clone() Saved {
	s.Generations = maps.Clone(s.Generations)
	if s.Generations == nil {
		s.Generations = map[string]uint64{}
	}
	return s
}

func orUnknown(err string) string {
	if err == "" {
		return "failed without a reason"
	}
	return err
}
