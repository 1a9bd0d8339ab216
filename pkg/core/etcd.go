// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
)

// key is what is known of an identity's key in etcd.
func (m *Machine) key(id *identity) Key {
	if !m.cfg.Etcd || id.index >= len(m.obs.Keys) {
		return Key{}
	}
	return m.obs.Keys[id.index]
}

// wantKey is the generation at which this node wants an identity's key; 0: not at all. The owner
// begins when the peer is suspected, the other one when it is dead: so the owner wins a draw. It is
// given up when the peer's own word is enough again.
func (m *Machine) wantKey(id *identity) uint64 {
	w := id.word
	switch {
	case !m.cfg.Etcd || !id.known:
		return 0
	case m.useless(id):
		return 0
	case m.cfg.many():
		return m.wantKeyOfMany(id)
	case w.Has(Owner) && (!m.up(id) && m.view(id.peer).State != PeerUnknown || m.key(id).Held != 0 && !m.granted(id)):
		return w.Gen()
	case m.dead(id) && w.Has(Ready):
		return m.next(id, w.Gen())
	}
	return 0
}

// useless: an owner whose NICs have lost the clients and who hears nobody that could take it over serves
// nobody by its key, and keeps others from it.
func (m *Machine) useless(id *identity) bool {
	if !id.word.Has(Owner) || !m.dark(id) {
		return false
	}
	return !slices.ContainsFunc(m.candidates(id), func(p int) bool { return m.view(p).State == PeerUp })
}

func (m *Machine) driveKey(id *identity) {
	held := m.key(id).Held
	if want := m.wantKey(id); want != id.wanted {
		id.wanted = want
		if want != 0 {
			m.emit(Win{Identity: id.index, Generation: want})
		} else {
			m.emit(GiveUp{Identity: id.index})
		}
	}
	switch {
	case id.wanted == 0:
	case id.held == 0 && held != 0:
		m.notify(KindKeyWon, id, "%s holds the key of %s in etcd, at generation %d", m.cfg.Nodes[m.cfg.Self], id.cfg.Name, held)
	case id.held != 0 && held == 0:
		m.notify(KindKeyLost, id, "%s no longer holds the key of %s in etcd", m.cfg.Nodes[m.cfg.Self], id.cfg.Name)
	}
	id.held = held
}

// superseded reports that the key was won at a higher generation than this word's, and not just now
// by this node: what is owned here is out of date, and the next one must be above it.
func (m *Machine) superseded(id *identity) bool {
	stored := m.key(id).Stored
	if stored <= id.word.Gen() || stored == id.wanted {
		return false
	}
	return m.cfg.many() && m.supersededOfMany(id) || !m.cfg.many() && m.dead(id)
}

// supersede moves to the generation that etcd knows.
func (m *Machine) supersede(id *identity, mayArm bool) Word {
	stored := m.key(id).Stored
	switch {
	case id.word.Has(Owner):
		why := fmt.Sprintf("%s was taken at generation %d while this node had %d and heard nothing", id.cfg.Name, stored, id.word.Gen())
		if m.cfg.many() {
			why = fmt.Sprintf("the key of %s was won at generation %d, this node has %d and not every grant", id.cfg.Name, stored, id.word.Gen())
		}
		m.notify(KindSuperseded, id, "%s", why)
		return MakeWord(0, stored)
	case mayArm && m.promise(id, m.next(id, stored)):
		return MakeWord(Ready|m.claim(id), stored)
	}
	return id.word
}
