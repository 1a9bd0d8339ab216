// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/metrics"
)

// fenceGrace is what the core waits for a fence agent's result beyond the agent's own limits.
const fenceGrace = 5 * time.Second

// fenceShown is what is told of the fence agent.
type fenceShown struct {
	running bool
	result  string // of the last run: one of metrics.FenceResults; "": none yet
	err     string
	at      time.Time // when it ended
	count   map[string]uint64
}

// fencePeer runs the agent that switches the peer off. What it says goes into the kernel's map, and
// into the core by the reading of it, before the core learns that it is done.
func (n *node) fencePeer(a core.Fence) {
	ctx, cancel := context.WithCancel(context.Background())
	var once sync.Once
	n.effects.fencing = func() { once.Do(cancel) }
	n.effects.fence.put(func(ended context.Context) {
		defer cancel()
		stop := context.AfterFunc(ended, cancel)
		defer stop()
		n.showFence(func(f *fenceShown) { f.running = true })
		at, err := n.fence.Off(ctx)
		if err == nil {
			n.dp.SetFenced(at)
		}
		n.fenceEnded(err, ctx.Err() != nil)
		n.post(func() {
			n.look()
			n.step(effectResult(a.Op, err))
		})
	})
}

// confirmOff takes a person's word that the peer is off, in the place of the agent's. The kernel's
// rules for it are the same: it holds until the peer is heard, or somebody knocks who has booted.
func (n *node) confirmOff(ctx context.Context, name string) error {
	done := make(chan error, 1)
	n.post(func() {
		s := n.dp.State(len(n.Config.Identities))
		if err := n.mayConfirm(&s, name); err != nil {
			done <- fmt.Errorf("%w: %w", control.ErrRefused, err)
			return
		}
		n.dp.SetFenced(loader.Now())
		n.tell(loader.Now(), "fence-confirmed", -1, name+" is off: somebody says so, not the fence agent", nil)
		n.look()
		n.effects.fencing() // the agent need not go on
		done <- nil
	})
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", control.ErrUnavailable, ctx.Err())
	case err := <-done:
		return err
	}
}

func (n *node) mayConfirm(s *loader.State, name string) error {
	if n.Config.Arbiter.Fence == nil {
		return fmt.Errorf("arbiter %s asks nobody whether a node is off", n.Config.Arbiter.Kind())
	}
	peer, p := n.Config.Nodes[n.Config.Peer()].Name, n.peerOf(s)
	switch {
	case name != peer:
		return fmt.Errorf("the peer of %s is %s, not %s", n.self(), peer, name)
	case p.State == core.PeerUnknown:
		return fmt.Errorf("%s may still be booting: wait until it counts as dead, boot_hold (%v) after this node's start", peer, n.Config.Timing.BootHold)
	case p.State != core.PeerDead:
		return fmt.Errorf("%s is heard: it is not off", peer)
	case p.KnockedNS > p.HeardNS && s.AtNS-p.KnockedNS < int64(n.Config.Timing.BootHold):
		return fmt.Errorf("somebody with the secret speaks in %s's name, who does not hear this node: it is not off", peer)
	}
	return nil
}

func effectResult(op uint64, err error) core.Event {
	if err != nil {
		return core.Failed{Op: op, Err: err.Error()}
	}
	return core.Done{Op: op}
}

func (n *node) fenceEnded(err error, cancelled bool) {
	n.showFence(func(f *fenceShown) {
		f.running, f.result, f.err, f.at = false, metrics.FenceOff, "", time.Now()
		switch {
		case err != nil && cancelled:
			f.result = metrics.FenceCancelled
		case err != nil:
			f.result, f.err = metrics.FenceFailed, err.Error()
		}
		f.count[f.result]++
	})
}

func (n *node) showFence(change func(*fenceShown)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.shared.fence)
}

// fenceStatus is what status shows of the fence agent.
func (n *node) fenceStatus(s *loader.State, shown fenceShown) *control.Fence {
	f := n.Config.Arbiter.Fence
	if f == nil {
		return nil
	}
	out := &control.Fence{
		Agent: f.Agent, State: control.FenceIdle, DelayUS: f.Nodes[n.Config.Peer()].Delay.Microseconds(),
		LastResult: shown.result, LastError: shown.err,
	}
	if !shown.at.IsZero() {
		out.LastAt = &shown.at
	}
	switch {
	case s.Fenced(n.Config.Peer()):
		out.State = control.FencePeerOff
	case shown.running:
		out.State = control.FenceRunning
	}
	return out
}
