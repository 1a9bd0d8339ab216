// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
)

// bare is a node with two identities and nothing that touches the kernel; files is the peer's.
func bare() *node {
	log := slog.New(slog.DiscardHandler)
	cfg := &config.Config{
		Digest: 7, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}}, Self: 1,
		Timing:     config.Timing{SupervisorLost: 750 * time.Millisecond, SuspectAfter: 3 * time.Millisecond},
		Identities: []config.Identity{{Name: "files", Services: []string{"samba"}}, {Name: "mail"}},
	}
	return &node{Options: Options{Config: cfg, Log: log}, hub: control.NewHub(16), hooks: newHooks("", log)}
}

// heard is what the kernel knows of a peer that owns files, with its services up.
func heard() *loader.State {
	return &loader.State{
		Peers: []loader.Peer{{
			State: core.PeerUp, Digest: 7, Flags: loader.Flags{Services: 1},
			Words: []core.Word{core.MakeWord(core.Owner, 1), core.MakeWord(core.Ready, 1)},
		}, {}},
		Words: []core.Word{core.MakeWord(core.Ready, 1), core.MakeWord(core.Owner, 1)},
	}
}

func TestAPeerHasThreeValues(t *testing.T) {
	for _, tt := range []struct {
		name       string
		set        func(*loader.State)
		supervisor string
		services   map[string]string
		solo       bool
	}{
		{"all is well", func(*loader.State) {}, "up", map[string]string{"files": "up"}, false},
		{"it serves alone", func(s *loader.State) { s.Peers[0].Flags.Solo = true }, "up", map[string]string{"files": "up"}, true},
		{"its services are down", func(s *loader.State) { s.Peers[0].Flags.Services = 2 }, "up", map[string]string{"files": "down"}, false},
		{"its daemon is lost", func(s *loader.State) { s.Peers[0].Age = 750 * time.Millisecond }, "lost", map[string]string{"files": "up"}, false},
		{"it is suspect: its last word holds", func(s *loader.State) { s.Peers[0].State = core.PeerSuspect }, "up", map[string]string{"files": "up"}, false},
		{"it is dead: nothing is known", func(s *loader.State) { s.Peers[0].State, s.Peers[0].Flags.Solo = core.PeerDead, true }, "unknown", map[string]string{}, false},
		{"it was never heard", func(s *loader.State) { s.Peers[0].State = core.PeerUnknown }, "unknown", map[string]string{}, false},
		{"it speaks of other identities", func(s *loader.State) { s.Peers[0].Digest = 8 }, "up", map[string]string{}, false},
		{"both claim it: it is not the peer's", func(s *loader.State) { s.Words[0] = core.MakeWord(core.Owner, 2) }, "up", map[string]string{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := heard()
			tt.set(s)
			p := bare().peerStatus(s, 0)
			if p.Supervisor != tt.supervisor || p.Solo != tt.solo {
				t.Errorf("supervisor %s, solo %v", p.Supervisor, p.Solo)
			}
			if d := cmp.Diff(tt.services, p.Services); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestThePolicyIsTheConfigurations(t *testing.T) {
	n := bare()
	if p := n.peerStatus(heard(), 0).Policy; p != (control.Policy{SupervisorLost: control.PolicyWait, AfterUS: 750_000}) {
		t.Errorf("%+v", p)
	}
	n.Config.Timing.DemandIfLost = true
	if p := n.peerStatus(heard(), 0).Policy; p.SupervisorLost != control.PolicyTakeover {
		t.Errorf("%+v", p)
	}
}

func TestThePeersServicesAreToldOncePerChange(t *testing.T) {
	n, s := bare(), heard()
	look := func(peer core.PeerState, services uint16) {
		s.Peers[0].State, s.Peers[0].Flags.Services = peer, services
		n.watchPeerServices(s)
	}
	for _, up := range []uint16{1, 1, 0, 0, 1} { // what it is at first is no change
		look(core.PeerUp, up)
	}
	look(core.PeerDead, 1) // not heard: what it says afterwards is no change
	look(core.PeerUp, 0)
	s.Peers[0].Words[0] = core.MakeWord(core.Yield, 1) // not its own any more
	look(core.PeerUp, 1)
	s.Peers[0].Words[0] = core.MakeWord(core.Owner, 2)
	look(core.PeerUp, 0)
	look(core.PeerUp, 1)
	var told []string
	events, _ := n.hub.Read(0).Ready()
	for _, e := range events {
		told = append(told, fmt.Sprint(e.Kind, " ", e.Identity, ": ", e.Text))
	}
	down, up := "peer-services-down files: the services of files on serv1 are down", "peer-services-up files: the services of files on serv1 are up"
	if d := cmp.Diff([]string{down, up, up}, told); d != "" {
		t.Error(d)
	}
}

func TestAnIdentityServesWhenAllOfItIsUp(t *testing.T) {
	for _, tt := range []struct {
		name               string
		identity           int
		addresses, phase   string
		up, unseen, before bool
		want               bool
	}{
		{"its service is up", 0, "on", "running", true, false, false, true},
		{"its service is down", 0, "on", "running", false, false, true, false},
		{"no services: its addresses are on", 1, "on", "stopped", false, false, false, true},
		{"no services, no addresses", 1, "adding", "stopped", false, false, true, false},
		{"after a restart of the daemon what held goes on", 0, "on", "unknown", false, true, true, true},
		{"until it has looked", 0, "on", "starting", false, true, true, true},
		{"also if it was down", 0, "on", "starting", false, true, false, false},
		{"it has looked", 0, "on", "running", false, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := bare()
			n.loop.unseen[tt.identity] = tt.unseen
			if tt.before {
				n.loop.flags.Services = 1 << tt.identity
			}
			id := core.IdentitySnapshot{Addresses: tt.addresses, Services: tt.phase}
			if got := n.servesAll(tt.identity, id, map[string]bool{"samba": tt.up}); got != tt.want {
				t.Errorf("serves: %v", got)
			}
		})
	}
}

func TestTheRightToServeRunsOutAndIsNotAlwaysAskedFor(t *testing.T) {
	n, s := bare(), &loader.State{AtNS: 100, ServeUntilNS: 130, ServeNeeded: true}
	if left := n.rightToServe(s); left == nil || *left != 30 {
		t.Errorf("left: %v", left)
	}
	s.AtNS = 200
	if left := n.rightToServe(s); left == nil || *left != 0 {
		t.Errorf("run out: %v", left)
	}
	s.ServeNeeded = false
	if left := n.rightToServe(s); left != nil {
		t.Errorf("arbiter none: %v", *left)
	}
}

func TestOfManyTheLeastRightOfWhatIsOwnedIsShown(t *testing.T) {
	n := bare()
	n.Config.Nodes = append(n.Config.Nodes, config.Node{Name: "serv3"})
	s := &loader.State{
		AtNS: 100, ServeNeeded: true, Words: []core.Word{core.MakeWord(core.Owner, 3), core.MakeWord(core.Owner, 6)},
		GrantedUntilNS: []int64{130, 0}, LeaveNS: []int64{0, 120},
	}
	if left := n.rightToServe(s); left == nil || *left != 20 {
		t.Errorf("left: %v", left)
	}
	s.Words = []core.Word{0, 0}
	if left := n.rightToServe(s); left != nil {
		t.Errorf("nothing is owned: %v", *left)
	}
}

func TestOfManyEachIdentitysServicesAreItsOwners(t *testing.T) {
	n, s := bare(), heard()
	n.Config.Nodes = append(n.Config.Nodes, config.Node{Name: "serv3"})
	third := s.Peers[0]
	third.Words = []core.Word{0, core.MakeWord(core.Owner, 5)}
	third.Flags.Services = 0
	s.Peers, s.Words[1] = append(s.Peers, third), 0
	if d := cmp.Diff(map[int]theirServices{0: {0, true}, 1: {2, false}}, peerServices(n.Config, s), cmp.AllowUnexported(theirServices{})); d != "" {
		t.Error(d)
	}
}

// A person may be wrong about a peer: what the kernel has seen of it counts for more.
func TestAPeerThatShowsLifeIsNotConfirmedOff(t *testing.T) {
	for _, tt := range []struct {
		name    string
		set     func(*loader.Peer)
		refused string
	}{
		{"dead", func(*loader.Peer) {}, ""},
		{"heard", func(p *loader.Peer) { p.State = core.PeerSuspect }, "serv1 is heard"},
		{"not known yet", func(p *loader.Peer) { p.State = core.PeerUnknown }, "may still be booting"},
		{"it knocks", func(p *loader.Peer) { p.KnockedNS = 99e9 }, "speaks in serv1's name"},
		{"it knocked long ago", func(p *loader.Peer) { p.KnockedNS = 89e9 }, ""},
		{"it knocked and was heard, before it died", func(p *loader.Peer) { p.KnockedNS, p.HeardNS = 98e9, 99e9 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, s := bare(), heard()
			n.Config.Arbiter.Fence, n.Config.Timing.BootHold = &config.Fence{}, 10*time.Second
			s.AtNS, s.Peers[0].State = 100e9, core.PeerDead
			tt.set(&s.Peers[0])
			err := n.mayConfirm(s, "serv1")
			if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("refused: %v, want %q", err, tt.refused)
			}
		})
	}
}
