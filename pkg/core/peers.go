// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
)

// others are the numbers of all other nodes.
func (m *Machine) others() (nodes []int) {
	for p := range m.cfg.Nodes {
		if p != m.cfg.Self {
			nodes = append(nodes, p)
		}
	}
	return nodes
}

// view is what is known of a node.
func (m *Machine) view(p int) PeerView {
	if p < len(m.obs.Peers) {
		return m.obs.Peers[p]
	}
	return PeerView{}
}

// has reports whether a node may own the identity: it is a candidate.
func (id *identity) has(node int) bool { return slices.Contains(id.cfg.Prefer, node) }

// candidates are the other nodes that may own it, in order of preference.
func (m *Machine) candidates(id *identity) (nodes []int) {
	for _, p := range id.cfg.Prefer {
		if p != m.cfg.Self {
			nodes = append(nodes, p)
		}
	}
	return nodes
}

// names are those of nodes.
func (m *Machine) names(nodes []int) (names []string) {
	for _, p := range nodes {
		names = append(names, m.cfg.Nodes[p])
	}
	return names
}

// firstOther is the most preferred candidate but one.
func (c IdentityConfig) firstOther(than int) int {
	for _, p := range c.Prefer {
		if p != than {
			return p
		}
	}
	return than // it has no other
}

// The peer of an identity is its counterpart, see meet.

func (m *Machine) peerName(id *identity) string { return m.cfg.Nodes[id.peer] }
func (m *Machine) theirs(id *identity) Word     { return m.view(id.peer).word(id.index) }
func (m *Machine) up(id *identity) bool         { return m.view(id.peer).State == PeerUp }
func (m *Machine) suspect(id *identity) bool    { return m.view(id.peer).State == PeerSuspect }
func (m *Machine) dead(id *identity) bool       { return m.view(id.peer).State == PeerDead }

// fits are the other nodes that could take an identity in a hand-over, in order of preference.
func (m *Machine) fits(id *identity) (nodes []int) {
	for _, p := range m.candidates(id) {
		if m.cannot(id, p) == "" {
			nodes = append(nodes, p)
		}
	}
	return nodes
}

// noneFits says why nobody could.
func (m *Machine) noneFits(id *identity) string {
	if len(m.candidates(id)) == 0 {
		return "no other node may own it"
	}
	var why []string
	for _, p := range m.candidates(id) {
		why = append(why, m.cannot(id, p))
	}
	return strings.Join(why, ", ")
}

// cannot says why a node cannot take an identity in a hand-over, or "".
func (m *Machine) cannot(id *identity, p int) string {
	if why := m.absent(p); why != "" {
		return why
	}
	if w := m.view(p).word(id.index); w.Gen() != id.word.Gen() || !w.Has(Ready) {
		return m.cfg.Nodes[p] + " is not armed for it"
	}
	return ""
}

// absent says why a node takes nothing at all, or "".
func (m *Machine) absent(p int) string {
	v, name := m.view(p), m.cfg.Nodes[p]
	switch {
	case v.State != PeerUp:
		return fmt.Sprintf("%s is %v", name, v.State)
	case !v.SupervisorOK:
		return name + "'s supervisor does not run"
	case v.Standby:
		return name + " is in standby"
	case v.Frozen:
		return name + " is frozen"
	}
	return ""
}

func (m *Machine) granted(id *identity) bool { return m.obs.granted(id.index) }
