// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"maps"
	"slices"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/control"
)

// The kinds of trouble: what status shows and a metric counts for as long as it lasts.
const (
	troubleState    = "persist-failed"
	troubleNIC      = "nic-missing"
	troublePrograms = "programs-missing" // from a NIC that is there
	troubleConfig   = "configs-differ"
	troubleStranger = "stranger"
	troubleGuard    = "guard-missing"
	troubleUnasked  = "mirrors-unasked"
)

var troubleKinds = []string{troubleState, troubleNIC, troublePrograms, troubleConfig, troubleStranger, troubleGuard, troubleUnasked}

// troubleKey tells troubles of one kind apart: of a NIC by its link, of a peer by its number.
type troubleKey struct {
	kind   string
	number int
}

// trouble notes what is wrong, by its kind and a number; an empty text ends it. It reports whether it
// is news.
func (n *node) trouble(kind string, number int, text string) (news bool) {
	key := troubleKey{kind, number}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, was := n.shared.troubles[key]
	if text == "" {
		delete(n.shared.troubles, key)
		return was
	}
	n.shared.troubles[key] = text
	return !was
}

// tellTrouble is trouble, told as an event when it begins and when it ends.
func (n *node) tellTrouble(kind string, number int, text, ended string) {
	if !n.trouble(kind, number, text) {
		return
	}
	if text == "" {
		text = ended
	}
	n.tell(loader.Now(), kind, -1, text, nil)
}

// troubleList is what status shows.
func (s *shared) troubleList() (list []control.Trouble) {
	for _, kind := range troubleKinds {
		for number := range loader.MaxNodes { // more than there are links
			if text, there := s.troubles[troubleKey{kind, number}]; there {
				list = append(list, control.Trouble{Kind: kind, Text: text})
			}
		}
	}
	return list
}

// troubleFlags has every kind: a series that is missing until the first trouble cannot be alerted on.
func (s *shared) troubleFlags() map[string]bool {
	flags := map[string]bool{}
	for _, kind := range troubleKinds {
		flags[kind] = slices.ContainsFunc(slices.Collect(maps.Keys(s.troubles)), func(k troubleKey) bool { return k.kind == kind })
	}
	return flags
}

// What a repair puts back.
const (
	repairAddresses = "addresses"
	repairPaths     = "paths" // device, rules and routes
)

// repaired counts what was put back of an identity.
func (n *node) repaired(identity int, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shared.repairs[identity][what]++
}

// noteSaved keeps in view that promises cannot be kept. The core tells of it when it begins.
func (n *node) noteSaved(err error) {
	if err != nil {
		n.trouble(troubleState, 0, fmt.Sprintf("%v; nothing new is armed until it works", err))
		return
	}
	if n.trouble(troubleState, 0, "") {
		n.tell(loader.Now(), "persist-back", -1, n.store.path+" is written again", nil)
	}
}
