// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
)

// command is an order in progress.
type command struct {
	op       uint64
	kind     cmdKind
	on       bool         // standby, freeze
	saving   bool         // standby, freeze: waits for the disk
	waiting  map[int]bool // identities that it waits for
	asking   map[int]bool // those of them that the peer is asked for with Want
	forcing  map[int]bool // those of them that are demanded of its kernel
	begun    map[int]bool // those of them that the peer has begun to hand over
	force    bool
	asked    int64
	deadline int64
	errs     []string
}

type cmdKind int

const (
	cmdMove cmdKind = iota
	cmdGiveback
	cmdStandby
	cmdFreeze
	cmdLeave
)

const frozenText = "this node is frozen: end that first with `xdpha freeze off`"

func (c *command) resolve(id *identity, err string) {
	delete(c.waiting, id.index)
	delete(c.asking, id.index)
	delete(c.forcing, id.index)
	if err != "" {
		c.errs = append(c.errs, id.cfg.Name+": "+err)
	}
}

func (m *Machine) newCommand(op uint64, kind cmdKind) *command {
	l := m.cfg.Limits
	c := &command{
		op: op, kind: kind, waiting: map[int]bool{}, asking: map[int]bool{}, forcing: map[int]bool{}, begun: map[int]bool{},
		asked: m.now, deadline: m.now + l.Stage + l.Service + l.Release,
	}
	m.commands = append(m.commands, c)
	return c
}

func (m *Machine) refuse(op uint64, format string, args ...any) {
	m.emit(Reply{Op: op, Err: fmt.Sprintf(format, args...)})
}

// busy refuses orders for which this is not the time.
func (m *Machine) busy(op uint64) bool {
	switch {
	case !m.started || !m.seen:
		m.refuse(op, "this node is starting: try again")
	case m.leaving:
		m.refuse(op, "this node is leaving")
	default:
		return false
	}
	return true
}

// ask sets Want: the owner's machine begins the hand-over.
func (m *Machine) ask(c *command, id *identity) {
	switch {
	case m.standby():
		c.errs = append(c.errs, id.cfg.Name+": this node is in standby: end that first with `xdpha standby off`")
	case !m.view(id.peer).SupervisorOK && !c.force:
		c.errs = append(c.errs, id.cfg.Name+": "+m.peerName(id)+"'s supervisor does not run; --force demands it of its kernel")
	case m.view(id.peer).Frozen && !c.force:
		c.errs = append(c.errs, id.cfg.Name+": "+m.peerName(id)+" is frozen")
	default:
		c.waiting[id.index], c.asking[id.index] = true, true
		if !m.view(id.peer).SupervisorOK || m.view(id.peer).Frozen {
			m.force(c, id)
		}
	}
}

// force asks the peer's kernel: its supervisor cannot or does not.
func (m *Machine) force(c *command, id *identity) {
	c.forcing[id.index] = true
	c.asked = m.now
	m.notify(KindDemand, id, "%s is demanded of %s's kernel", id.cfg.Name, m.peerName(id))
}

// handOver begins a hand-over to a node, or with -1 to the one that comes next.
func (m *Machine) handOver(c *command, id *identity, to int, cause string) {
	if why := m.beginHandover(id, to, cause, c.force, c); why != "" {
		c.errs = append(c.errs, id.cfg.Name+": "+why)
		return
	}
	c.waiting[id.index] = true
}

func (m *Machine) requested(id *identity) bool {
	return slices.ContainsFunc(m.commands, func(c *command) bool { return c.asking[id.index] })
}

func (m *Machine) forced(id *identity) bool {
	return slices.ContainsFunc(m.commands, func(c *command) bool { return c.forcing[id.index] })
}

func (m *Machine) cmdMove(e CmdMove) {
	if m.busy(e.Op) {
		return
	}
	if e.Identity < 0 || e.Identity >= len(m.ids) || e.To < -1 || e.To >= len(m.cfg.Nodes) {
		m.refuse(e.Op, "no such identity or node")
		return
	}
	if m.durable.Frozen {
		m.refuse(e.Op, frozenText)
		return
	}
	id := m.ids[e.Identity]
	if e.To == -1 && !m.cfg.many() {
		e.To = m.cfg.Self
		if id.word.Has(Owner) {
			e.To = m.only()
		}
	}
	may := strings.Join(m.names(id.cfg.Prefer), ", ")
	switch {
	case e.To == -1:
		m.refuse(e.Op, "%s: name the node that it shall move to, one of %s", id.cfg.Name, may)
	case !id.has(e.To):
		m.refuse(e.Op, "%s: %s may not own it, only %s", id.cfg.Name, m.cfg.Nodes[e.To], may)
	default:
		m.move(e, id)
	}
}

// move carries out an order to move an identity to a node that may own it.
func (m *Machine) move(e CmdMove, id *identity) {
	mine, theirs, here := id.word.Has(Owner), m.peerOwns(id), e.To == m.cfg.Self
	switch {
	case mine && here && id.ho.phase == hoNone, theirs && e.To == id.peer:
		m.emit(Reply{Op: e.Op}) // it is there
	case mine && here:
		m.refuse(e.Op, "%s is being handed over", id.cfg.Name)
	case mine:
		if m.view(e.To).State == PeerUp && len(m.healthy([]int{e.To})) == 0 && !e.Force {
			m.refuse(e.Op, "%s: no NIC of %s's that could carry it reaches the clients' network; --force moves it anyway", id.cfg.Name, m.cfg.Nodes[e.To])
			return
		}
		c := m.newCommand(e.Op, cmdMove)
		c.force = e.Force
		m.handOver(c, id, e.To, "ordered")
	case theirs && here:
		c := m.newCommand(e.Op, cmdMove)
		c.force = e.Force
		m.ask(c, id)
	case theirs:
		m.refuse(e.Op, "%s: %s owns it: order this there, or on %s", id.cfg.Name, m.peerName(id), m.cfg.Nodes[e.To])
	case here && e.Force && m.unsynced(id):
		id.asItIs = true
		m.notify(KindUnsynced, id, "%s is taken with the data that %s has, as forced: what was served elsewhere since is not in it", id.cfg.Name, m.cfg.Nodes[e.To])
		m.emit(Reply{Op: e.Op})
	default:
		m.refuse(e.Op, "%s: nobody owns it now", id.cfg.Name)
	}
}

// patience is how much longer an identity with data may take to move.
func (m *Machine) patience(id *identity) int64 {
	if !id.cfg.Mirrored {
		return 0
	}
	return m.cfg.Limits.Copy + m.cfg.Limits.LastCopy
}

func (m *Machine) cmdGiveback(e CmdGiveback) {
	if m.busy(e.Op) {
		return
	}
	if m.durable.Frozen {
		m.refuse(e.Op, frozenText)
		return
	}
	c := m.newCommand(e.Op, cmdGiveback)
	for _, id := range m.ids {
		home := id.cfg.Home == m.cfg.Self
		switch {
		case id.word.Has(Owner) && !home:
			m.handOver(c, id, id.cfg.Home, "give-back ordered")
		case m.peerOwns(id) && home:
			m.ask(c, id)
		}
	}
}

func (m *Machine) cmdStandby(e CmdStandby) {
	if m.busy(e.Op) {
		return
	}
	if m.durable.Frozen {
		m.refuse(e.Op, frozenText)
		return
	}
	if why := m.strands(); e.On && why != "" {
		m.refuse(e.Op, "%s: nobody could take over what this node serves", why)
		return
	}
	c := m.newCommand(e.Op, cmdStandby)
	c.on, c.saving, m.want.Standby, m.want.Held = e.On, true, e.On, false
	m.held = m.held && e.On
	m.flagsSaved() // it may be so already
}

// strands says who is not up, if this node owns what no other could take, or "".
func (m *Machine) strands() string {
	up := func(p int) bool { return m.view(p).State == PeerUp }
	for _, id := range m.ids {
		others := m.candidates(id)
		if !id.word.Has(Owner) || slices.ContainsFunc(others, up) {
			continue
		}
		var states []string
		for _, p := range others {
			states = append(states, fmt.Sprintf("%s is %v", m.cfg.Nodes[p], m.view(p).State))
		}
		if len(states) == 0 {
			return "no other node may own " + id.cfg.Name
		}
		return strings.Join(states, ", ")
	}
	return ""
}

func (m *Machine) cmdFreeze(e CmdFreeze) {
	if m.busy(e.Op) {
		return
	}
	c := m.newCommand(e.Op, cmdFreeze)
	c.on, c.saving, m.want.Frozen = e.On, true, e.On
	m.flagsSaved()
}

// flagsSaved goes on with the commands that waited for the disk.
func (m *Machine) flagsSaved() {
	for _, c := range m.commands {
		switch {
		case !c.saving:
		case c.kind == cmdStandby && m.durable.Standby == c.on:
			c.saving = false
			m.notify(KindStandby, nil, "standby %s", onOff(c.on))
			for _, id := range m.ids {
				if c.on && id.word.Has(Owner) {
					m.handOver(c, id, -1, "this node goes to standby")
				}
			}
		case c.kind == cmdFreeze && m.durable.Frozen == c.on:
			c.saving = false
			m.notify(KindFreeze, nil, "freeze %s", onOff(c.on))
		}
	}
}

func (m *Machine) flagsNotSaved(err string) {
	for _, c := range m.commands {
		if c.saving {
			c.saving = false
			c.errs = append(c.errs, err)
			m.want.Standby, m.want.Frozen, m.want.Held = m.durable.Standby || m.held, m.durable.Frozen, m.durable.Held
		}
	}
}

// cmdLeave hands over what the peer can take. What it cannot take is stopped and
// released: without a daemon nobody would stop exclusive services when the peer
// comes and takes the identity. Only a frozen node leaves everything as it is.
func (m *Machine) cmdLeave(e CmdLeave) {
	if m.leaving {
		m.refuse(e.Op, "this node is leaving")
		return
	}
	if !m.started || !m.seen { // nothing was begun
		m.emit(Reply{Op: e.Op})
		m.emit(Left{})
		m.left = true
		return
	}
	c := m.newCommand(e.Op, cmdLeave)
	m.leaving, m.keep = true, m.durable.Frozen
	m.notify(KindLeaving, nil, "%s leaves", m.cfg.Nodes[m.cfg.Self])
	for _, other := range m.commands {
		clear(other.asking)
		clear(other.forcing)
	}
	for _, id := range m.ids {
		switch {
		case !id.word.Has(Owner):
		case m.keep:
			c.errs = append(c.errs, id.cfg.Name+": kept, this node is frozen")
		default:
			m.handOver(c, id, -1, "this node leaves")
		}
	}
}

// driveCommands ends what is fulfilled, late or impossible, and answers.
func (m *Machine) driveCommands() {
	for _, c := range m.commands {
		for _, id := range m.ids {
			if !c.asking[id.index] {
				continue
			}
			intent := m.theirs(id).Has(Owner|Yield) && m.meansMe(m.theirs(id))
			c.begun[id.index] = c.begun[id.index] || intent
			switch {
			case id.word.Has(Owner):
				c.resolve(id, "")
			case c.forcing[id.index] && m.now >= c.asked+m.cfg.Limits.Stage:
				c.resolve(id, m.peerName(id)+"'s kernel did not release it in time: is this node armed for it?")
			case c.forcing[id.index]:
			case c.force && (m.now >= c.asked+m.cfg.Limits.Stage+m.patience(id) || m.theirs(id).Has(Owner) && !intent && c.begun[id.index]):
				m.force(c, id)
			case m.theirs(id).Has(Owner) && !intent && c.begun[id.index]:
				c.resolve(id, m.peerName(id)+" began to hand it over and took that back: see its events")
			case !c.begun[id.index] && m.now >= c.asked+m.cfg.Limits.Stage+m.patience(id):
				c.resolve(id, m.peerName(id)+" did not begin to hand it over in time")
			case m.durable.Frozen || m.standby():
				c.resolve(id, "this node may no longer take it")
			case m.now >= c.deadline+m.patience(id):
				c.resolve(id, m.peerName(id)+" did not hand it over in time")
			}
		}
	}
	m.commands = slices.DeleteFunc(m.commands, func(c *command) bool {
		if c.kind == cmdLeave {
			return m.leave(c)
		}
		if c.saving || m.awaits(c) {
			return false
		}
		m.reply(c)
		return true
	})
	if m.left {
		for _, c := range m.commands {
			c.errs = append(c.errs, "this node has left")
			m.reply(c)
		}
		m.commands = nil
		m.emit(Left{})
	}
}

// abandons reports that this node leaves and could not hand the identity over.
func (m *Machine) abandons(id *identity) bool {
	return m.leaving && !m.keep && id.ho.phase == hoNone
}

func (m *Machine) reply(c *command) { m.emit(Reply{Op: c.op, Err: strings.Join(c.errs, "; ")}) }

func (m *Machine) leave(c *command) bool {
	if m.awaits(c) || !m.quiet(c) {
		return false
	}
	m.reply(c)
	m.left = true
	return true
}

// awaits reports whether something that the command asked for still runs.
func (m *Machine) awaits(c *command) bool {
	for i := range c.waiting {
		if c.asking[i] || slices.Contains(m.ids[i].ho.commands, c) {
			return true
		}
		delete(c.waiting, i)
	}
	return false
}

// quiet reports that a leaving node has disarmed and put everything away, or that
// it has waited for that as long as it may.
func (m *Machine) quiet(c *command) bool {
	if m.now >= c.deadline {
		return true
	}
	if m.wantConcurrent() != (m.concurrent.state == actOn) || m.concurrent.op != 0 {
		return false
	}
	for _, id := range m.ids {
		if m.keep && id.word.Has(Owner) {
			continue
		}
		if id.word.Has(Owner) || id.swap.op != 0 || id.word&(Ready|Want) != 0 || id.addr.state != actOff || id.svc.state != actOff {
			return false
		}
	}
	return true
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
