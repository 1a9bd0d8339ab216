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

// A node that stood still calls its peer up until its kernel's timer runs, and knows nothing of what it took.
func TestAPeerThatWasNotHeardIsSuspectBeforeTheTimerSaysSo(t *testing.T) {
	n, s := bare(), heard()
	if v := n.peerViews(s)[0]; v.State != core.PeerUp || !v.SupervisorOK {
		t.Errorf("heard just now: %+v", v)
	}
	s.AtNS += n.Config.Timing.SuspectAfter.Nanoseconds()
	if v := n.peerViews(s)[0]; v.State != core.PeerSuspect || v.SupervisorOK {
		t.Errorf("not heard for %v: %+v", n.Config.Timing.SuspectAfter, v)
	}
}

// From the words of one that lives with another configuration nothing follows.
func TestAPeerOfAnotherConfigurationCountsAsUnknown(t *testing.T) {
	for _, tt := range []struct {
		digest     uint32
		state      core.PeerState
		want       core.PeerState
		supervisor bool
	}{
		{7, core.PeerUp, core.PeerUp, true},
		{8, core.PeerUp, core.PeerUnknown, false},
		{8, core.PeerDead, core.PeerDead, false},
	} {
		n, s := bare(), heard()
		s.Peers[0].Digest, s.Peers[0].State = tt.digest, tt.state
		if v := n.peerViews(s)[0]; v.State != tt.want || v.SupervisorOK != tt.supervisor {
			t.Errorf("digest %d, %v: %+v", tt.digest, tt.state, v)
		}
	}
}
