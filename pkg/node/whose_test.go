// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/line"
	"github.com/xdpha/xdpha/pkg/mirror"
)

// mirroringNode is serv1 of a pair, with mirrors and no loop, kernel or network.
func mirroringNode(t *testing.T) *node {
	t.Helper()
	cfg := &config.Config{
		Keys: []config.Key{{ID: 1}}, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}},
		Identities: []config.Identity{{Name: "files", Mirror: []string{"data"}}},
		Mirrors:    []config.Mirror{{Name: "data", Paths: []string{"/srv/x"}}},
	}
	log := slog.New(slog.DiscardHandler)
	l, err := line.New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	close(ended) // nobody takes what is posted
	working, stop := context.WithCancel(t.Context())
	stop() // nobody is called
	n := &node{Options: Options{Config: cfg, Log: log}, working: working, ended: ended, hub: control.NewHub(8), hooks: newHooks("", log), shared: newShared(1)}
	n.mirrors, err = mirror.New(mirror.Options{Config: cfg, Line: l, StateDir: t.TempDir(), RunDir: t.TempDir(), Program: "/bin/true", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// reading is what serv1's kernel says: its own word, and serv2's.
func reading(own, theirs core.Word) *loader.State {
	return &loader.State{Words: []core.Word{own}, Peers: []loader.Peer{{}, {State: core.PeerUp, Boot: 7, Words: []core.Word{theirs}}}}
}

// serv1 owned it at 4, and serv2 has served it since; serv1's services still stop, and its mirrors are told after that.
func TestACopyIsOldAlsoWhenItsOwnerHasReleasedIt(t *testing.T) {
	n := mirroringNode(t)
	if err := n.mirrors.Follow("files", 4, mirror.Owner); err != nil {
		t.Fatal(err)
	}
	lacks := func(theirs core.Word) bool {
		list, _ := n.unsynced(reading(core.MakeWord(0, theirs.Gen()), theirs))
		return list[0]
	}
	if !lacks(core.MakeWord(core.Yield, 4)) {
		t.Error("serv2 has not been asked yet")
	}
	n.loop.questions[0].hear(n.loop.questions[0].spell, nil)
	if lacks(core.MakeWord(core.Yield, 4)) {
		t.Error("serv2 has served nothing since: this test shows nothing")
	}
	foreign := reading(0, core.MakeWord(core.Owner, 9))
	foreign.Peers[1].Digest++ // its words speak of other identities
	n.unsynced(foreign)
	if lacks(core.MakeWord(core.Yield, 4)) {
		t.Error("a word of another configuration is remembered")
	}
	for _, theirs := range []core.Word{
		core.MakeWord(core.Owner, 5), core.MakeWord(core.Yield, 5), // its kernel released it: its daemon hangs
		core.MakeWord(core.Want, 6), 0, // it was burned; it has booted
	} {
		if !lacks(theirs) {
			t.Errorf("serv2's word is %v, after it served at 5: data of 4 counts as whole", theirs)
		}
	}
	if err := n.mirrors.Follow("files", 8, mirror.Owner); err != nil { // by force
		t.Fatal(err)
	}
	if lacks(core.MakeWord(0, 8)) {
		t.Error("what this node has served since counts as old")
	}
}

// serv1, standby, returns after hours. serv2 still owns at the generation of which serv1 had all.
func TestWhoReturnsIsReadyOnlyWhenTheOwnerHasAnswered(t *testing.T) {
	n := mirroringNode(t)
	if err := n.mirrors.Follow("files", 4, mirror.Owner); err != nil { // its data is of 4
		t.Fatal(err)
	}
	owned := reading(core.MakeWord(core.Ready, 4), core.MakeWord(core.Owner, 4))
	look := func(what string, s *loader.State, want bool) {
		t.Helper()
		if lacks, unasked := n.unsynced(s); lacks[0] != want || unasked[0] != want {
			t.Errorf("%s: unsynced %v, for nobody was asked %v", what, lacks, unasked)
		}
	}
	dead := *owned
	dead.Peers = []loader.Peer{{}, {State: core.PeerDead, Boot: 7, Words: owned.Peers[1].Words}}
	q := &n.loop.questions[0]
	look("it is heard", owned, true)
	q.hear(q.spell, nil)
	look("it has answered", owned, false)
	look("it is dead", &dead, false)
	look("it is heard anew", owned, true)
	q.hear(q.spell-1, nil)
	look("it has answered before", owned, true)
	q.hear(q.spell, nil)
	look("it has answered again", owned, false)
}

func TestAPeerThatCannotBeAskedIsTold(t *testing.T) {
	n := mirroringNode(t)
	look := func() string {
		t.Helper()
		lacks, unasked := n.unsynced(reading(0, 0))
		if q := n.loop.questions[0]; lacks[0] == q.answered || unasked[0] == q.answered {
			t.Fatalf("unsynced %v, for nobody was asked %v, of %+v", lacks, unasked, q)
		}
		list := n.shared.troubleList()
		if len(list) == 0 {
			return ""
		}
		return list[0].Kind + ": " + list[0].Text
	}
	if got := look(); got != "" {
		t.Errorf("before it was asked: %s", got)
	}
	q := &n.loop.questions[0]
	q.hear(q.spell, errors.New("reach serv2: i/o timeout"))
	if got := look(); got != "" {
		t.Errorf("a daemon that starts is told of: %s", got)
	}
	q.failing = q.failing.Add(-askPatience)
	q.hear(q.spell, errors.New("reach serv2: no route"))
	if got := look(); !strings.Contains(got, "mirrors-unasked: the mirrors of serv2") || !strings.Contains(got, "no route") || !strings.Contains(got, "port 9641") {
		t.Errorf("told %q", got)
	}
	q.hear(q.spell-1, nil) // to what was asked before it booted
	if look() == "" {
		t.Error("an answer of before ends it")
	}
	q.hear(q.spell, nil)
	if got := look(); got != "" {
		t.Errorf("after its answer: %s", got)
	}
}

// What an owner writes while its peer is dead is told from what both have; not so what it writes in the moment until it
// knows that it is cut off, nor in the time in which it stood still.
func TestWhatIsServedAloneForLongIsOneNodesAlone(t *testing.T) {
	const second = int64(time.Second)
	serving := func(at int64) *loader.State {
		s := reading(core.MakeWord(core.Owner, 4), 0)
		s.AtNS, s.LeaseUntilNS, s.Peers[1].State = at, at+second, core.PeerDead
		return s
	}
	for name, tt := range map[string]struct {
		spoil func(s *loader.State)
		fence *config.Fence
		every int64
		want  bool
	}{
		"the peer is dead":           {func(*loader.State) {}, nil, second / 10, true},
		"the peer is heard":          {func(s *loader.State) { s.Peers[1].State = core.PeerUp }, nil, second / 10, false},
		"it is not the owner":        {func(s *loader.State) { s.Words[0] = core.MakeWord(core.Ready, 4) }, nil, second / 10, false},
		"it is cut off":              {func(s *loader.State) { s.ServeNeeded, s.GrantedUntilNS, s.LeaveNS = true, []int64{s.AtNS}, []int64{0} }, nil, second / 10, false},
		"the peer was switched off":  {func(*loader.State) {}, &config.Fence{}, second / 10, true},
		"it stands still in between": {func(*loader.State) {}, nil, 5 * second, false},
	} {
		n := mirroringNode(t)
		n.Config.Arbiter.Fence = tt.fence
		for at := second; at < 20*second; at += tt.every {
			s := serving(at)
			tt.spoil(s)
			n.noteAlone(0, s)
			if at < second+aloneAfter && n.loop.alone[0].served >= aloneAfter {
				t.Fatalf("%s: after %v", name, time.Duration(at-second))
			}
		}
		if got := n.loop.alone[0].served >= aloneAfter; got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
		back := serving(21 * second)
		back.Peers[1].State = core.PeerUp
		if n.noteAlone(0, back); n.loop.alone[0].served != 0 {
			t.Errorf("%s: that it is heard again does not end it", name)
		}
	}
}
