// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/arbiter/etcd"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
)

// lookEvery is how often the maps are read when nothing hints at a change.
const lookEvery = 100 * time.Millisecond

// loopState belongs to the loop alone.
type loopState struct {
	machine   *core.Machine
	config    *config.Config // as it was reloaded last; all parts but the secrets and hooks are those of Options
	lease     time.Duration
	last      core.Observed // the last reading, without its time
	flags     loader.Flags
	replies   map[uint64]chan string
	linkUp    [loader.Links]bool
	links     [loader.MaxNodes][loader.Links]linkWatch // to each peer
	owned     []bool                                   // by identity: what the host was told of addresses kept ahead
	differs   bool                                     // a peer lives, with another configuration
	parts     parts
	left      bool
	etcd      etcd.State // as it was read last
	told      [loader.MaxIdentities]toldStages
	mirroring [loader.MaxIdentities]mirroring
	questions [loader.MaxIdentities]question
	alone     [loader.MaxIdentities]servedAlone
	served    [loader.MaxIdentities]uint64 // the highest generation at which the other node of a pair is known to have owned it
	unseen    [loader.MaxIdentities]bool   // services that an earlier daemon left, not looked at yet
	theirs    map[int]theirServices        // the last word on the peers' services, by identity
}

func newLoopState(policy core.Config, cfg *config.Config, saved core.Saved) loopState {
	return loopState{
		machine: core.New(policy, saved), config: cfg, lease: cfg.Timing.SupervisorLease,
		replies: map[uint64]chan string{}, owned: make([]bool, len(cfg.Identities)),
	}
}

// post puts an event for the core, or a func() to run in the loop, into the inbox.
func (n *node) post(ev any) {
	select {
	case n.inbox <- ev:
	case <-n.ended:
	}
}

// run is the loop: the only one that steps the core. Its progress earns the
// supervisor's lease.
func (n *node) run(ctx context.Context) error {
	look := time.NewTicker(min(lookEvery, n.loop.lease/10))
	defer look.Stop()
	for !n.loop.left {
		n.renew()
		select {
		case <-ctx.Done():
			return nil
		case ev := <-n.inbox:
			n.handle(ev)
		case <-look.C:
			n.look()
			n.step(core.Tick{})
		case err := <-n.journal.Failed():
			n.tell(loader.Now(), "journal-failed", -1, err.Error()+"; nothing more is kept until the daemon's next start, all else goes on", nil)
		}
		n.followOwners()
		n.publish()
	}
	return nil
}

// followAgain is when the host is told once more what it could not do.
const followAgain = time.Second

// followOwners tells the host of addresses kept ahead whose owner has changed.
func (n *node) followOwners() {
	for i, id := range n.Config.Identities {
		owned := n.dp.Word(i).Has(core.Owner)
		if !id.StagingAhead || owned == n.loop.owned[i] {
			continue
		}
		n.loop.owned[i] = owned
		n.effects.addresses[i].put(func(context.Context) {
			err := n.followOwner(i)
			if err == nil || errors.Is(err, host.ErrNotPrepared) {
				return
			}
			n.tell(loader.Now(), "address-failed", i, err.Error(), nil)
			time.AfterFunc(followAgain, func() { n.post(func() { n.loop.owned[i] = !owned }) })
		})
	}
}

func (n *node) handle(ev any) {
	switch e := ev.(type) {
	case func():
		e()
	case hint:
		n.look()
	case core.Started:
		n.step(e)
		n.look() // before any order: what is not known yet would be left as it is by one to leave
	case core.Event:
		n.step(e)
	}
}

// hint says that the maps are worth reading.
type hint struct{}

func (n *node) renew() {
	now := loader.Now()
	left := n.dp.LeaseUntil() - now
	n.mu.Lock()
	n.shared.leaseMin = min(n.shared.leaseMin, left)
	n.mu.Unlock()
	n.dp.Renew(now, n.loop.lease)
}

// step gives the core one event and starts what it decides. Swaps are done on the
// spot, and their results are the core's next events.
func (n *node) step(ev core.Event) {
	queue := []core.Event{ev}
	for len(queue) > 0 {
		ev, queue = queue[0], queue[1:]
		for _, a := range n.journal.Step(loader.Now(), ev) {
			if s, ok := a.(core.Swap); ok {
				current, done := n.dp.Swap(s.Identity, s.Old, s.New)
				queue = append(queue, core.Swapped{Op: s.Op, Identity: s.Identity, OK: done, Current: current})
				continue
			}
			n.act(a)
		}
	}
}

// look reads the kernel's maps and tells the core, if they say anything new.
func (n *node) look() {
	s := n.dp.State(len(n.Config.Identities))
	n.noteChanges()
	n.watchLinks(&s)
	n.watchStrangers(&s)
	n.watchPeerServices(&s)
	n.tellStages()
	mine := n.myView(&s)
	n.compareConfigs(&s)
	o := core.Observed{At: s.AtNS, Local: s.Words, MyLan: mine, Peers: n.peerViews(&s), Isolated: s.Isolated}
	for i := range n.Config.Identities {
		o.Granted = append(o.Granted, s.Granted(i))
	}
	o.Unsynced, o.Unasked = n.unsynced(&s)
	if !n.Config.Many() {
		o.Fenced, o.Barred = s.Fenced(n.Config.Peer()), n.barred(&s)
	}
	n.seeEtcd(&o, &s)
	n.setFlags(func(f *loader.Flags) {
		f.Reach[loader.Lan], f.Reach[loader.Spare] = mine.Lan.Reach, mine.Spare.Reach
		f.Carrier[loader.Lan], f.Carrier[loader.Spare] = mine.Lan.Carrier, mine.Spare.Carrier
	})
	same := o
	same.At = 0
	if reflect.DeepEqual(same, n.loop.last) {
		return
	}
	n.loop.last = same
	n.step(o)
}

// peerViews is what the other nodes say. The words of one that has another configuration speak of
// other identities: nothing may follow from them.
func (n *node) peerViews(s *loader.State) []core.PeerView {
	views := make([]core.PeerView, len(s.Peers))
	for _, node := range n.Config.Others() {
		p := &s.Peers[node]
		state := p.State
		if state == core.PeerUp && s.AtNS-p.HeardNS >= int64(n.Config.Timing.SuspectAfter) {
			state = core.PeerSuspect // its kernel's timer comes later than this, for this node stood still
		}
		views[node] = core.PeerView{
			State: state, Boot: p.Boot, SupervisorOK: state == core.PeerUp && p.Age < n.Config.Timing.SupervisorLost,
			Standby: p.Flags.Standby, Frozen: p.Flags.Frozen, Lan: n.peerView(node, p.Flags), Words: p.Words, Runs: p.Runs,
		}
		if n.hasOther(p) {
			views[node].State, views[node].SupervisorOK = core.PeerUnknown, false
		}
	}
	return views
}

// barred reports that the kernel of a pair would take nothing of the dead peer, off or not.
func (n *node) barred(s *loader.State) bool {
	p := n.peerOf(s)
	return p.State == core.PeerDead && (s.ServeNeeded && s.ServeUntilNS <= s.AtNS || p.Boot != 0 && p.Digest != n.Config.Digest)
}

func (n *node) setFlags(change func(*loader.Flags)) {
	f := n.loop.flags
	change(&f)
	if f != n.loop.flags {
		n.loop.flags = f
		n.dp.SetFlags(f)
	}
}

func (n *node) majority() int {
	if len(n.Config.Arbiter.Reach) == 0 {
		return 0
	}
	return len(n.Config.Arbiter.Reach)/2 + 1
}

// myView is what this node sees of the clients' network.
func (n *node) myView(s *loader.State) core.LanView {
	view := func(role int) core.NIC {
		v := core.NIC{Present: nic(n.Config.Nodes[n.Config.Self], role) != "", Carrier: n.loop.linkUp[role], Majority: n.majority()}
		for i := range n.Config.Arbiter.Reach {
			if at := s.ReachNS[i][role]; at != 0 && s.AtNS-at < int64(config.SoloFor) {
				v.Reach++
			}
		}
		return v
	}
	return core.LanView{Lan: view(loader.Lan), Spare: view(loader.Spare)}
}

// peerView is what a peer says that it sees.
func (n *node) peerView(node int, f loader.Flags) core.LanView {
	view := func(role int) core.NIC {
		return core.NIC{
			Present: nic(n.Config.Nodes[node], role) != "", Carrier: f.Carrier[role],
			Reach: f.Reach[role], Majority: n.majority(),
		}
	}
	return core.LanView{Lan: view(loader.Lan), Spare: view(loader.Spare)}
}

// linkLost is the silence after which a link is reported as lost.
func (n *node) linkLost() int64 { return int64(max(time.Second, 10*n.Config.Timing.DeadAfter)) }

func (n *node) heard(l loader.LinkState, now int64) bool {
	return l.HeardNS != 0 && now-l.HeardNS < n.linkLost()
}

// watchLinks tells of links that fell silent while another one hears the same peer, or came back.
func (n *node) watchLinks(s *loader.State) {
	for _, node := range n.Config.Others() {
		if s.Peers[node].State != core.PeerUp {
			continue
		}
		for role, l := range s.Peers[node].Links {
			heard, w := n.heard(l, s.AtNS), &n.loop.links[node][role]
			was := *w
			*w = linkWatch{heard: heard, known: was.known || heard}
			if was.known && heard != was.heard {
				n.step(core.LinkChanged{Peer: node, Link: loader.LinkNames[role], Up: heard})
			}
		}
	}
}

// linkWatch is whether a peer is heard on a link, and ever was.
type linkWatch struct{ heard, known bool }

// shared is what the loop shows to the API and to the metrics.
type shared struct {
	snapshot core.Snapshot
	changes  [loader.MaxIdentities]change // of owner to this node, the last by identity
	leaseMin int64
	fence    fenceShown
	repairs  []map[string]uint64 // by identity, by what
	troubles map[troubleKey]string
}

func (n *node) publish() {
	snap := n.loop.machine.Snapshot()
	if !n.loop.differs { // such a peer is told something else in their place
		n.setFlags(func(f *loader.Flags) { f.Services = n.ownServices(snap) })
	}
	n.followMirrors(snap)
	n.followGuard(snap)
	n.mu.Lock()
	n.shared.snapshot = snap
	n.mu.Unlock()
}

func newShared(identities int) shared {
	s := shared{leaseMin: math.MaxInt64, troubles: map[troubleKey]string{}, fence: fenceShown{count: map[string]uint64{}}}
	for range identities {
		s.repairs = append(s.repairs, map[string]uint64{repairAddresses: 0, repairPaths: 0})
	}
	return s
}

func (n *node) view() shared {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shared
	s.troubles, s.fence.count = maps.Clone(s.troubles), maps.Clone(s.fence.count)
	s.repairs = slices.Clone(s.repairs)
	for i := range s.repairs {
		s.repairs[i] = maps.Clone(s.repairs[i])
	}
	return s
}
