// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
)

func TestPartsAreComparedWhenAllOfThePeersAreHeard(t *testing.T) {
	mine, theirs := bare().Config, bare().Config
	theirs.Identities[1].Failback = "auto"
	theirs.Identities = append(theirs.Identities, config.Identity{Name: "news"})
	here, there := parts{mine: mine.Parts()}, parts{mine: theirs.Parts()}
	for turn := range 2 * config.PartSlots {
		if names, known := here.difference(here.of(1, 9)); known && turn < config.PartSlots {
			t.Fatalf("after %d parts of %d the difference is %q", turn, config.PartSlots, names)
		}
		here.of(1, 9).hear(there.say(int64(turn) * int64(partEvery)))
	}
	names, known := here.difference(here.of(1, 9))
	if want := []string{"the numbers of nodes and identities", "identity mail", "an identity more there (number 3 by name)"}; !known || !slices.Equal(names, want) {
		t.Errorf("they differ in %q, want %q", names, want)
	}
	here.of(1, 10).hear(there.say(0)) // the peer's administrator has changed it again
	if names, known := here.difference(here.of(1, 10)); known {
		t.Errorf("of another configuration of the peer nothing is known yet, but %q", names)
	}
	if _, known := here.difference(here.of(2, 9)); known {
		t.Error("what one peer says counts for another one")
	}
}

func TestAPeerOfAnotherConfigurationIsToldApart(t *testing.T) {
	n, s := bare(), heard()
	for digest, want := range map[uint32]core.PeerView{
		7: {State: core.PeerUp, SupervisorOK: true},
		8: {State: core.PeerUnknown, Apart: true},
	} {
		s.Peers[0].Digest = digest
		got := n.peerViews(s)[0]
		if got.State != want.State || got.Apart != want.Apart || got.SupervisorOK != want.SupervisorOK {
			t.Errorf("digest %d: %+v", digest, got)
		}
	}
	s.Peers[0].State = core.PeerDead
	if v := n.peerViews(s)[0]; v.State != core.PeerDead || v.Apart {
		t.Errorf("dead: %+v", v)
	}
}
