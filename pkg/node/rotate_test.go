// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
)

func TestASecretIsFollowedIfTheNodesGoOnHearingEachOther(t *testing.T) {
	one, two, three := config.Key{K0: 1, ID: 1}, config.Key{K0: 2, ID: 2}, config.Key{K0: 3, ID: 3}
	type keys []config.Key
	for _, tt := range []struct {
		name       string
		have, want keys
		unheard    bool
		signs      uint8 // the peer
		acceptsTwo bool
		refused    string
	}{
		{"a second one", keys{one}, keys{one, two}, false, 1, false, ""},
		{"the second one first, as the peer accepts two", keys{one, two}, keys{two, one}, false, 1, true, ""},
		{"the second one first, as the peer signs with it", keys{one, two}, keys{two, one}, false, 2, false, ""},
		{"the second one first, and the peer has but one", keys{one, two}, keys{two, one}, false, 1, false, "does not accept the first"},
		{"the old one is left out", keys{two, one}, keys{two}, false, 2, true, ""},
		{"the old one is left out, and the peer signs with it", keys{two, one}, keys{two}, false, 1, true, "still signs with"},
		{"a new one alone", keys{one}, keys{three}, false, 1, true, "no secret of it is in force"},
		{"a new one alone, with no peer", keys{one}, keys{three}, true, 1, true, "no secret of it is in force"},
		{"in haste, with no peer", keys{one, two}, keys{two}, true, 1, false, ""},
		{"nothing new", keys{one}, keys{one}, false, 1, false, ""},
	} {
		p := loader.Peer{Key: tt.signs, Flags: loader.Flags{TwoKeys: tt.acceptsTwo}}
		if !tt.unheard {
			p.State = core.PeerUp
		}
		err := mayRotate(tt.have, tt.want, "serv2", &p)
		if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.refused)
		}
	}
}
