// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/line"
	"github.com/xdpha/xdpha/pkg/metrics"
	"github.com/xdpha/xdpha/pkg/mirror"
)

// mirroring is what the mirrors of an identity were told last.
type mirroring struct {
	generation uint64
	role       mirror.Role
	peer       bool // it is heard: what failed without it is worth another try
	alone      bool // this node has served for long while the peer is dead
}

// prepareMirrors makes their manager, if there are sets.
func (n *node) prepareMirrors() error {
	if len(n.Config.Mirrors) == 0 {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("prepare mirrors: %w", err)
	}
	n.mirrors, err = mirror.New(mirror.Options{
		Config: n.Config, Line: n.line, StateDir: n.StateDir, RunDir: n.RunDir, Program: program, Log: n.Log, Changed: n.mirrorChanged,
	})
	return err
}

// followMirrors tells the mirrors of an identity whose owner has changed. The loop calls it.
func (n *node) followMirrors(snap core.Snapshot) {
	if n.mirrors == nil || len(snap.Peers) == 0 { // nothing was looked at yet
		return
	}
	for i, id := range snap.Identities {
		n.tellMirrors(i, n.mirrorsOf(i, id, &snap.Peers[n.Config.Peer()]))
	}
}

// tellWaiting is how much may wait in a lane when the mirrors are told more.
const tellWaiting = 32

// tellMirrors tells an identity's mirrors what they have to do, among what is done with its services: what
// is received while those stop would be under their hands. While these take their time a peer may be
// suspected many times: then the latest is told when fewer wait.
func (n *node) tellMirrors(i int, now mirroring) {
	l := n.effects.services[i]
	if now == n.loop.mirroring[i] || len(n.Config.Identities[i].Mirror) == 0 || l.waiting() >= tellWaiting {
		return
	}
	n.loop.mirroring[i] = now
	l.put(func(context.Context) { n.followMirror(i, now) })
}

// mirrorsOf is what an identity's mirrors have to do: the owner's word says whose data it is. While
// nobody is known to own it, nothing is copied, at the generation that was known; nor while services that
// did not stop would have their data changed under their hands.
func (n *node) mirrorsOf(i int, id core.IdentitySnapshot, p *core.PeerView) mirroring {
	peer := p.State == core.PeerUp
	switch word := n.dp.Word(i); {
	case word.Has(core.Owner):
		return mirroring{word.Gen(), mirror.Owner, peer, n.loop.alone[i].served >= aloneAfter}
	case id.Owner == n.Config.Peer() && id.Services == "stopped":
		return mirroring{p.Words[i].Gen(), mirror.Standby, peer, false}
	}
	return mirroring{n.loop.mirroring[i].generation, mirror.None, peer, false}
}

// followMirror returns when nobody else writes to the identity's sets any more.
func (n *node) followMirror(identity int, now mirroring) {
	if n.mirrors == nil {
		return
	}
	name := n.Config.Identities[identity].Name
	err := n.mirrors.Follow(name, now.generation, now.role)
	if now.alone {
		err = errors.Join(err, n.mirrors.Alone(name, now.generation))
	}
	if err != nil {
		n.tell(loader.Now(), "mirror-failed", identity, err.Error(), nil)
	}
}

// unsynced is, by identity, whether this node's copy of the data is not whole, or not known to be; and if it is only
// that the other node has not been asked. What is owned is whole.
func (n *node) unsynced(s *loader.State) (lacks, unasked []bool) {
	if n.mirrors == nil {
		return nil, nil
	}
	lacks, unasked = make([]bool, len(n.Config.Identities)), make([]bool, len(n.Config.Identities))
	states := map[string]mirror.State{}
	for _, set := range n.mirrors.States() {
		states[set.Set] = set
	}
	for i, id := range n.Config.Identities {
		if len(id.Mirror) == 0 {
			continue
		}
		n.noteServed(i, n.peerOf(s))
		n.noteAlone(i, s)
		owner := n.peerOf(s).Words[i] // of whose generation the mirrors may not have been told yet
		old := slices.ContainsFunc(id.Mirror, func(name string) bool {
			set := states[name]
			return !set.Whole || owner.Has(core.Owner) && set.WholeAt != owner.Gen() || set.WholeAt < n.loop.served[i]
		})
		asked := n.askedPeer(i, s)
		if s.Words[i].Has(core.Owner) {
			continue
		}
		lacks[i], unasked[i] = old || !asked, !old && !asked
	}
	n.tellUnasked(unasked)
	return lacks, unasked
}

// noteServed keeps at which generation the other node has owned an identity: only an owner releases, and what it
// releases, burns or loses to a reboot says nothing of it soon. The mirrors are told behind services that stop.
func (n *node) noteServed(i int, p *loader.Peer) {
	if w := p.Words[i]; p.Digest == n.Config.Digest && (w.Has(core.Owner) || w.Has(core.Yield)) {
		n.loop.served[i] = max(n.loop.served[i], w.Gen())
	}
}

// servedAlone is for how long this node has served an identity while the peer is dead.
type servedAlone struct{ served, at int64 }

// aloneAfter is far more than a node that is cut off goes on to serve.
const aloneAfter = int64(5 * time.Second)

// noteAlone counts how long this node serves while its peer is dead. Whether the peer serves too, as the arbiter may
// leave possible, or is off: what is written here from then on it must be known to lack when it is back. A node that
// stood still has not served: only what was looked at counts.
func (n *node) noteAlone(i int, s *loader.State) {
	a := &n.loop.alone[i]
	if open, _ := s.GateOpen(i); !open || n.peerOf(s).State != core.PeerDead {
		*a = servedAlone{}
		return
	}
	if a.at != 0 {
		a.served += min(s.AtNS-a.at, 2*int64(lookEvery))
	}
	a.at = s.AtNS
}

// question is what the peer's data of an identity has gone through. It may have owned it, and lost it again, while
// it was not heard; or it has gone on alone at the generation that this node knows. No word tells of that: its mirrors know.
type question struct {
	spell    int    // each time that the peer is heard anew it is another one
	boot     uint64 // of the peer
	heard    bool
	asked    bool
	answered bool      // by the peer, or this node has just released what it owned
	failing  time.Time // since then it cannot be asked
	err      error
}

const (
	askAgain    = 250 * time.Millisecond
	askPatience = 5 * time.Second // with an answer, and until it is told: a node is heard before its daemon runs
)

// askedPeer reports that the peer is not heard, or has answered since it is. The loop calls it.
func (n *node) askedPeer(i int, s *loader.State) bool {
	q, p, w := &n.loop.questions[i], n.peerOf(s), s.Words[i]
	if heard := heardPeer(p); heard != q.heard || p.Boot != q.boot {
		*q = question{spell: q.spell + 1, boot: p.Boot, heard: heard}
	}
	q.answered = q.answered || q.heard && w.Has(core.Yield)
	if q.heard && !q.answered && !q.asked {
		q.asked = true
		go n.askWhose(i, q.spell)
	}
	return !q.heard || q.answered
}

// askWhose asks the peer's mirrors, which may take until its daemon runs.
func (n *node) askWhose(i, spell int) {
	ctx, stop := context.WithTimeoutCause(n.working, askPatience, fmt.Errorf("no answer in %v", askPatience)) // as on a cable that is just cut
	defer stop()
	err := n.mirrors.AskPeer(ctx, n.Config.Identities[i].Name)
	n.post(func() { n.loop.questions[i].hear(spell, err) })
	n.post(hint{})
	if err == nil {
		return
	}
	n.Log.Info("ask whose data is newer", "identity", n.Config.Identities[i].Name, "err", err)
	select {
	case <-time.After(askAgain):
		n.post(func() { n.loop.questions[i].again(spell) })
	case <-n.working.Done():
	}
}

// hear takes an answer, or why there is none.
func (q *question) hear(spell int, err error) {
	switch {
	case q.spell != spell || q.answered:
	case err == nil:
		q.answered, q.err = true, nil
	default:
		if q.err == nil {
			q.failing = time.Now()
		}
		q.err = err
	}
}

// again has it asked once more.
func (q *question) again(spell int) {
	if q.spell == spell {
		q.asked = false
	}
}

// tellUnasked tells of identities that nobody takes for as long as the peer's mirrors cannot be asked.
func (n *node) tellUnasked(unasked []bool) {
	var names []string
	var why error
	for i, id := range n.Config.Identities {
		if q := &n.loop.questions[i]; unasked[i] && q.err != nil && time.Since(q.failing) >= askPatience {
			names, why = append(names, id.Name), q.err
		}
	}
	text, peer := "", n.Config.Nodes[n.Config.Peer()].Name
	if len(names) > 0 {
		text = fmt.Sprintf("the mirrors of %s, which is heard, cannot be asked whose data is newer (%v), and this node does not take %s before: look whether the daemon runs there, and let packet filters pass TCP port %d between the nodes",
			peer, why, strings.Join(names, ", "), line.Port)
	}
	n.tellTrouble(troubleUnasked, n.Config.Peer(), text, "the mirrors of "+peer+" are not to be asked any more, or have answered")
}

// copyData brings an identity's sets to the other node, beside all else.
func (n *node) copyData(a core.Copy) {
	ctx, cancel := context.WithCancelCause(context.Background())
	n.effects.copying[a.Op] = func() { cancel(errors.New("the hand-over was called off")) }
	id := n.Config.Identities[a.Identity]
	go func() {
		stop := context.AfterFunc(n.working, func() { cancel(context.Canceled) })
		defer stop()
		var errs []error
		for _, set := range id.Mirror {
			if _, err := n.mirrors.SyncNow(ctx, set); err != nil {
				errs = append(errs, err)
			}
		}
		n.post(func() {
			delete(n.effects.copying, a.Op)
			cancel(nil)
			n.step(effectResult(a.Op, errors.Join(errs...)))
		})
	}()
}

// Estimates is what giving back would copy of what this node owns and another one is home to.
func (b backend) Estimates(ctx context.Context) (list []control.Estimate, err error) {
	n := b.n
	for i, id := range n.Config.Identities {
		if id.Home == n.Config.Self || !n.dp.Word(i).Has(core.Owner) {
			continue
		}
		e := control.Estimate{Identity: id.Name, To: n.Config.Nodes[id.Home].Name}
		for _, set := range id.Mirror {
			s, err := n.mirrors.Estimate(ctx, set)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", control.ErrUnavailable, err)
			}
			e.Files, e.Copied, e.Bytes, e.Deleted = e.Files+s.Files, e.Copied+s.Copied+s.Created, e.Bytes+s.CopiedBytes, e.Deleted+s.Deleted
			e.CompareS += s.Took.Seconds()
		}
		list = append(list, e)
	}
	return list, nil
}

// mirrorChanged tells of a set whose runs fail, or work again.
func (n *node) mirrorChanged(s mirror.State) {
	identity := -1
	for i, id := range n.Config.Identities {
		for _, name := range id.Mirror {
			if name == s.Set {
				identity = i
			}
		}
	}
	kind, text := "mirror-failed", "mirror set "+s.Set+": "+s.Error
	if s.Error == "" {
		kind, text = "mirror-back", "mirror set "+s.Set+" is copied again"
	}
	n.tell(loader.Now(), kind, identity, text, nil)
}

var directions = map[mirror.Role]string{mirror.None: control.MirrorStopped, mirror.Owner: control.MirrorOut, mirror.Standby: control.MirrorIn}

func (n *node) mirrorStatus() (list []control.Mirror) {
	if n.mirrors == nil {
		return nil
	}
	for _, s := range n.mirrors.States() {
		m := control.Mirror{
			Name: s.Set, Direction: directions[s.Role], LagS: -1, Generation: s.Generation, Running: s.Running, Link: s.Link,
			Files: s.Last.Files, Bytes: s.Last.Bytes, LastRunS: s.Last.Took.Seconds(), Error: s.Error, Unwatched: s.Unseen,
		}
		if s.Known {
			m.LagS = s.Lag.Seconds()
		}
		if s.Running && s.Role == mirror.Owner {
			m.Progress = &control.MirrorProgress{Bytes: s.Progress.Bytes, Percent: s.Progress.Percent, FilesLeft: s.Progress.ToCheck}
		}
		list = append(list, m)
	}
	return list
}

func (n *node) mirrorMetrics() (list []metrics.Mirror) {
	if n.mirrors == nil {
		return nil
	}
	for _, s := range n.mirrors.States() {
		m := metrics.Mirror{Set: s.Set, LagSeconds: -1, Good: s.Runs, Failed: s.Failures, SentBytes: s.Sent}
		if s.Known {
			m.LagSeconds = s.Lag.Seconds()
		}
		list = append(list, m)
	}
	return list
}
