// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/control"
)

// attention lists what an administrator should look at; none means healthy.
func attention(s control.Status) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	peers := everyPeer(s)
	silent, without := orDash(s.Peer.Name), "a failure of this node would not be covered"
	if len(peers) > 1 {
		silent, without = "a peer", "it would take nothing over"
	}
	for _, p := range peers {
		if p.State != control.PeerUp {
			add("%s is %s: %s", orDash(p.Name), p.State, without)
		}
		for _, id := range slices.Sorted(maps.Keys(p.Services)) {
			if p.Services[id] != control.ServicesUp {
				add("the services of %s, which %s owns, are not up there", id, orDash(p.Name))
			}
		}
	}
	out = append(out, linkTroubles(s)...)
	for _, t := range s.Troubles {
		add("%s", t.Text)
	}
	for _, id := range s.Identities {
		switch {
		case id.Owner == "":
			add("nobody owns %s", id.Name)
		case id.Owner == s.Node && id.Gate != control.GateOpen:
			add("%s is owned here, but its gate is closed: %s", id.Name, orDash(id.Reason))
		case id.Owner != s.Node && !id.Armed && mayTake(s, id) && stateOf(peers, id.Owner) == control.PeerUp && !s.Standby && !s.Frozen:
			add("this node is not ready to take %s: %s", id.Name, orDash(id.Reason))
		}
	}
	for _, v := range s.Services {
		if v.State == "failed" || v.State == "failing" {
			add("service %s is %s: %s", v.Name, v.State, orDash(v.Reason))
		}
	}
	for _, m := range s.Mirrors {
		if m.Error != "" && s.Peer.State != control.PeerDead { // of which the first line tells
			add("mirror set %s is not copied: %s", m.Name, m.Error)
		}
		if m.Unwatched != "" {
			add("mirror set %s: %s", m.Name, m.Unwatched)
		}
	}
	if !s.Arbiter.Satisfied {
		add("the arbiter would not let this node take or keep anything while %s is silent", silent)
	}
	if f := s.Arbiter.Fence; f != nil && f.LastError != "" && s.Peer.State == control.PeerDead {
		add("%s could not be switched off, and nothing of it is taken before it is: %s", orDash(s.Peer.Name), f.LastError)
	}
	if s.Standby {
		add("this node is in standby: it takes nothing (xdpha standby off)")
	}
	if s.Frozen {
		add("frozen: nothing moves by itself (xdpha freeze off)")
	}
	return out
}

// linkTroubles are the links on which somebody is not heard. Of more than two nodes a dead one is told
// of already: a link is told of for the peers that are heard on another one.
func linkTroubles(s control.Status) (out []string) {
	peers := everyPeer(s)
	for _, l := range s.Links {
		if l.Up {
			continue
		}
		if len(peers) == 1 {
			out = append(out, fmt.Sprintf("link %s (%s) is down", l.Name, l.Interface))
			continue
		}
		var silent []string
		for _, p := range peers {
			alive := slices.ContainsFunc(p.Links, func(to control.Link) bool { return to.Up }) || heardAcross(p) != ""
			down := slices.ContainsFunc(p.Links, func(to control.Link) bool { return to.Name == l.Name && !to.Up })
			if alive && down {
				silent = append(silent, p.Name)
			}
		}
		if len(silent) > 0 {
			out = append(out, fmt.Sprintf("link %s (%s) is down to %s", l.Name, l.Interface, strings.Join(silent, ", ")))
		}
	}
	for _, p := range peers {
		if across := heardAcross(p); across != "" {
			out = append(out, fmt.Sprintf("%s is heard on no link, only across, on %s", p.Name, across))
		}
	}
	return out
}

// heardAcross are the cross paths on which a peer is heard that is heard on no link; "": that is not so.
func heardAcross(p control.Peer) string {
	up := func(l control.Link) bool { return l.Up }
	if slices.ContainsFunc(p.Links, up) {
		return ""
	}
	var names []string
	for _, l := range p.Cross {
		if l.Up {
			names = append(names, l.Name)
		}
	}
	return strings.Join(names, ", ")
}

// stateOf is a peer's state; "" for who is none.
func stateOf(peers []control.Peer, name string) string {
	for _, p := range peers {
		if p.Name == name {
			return p.State
		}
	}
	return ""
}
