// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
)

// StateVersion names the meaning of State; one of another version is not restored.
const StateVersion = 5

// State is all that a machine knows, as plain data: a machine that is restored from it
// decides as the one that it was taken from. It shares nothing with the machine.
type State struct {
	Version         int
	Now             int64
	Ops             uint64
	Started, Seen   bool
	Left            bool
	Leaving, Keep   bool
	Observed        Observed
	NICs            [2]NICState
	Peers           []PeerMemory // by node number
	Isolated        bool
	Returning, Held bool
	Identities      []IdentityState
	Durable, Wanted Saved
	Persist         PersistState
	Fence           FenceState
	Flags           *SetFlags
	Commands        []CommandState
	Concurrent      ActuatorState
	Failed          []string
}

// NICState is what the machine remembers of a NIC.
type NICState struct {
	BadSince, WellSince int64
	Bad                 bool
}

// PeerMemory is what was told last of a peer.
type PeerMemory struct {
	Boot         uint64
	SupervisorOK bool
	DeadAt       int64
}

// PersistState is the write in flight.
type PersistState struct {
	Op                uint64
	Saved             Saved
	Deadline, RetryAt int64
	Reported, Unsure  bool
}

// FenceState is the order to switch the peer off.
type FenceState struct {
	Op                                uint64
	Since, Deadline, RetryAt, Backoff int64
}

// ActuatorState is what is on or off, or on its way.
type ActuatorState struct {
	State                      int
	Op                         uint64
	Deadline, RetryAt, Backoff int64
	Tried, Reported            bool
}

// CommandState is an order in progress; the lists are of identities.
type CommandState struct {
	Op                              uint64
	Kind                            int
	On, Saving, Force               bool
	Waiting, Asking, Forcing, Begun []int
	Asked, Deadline                 int64
	Errs                            []string
}

// HandoverState is a hand-over from this node; Commands are indices into State.Commands.
type HandoverState struct {
	Phase, To      int
	Gen            uint64
	Cause          string
	Force, Unclean bool
	Copy           uint64
	Deadline       int64
	Commands       []int
}

// SwapState is a compare-and-swap in flight.
type SwapState struct {
	Op       uint64
	Old, New Word
	Deadline int64
}

// IdentityState is what the machine knows of an identity.
type IdentityState struct {
	Known                               bool
	Word                                Word
	Peer                                int // a node's number
	Role                                int
	Cause                               string
	LastClaim                           Word
	Released                            bool
	Swap                                SwapState
	SwappedAt                           int64
	Stale                               bool
	Carry, Addr, Svc                    ActuatorState
	SvcGen, Announced                   uint64
	AnnounceAgain                       bool
	Handover                            HandoverState
	UnownedSince                        int64
	UnownedGen, Burnt                   uint64
	Uncovered, PeerBooted               bool
	HomeReadySince                      int64
	Arrived, LastAuto, Hold, LastFailed int64
	TwoOwners                           bool
	KeyWanted, KeyHeld                  uint64 // generations of its key in etcd
	Failed                              []string
	AsItIs, Stays                       bool
	Wait                                WaitState
	RightlessSince                      int64
	RightlessTold                       bool
}

// WaitState is the wait for services to end elsewhere.
type WaitState struct {
	Gen   uint64
	Since int64
	Until int64
	Told  int
	Over  bool
}

// State returns all that the machine knows.
func (m *Machine) State() State {
	s := State{
		Version: StateVersion, Now: m.now, Ops: m.ops, Started: m.started, Seen: m.seen, Left: m.left, Leaving: m.leaving, Keep: m.keep,
		Observed: m.obs.clone(), Isolated: m.isolated, Returning: m.returning, Held: m.held,
		Durable: m.durable.clone(), Wanted: m.want.clone(),
		Persist:    PersistState{m.persist.op, m.persist.saved.clone(), m.persist.deadline, m.persist.retryAt, m.persist.reported, m.persist.unsure},
		Fence:      FenceState{m.fence.op, m.fence.since, m.fence.deadline, m.fence.retryAt, m.fence.backoff},
		Concurrent: m.concurrent.save(), Failed: keys(m.failed),
	}
	for _, p := range m.peers {
		s.Peers = append(s.Peers, PeerMemory{p.boot, p.supervisorOK, p.deadAt})
	}
	for i, n := range m.nics {
		s.NICs[i] = NICState{n.badSince, n.wellSince, n.bad}
	}
	if m.flags != nil {
		f := *m.flags
		s.Flags = &f
	}
	for _, c := range m.commands {
		s.Commands = append(s.Commands, CommandState{
			Op: c.op, Kind: int(c.kind), On: c.on, Saving: c.saving, Force: c.force, Asked: c.asked, Deadline: c.deadline,
			Waiting: keys(c.waiting), Asking: keys(c.asking), Forcing: keys(c.forcing), Begun: keys(c.begun), Errs: slices.Clone(c.errs),
		})
	}
	for _, id := range m.ids {
		s.Identities = append(s.Identities, m.saveIdentity(id))
	}
	return s
}

func (m *Machine) saveIdentity(id *identity) IdentityState {
	ho := HandoverState{int(id.ho.phase), id.ho.to, id.ho.gen, id.ho.cause, id.ho.force, id.ho.unclean, id.ho.copy, id.ho.deadline, nil}
	for _, c := range id.ho.commands {
		if i := slices.Index(m.commands, c); i >= 0 { // else it is answered, and nobody looks at it again
			ho.Commands = append(ho.Commands, i)
		}
	}
	return IdentityState{
		Known: id.known, Word: id.word, Peer: id.peer, Role: int(id.role), Cause: id.cause, LastClaim: id.lastClaim, Released: id.released,
		Swap: SwapState{id.swap.op, id.swap.old, id.swap.new, id.swap.deadline}, SwappedAt: id.swappedAt, Stale: id.stale,
		Carry: id.carry.save(), Addr: id.addr.save(), Svc: id.svc.save(), SvcGen: id.svcGen, Announced: id.announced, AnnounceAgain: id.announceAgain,
		Handover: ho, UnownedSince: id.unownedSince, UnownedGen: id.unownedGen, Burnt: id.burnt, Uncovered: id.uncovered, PeerBooted: id.peerBooted,
		HomeReadySince: id.homeReadySince, Arrived: id.arrived, LastAuto: id.lastAuto, Hold: id.hold, LastFailed: id.lastFailed, Stays: id.stays,
		TwoOwners: id.twoOwners, Failed: keys(id.failed), KeyWanted: id.wanted, KeyHeld: id.held, AsItIs: id.asItIs,
		Wait: WaitState{id.wait.gen, id.wait.since, id.wait.until, int(id.wait.told), id.wait.over}, RightlessSince: id.rightless.since, RightlessTold: id.rightless.told,
	}
}

// Restore returns a machine that knows what s says. It refuses what no machine of cfg could
// have said.
func Restore(cfg Config, s State) (*Machine, error) {
	m := New(cfg, s.Durable)
	switch {
	case s.Version != StateVersion:
		return nil, fmt.Errorf("restore machine: the state has version %d, this build knows %d", s.Version, StateVersion)
	case len(s.Peers) != len(cfg.Nodes):
		return nil, fmt.Errorf("restore machine: the state is of %d nodes, the configuration of %d", len(s.Peers), len(cfg.Nodes))
	case len(s.Identities) != len(m.ids):
		return nil, fmt.Errorf("restore machine: the state is of %d identities, the configuration of %d", len(s.Identities), len(m.ids))
	}
	m.now, m.ops, m.started, m.seen, m.left, m.leaving, m.keep = s.Now, s.Ops, s.Started, s.Seen, s.Left, s.Leaving, s.Keep
	m.obs, m.isolated = s.Observed.clone(), s.Isolated
	m.returning, m.held = s.Returning, s.Held
	m.want = s.Wanted.clone()
	m.persist = persistOp{s.Persist.Op, s.Persist.Saved.clone(), s.Persist.Deadline, s.Persist.RetryAt, s.Persist.Reported, s.Persist.Unsure}
	m.fence = fencing{s.Fence.Op, s.Fence.Since, s.Fence.Deadline, s.Fence.RetryAt, s.Fence.Backoff}
	m.failed = setOf(s.Failed)
	for i, p := range s.Peers {
		m.peers[i] = peerMemory{p.Boot, p.SupervisorOK, p.DeadAt}
	}
	for i, n := range s.NICs {
		m.nics[i] = nicWatch{n.BadSince, n.WellSince, n.Bad}
	}
	if s.Flags != nil {
		f := *s.Flags
		m.flags = &f
	}
	for i, c := range s.Commands {
		if c.Kind < 0 || cmdKind(c.Kind) > cmdLeave {
			return nil, fmt.Errorf("restore machine: command %d is of no known kind: %d", i, c.Kind)
		}
		for _, id := range slices.Concat(c.Waiting, c.Asking, c.Forcing, c.Begun) {
			if id < 0 || id >= len(m.ids) {
				return nil, fmt.Errorf("restore machine: command %d is about identity %d of %d", i, id, len(m.ids))
			}
		}
		m.commands = append(m.commands, &command{
			op: c.Op, kind: cmdKind(c.Kind), on: c.On, saving: c.Saving, force: c.Force, asked: c.Asked, deadline: c.Deadline,
			waiting: setOf(c.Waiting), asking: setOf(c.Asking), forcing: setOf(c.Forcing), begun: setOf(c.Begun), errs: slices.Clone(c.Errs),
		})
	}
	var err error
	if m.concurrent, err = restoreActuator(s.Concurrent); err != nil {
		return nil, fmt.Errorf("restore machine: concurrent services: %w", err)
	}
	for i, id := range m.ids {
		if err := m.restoreIdentity(id, s.Identities[i]); err != nil {
			return nil, fmt.Errorf("restore machine: identity %s: %w", id.cfg.Name, err)
		}
	}
	return m, nil
}

func (m *Machine) restoreIdentity(id *identity, s IdentityState) error {
	switch h := s.Handover; {
	case s.Role < 0 || s.Role >= len(roleNames):
		return fmt.Errorf("no role %d", s.Role)
	case h.Phase < 0 || h.Phase >= len(hoNames):
		return fmt.Errorf("no phase %d of a hand-over", h.Phase)
	case s.Peer < 0 || s.Peer >= len(m.cfg.Nodes) || h.To < 0 || h.To >= len(m.cfg.Nodes):
		return fmt.Errorf("its counterpart is node %d, and its hand-over to node %d, of %d", s.Peer, h.To, len(m.cfg.Nodes))
	default:
		id.ho = handover{phase: hoPhase(h.Phase), to: h.To, gen: h.Gen, cause: h.Cause, force: h.Force, unclean: h.Unclean, copy: h.Copy, deadline: h.Deadline}
		for _, i := range h.Commands {
			if i < 0 || i >= len(m.commands) {
				return fmt.Errorf("its hand-over is for command %d of %d", i, len(m.commands))
			}
			id.ho.commands = append(id.ho.commands, m.commands[i])
		}
	}
	id.known, id.word, id.peer, id.role, id.cause, id.lastClaim, id.released = s.Known, s.Word, s.Peer, role(s.Role), s.Cause, s.LastClaim, s.Released
	id.swap, id.swappedAt, id.stale = swapOp{s.Swap.Op, s.Swap.Old, s.Swap.New, s.Swap.Deadline}, s.SwappedAt, s.Stale
	id.svcGen, id.announced, id.announceAgain = s.SvcGen, s.Announced, s.AnnounceAgain
	id.unownedSince, id.unownedGen, id.burnt, id.uncovered, id.peerBooted = s.UnownedSince, s.UnownedGen, s.Burnt, s.Uncovered, s.PeerBooted
	id.homeReadySince, id.arrived, id.lastAuto, id.hold, id.lastFailed = s.HomeReadySince, s.Arrived, s.LastAuto, s.Hold, s.LastFailed
	id.stays = s.Stays
	id.twoOwners, id.failed = s.TwoOwners, setOf(s.Failed)
	id.wanted, id.held, id.asItIs = s.KeyWanted, s.KeyHeld, s.AsItIs
	id.wait = waiting{s.Wait.Gen, s.Wait.Since, s.Wait.Until, waitCause(s.Wait.Told), s.Wait.Over}
	id.rightless = rightless{s.RightlessSince, s.RightlessTold}
	var err error
	if id.carry, err = restoreActuator(s.Carry); err != nil {
		return fmt.Errorf("carrier: %w", err)
	}
	if id.addr, err = restoreActuator(s.Addr); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	if id.svc, err = restoreActuator(s.Svc); err != nil {
		return fmt.Errorf("services: %w", err)
	}
	return nil
}

func (a *actuator) save() ActuatorState {
	return ActuatorState{int(a.state), a.op, a.deadline, a.retryAt, a.backoff, a.tried, a.reported}
}

func restoreActuator(s ActuatorState) (actuator, error) {
	if s.State < 0 || actState(s.State) > actTurningOff {
		return actuator{}, fmt.Errorf("no state %d", s.State)
	}
	return actuator{actState(s.State), s.Op, s.Deadline, s.RetryAt, s.Backoff, s.Tried, s.Reported}, nil
}

func (o Observed) clone() Observed {
	o.Local, o.Granted, o.Keys = slices.Clone(o.Local), slices.Clone(o.Granted), slices.Clone(o.Keys)
	o.Unsynced, o.Unasked, o.Peers = slices.Clone(o.Unsynced), slices.Clone(o.Unasked), slices.Clone(o.Peers)
	for i := range o.Peers {
		o.Peers[i].Words, o.Peers[i].Runs = slices.Clone(o.Peers[i].Words), slices.Clone(o.Peers[i].Runs)
	}
	return o
}

// keys are what is true in a set, in order.
func keys[K int | string](set map[K]bool) []K {
	var out []K
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if set[k] {
			out = append(out, k)
		}
	}
	return out
}

func setOf[K int | string](list []K) map[K]bool {
	set := map[K]bool{}
	for _, k := range list {
		set[k] = true
	}
	return set
}
