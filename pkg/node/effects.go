// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/announce"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/mirror"
	"github.com/xdpha/xdpha/pkg/service"
)

// effects carry out what the core decides: side by side, but for what must be in
// order. Each result comes back as an event.
type effects struct {
	addresses, services []*lane // by identity
	disk, concurrent    *lane
	fence, nics         *lane
	persisting          atomic.Uint64                 // the last Persist's Op
	fencing             context.CancelFunc            // of the Fence in flight; the loop's
	copying             map[uint64]context.CancelFunc // by Op; the loop's
	starting            []context.CancelFunc          // of StartServices, by identity; the loop's
	owning              []sync.Mutex                  // by identity: who owns it is told to the host
	repairing           []repairState                 // by identity
	commands            atomic.Uint64
}

// repairState is what a repair that waits in its lane shall do.
type repairState struct{ waits, addresses, taken atomic.Bool }

func (e *effects) start(n *node, ctx context.Context, wg *sync.WaitGroup) {
	open := func() *lane {
		l := newLane()
		wg.Go(func() { l.run(ctx) })
		return l
	}
	e.repairing = make([]repairState, len(n.Config.Identities))
	e.owning = make([]sync.Mutex, len(n.Config.Identities))
	for range n.Config.Identities {
		e.addresses, e.services = append(e.addresses, open()), append(e.services, open())
		e.starting = append(e.starting, func() {})
	}
	e.disk, e.concurrent, e.fence, e.nics = open(), open(), open(), open()
	e.fencing, e.copying = func() {}, map[uint64]context.CancelFunc{}
}

// report turns a job's result into the core's event.
func (n *node) report(op uint64, err error) {
	if err != nil {
		n.post(core.Failed{Op: op, Err: err.Error()})
		return
	}
	n.post(core.Done{Op: op})
}

// errPersistLater is the result of a Persist that waited so long for the disk that there is another one.
var errPersistLater = errors.New("it waited for the disk until there was more to save")

// act starts one action; the loop calls it.
func (n *node) act(a core.Action) {
	e := &n.effects
	switch a := a.(type) {
	case core.Persist:
		e.persisting.Store(a.Op)
		e.disk.put(func(context.Context) {
			if e.persisting.Load() != a.Op { // what is to be kept is all in the later one
				n.report(a.Op, errPersistLater)
				return
			}
			err := n.store.save(a.Saved)
			n.noteSaved(err)
			n.report(a.Op, err)
		})
	case core.Carry:
		n.carry(a)
	case core.AddAddresses:
		e.addresses[a.Identity].put(func(context.Context) {
			err := n.putAddresses(a.Identity)
			n.mark(a.Identity, addressesPlaced, err)
			n.report(a.Op, err)
			n.restorePaths(a.Identity)
		})
	case core.RemoveAddresses:
		n.announce.Stop(n.Config.Identities[a.Identity].Name)
		e.addresses[a.Identity].put(func(context.Context) {
			n.report(a.Op, n.host.RemoveAddresses(n.Config.Identities[a.Identity].Name))
			n.restorePaths(a.Identity)
		})
	case core.StartServices:
		n.startServices(a)
	case core.StopServices:
		e.starting[a.Identity]()
		e.services[a.Identity].put(func(ctx context.Context) {
			err := n.stopServices(ctx, a.Identity)
			if err == nil {
				n.dp.SetEnded(a.Identity)
			}
			n.report(a.Op, err)
		})
	case core.StartConcurrent:
		e.concurrent.put(func(ctx context.Context) {
			n.report(a.Op, n.startAll(ctx, n.concurrentNames(), service.Env{Node: n.self()}))
		})
	case core.StopConcurrent:
		e.concurrent.put(func(ctx context.Context) { n.report(a.Op, n.services.Stop(ctx, n.concurrentNames())) })
	case core.Copy:
		n.copyData(a)
	case core.CancelCopy:
		if cancel := e.copying[a.Op]; cancel != nil {
			cancel()
		}
	case core.Fence:
		n.fencePeer(a)
	case core.CancelFence:
		e.fencing()
	case core.Win:
		n.keeper.Win(a.Identity, a.Generation)
	case core.GiveUp:
		n.keeper.GiveUp(a.Identity)
	case core.Announce:
		n.announceIdentity(a)
		n.tickleAtOnce(a.Identity)
	case core.Pulse:
		n.pacer.pulse()
	case core.SetFlags:
		n.setFlags(func(f *loader.Flags) { f.Standby, f.Frozen = a.Standby, a.Frozen })
	case core.Notify:
		n.tell(loader.Now(), a.Kind, a.Identity, a.Text, nil)
	case core.Reply:
		if reply, ok := n.loop.replies[a.Op]; ok {
			delete(n.loop.replies, a.Op)
			reply <- a.Err // of one place
		}
	case core.Left:
		n.loop.left = true
	}
}

// putAddresses puts an identity's addresses on its device. Those that are kept there ahead are
// the host's own only while it owns them: until then its programs reach the peer.
func (n *node) putAddresses(identity int) error {
	id := n.Config.Identities[identity]
	if !id.StagingAhead {
		return n.host.AddAddresses(id.Name)
	}
	if err := n.host.StageAddresses(id.Name); err != nil {
		return err
	}
	return n.followOwner(identity)
}

// followOwner makes what is kept ahead the host's own, or the peer's.
func (n *node) followOwner(identity int) error {
	id := n.Config.Identities[identity]
	n.effects.owning[identity].Lock() // what was read is applied before it is read again
	defer n.effects.owning[identity].Unlock()
	if n.dp.Word(identity).Has(core.Owner) {
		return n.host.Own(id.Name)
	}
	return n.host.Disown(id.Name)
}

// restorePaths puts back the identity's rules and routes where they are missing: with
// the last IPv4 address of a device the kernel removes all routes through it, in every
// table (fib_inetaddr_event), and the next addresses need them at once.
func (n *node) restorePaths(identity int) {
	_, err := n.host.Verify(n.Config.Identities[identity].Name)
	if errors.Is(err, host.ErrNotPrepared) {
		_, err = n.preparePaths(identity)
	}
	if err = n.orNoNIC(identity, err); err != nil && !errors.Is(err, errNoNIC) {
		n.tell(loader.Now(), "routes-failed", identity, err.Error(), nil)
	}
}

func (n *node) self() string { return n.Config.Nodes[n.Config.Self].Name }

func (n *node) concurrentNames() (names []string) {
	for _, s := range n.Config.Services {
		if s.Concurrent {
			names = append(names, s.Name)
		}
	}
	return names
}

func (n *node) startServices(a core.StartServices) {
	id := n.Config.Identities[a.Identity]
	cancelled := make(chan struct{})
	var once sync.Once
	n.effects.starting[a.Identity] = func() { once.Do(func() { close(cancelled) }) }
	n.effects.services[a.Identity].put(func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			select {
			case <-cancelled:
				cancel()
			case <-stop:
			}
		}()
		var err error
		if id.StagingAhead && len(id.Services) > 0 {
			err = n.followOwner(a.Identity) // a service may bind to an address that it finds
		}
		n.followMirror(a.Identity, mirroring{generation: a.Generation, role: mirror.Owner}) // what the peer still sends is under the services' hands
		select {
		case <-n.guard.known:
		case <-ctx.Done():
		}
		if err == nil {
			err = n.startAll(ctx, id.Services, service.Env{Identity: id.Name, Generation: a.Generation, Node: n.self()})
		}
		if len(id.Services) > 0 {
			n.mark(a.Identity, servicesStarted, err)
		}
		if service.NotPermitted(err) {
			n.post(core.Failed{Op: a.Op, Err: err.Error(), Refused: true})
		} else {
			n.report(a.Op, err)
		}
		n.tickle(a.Identity, anyPort)
	})
}

// startAll takes what runs already, as after a restart of the daemon, and starts the rest.
func (n *node) startAll(ctx context.Context, names []string, env service.Env) error {
	if n.dp.Adopted() {
		if _, err := n.services.Adopt(ctx, names, env); err != nil {
			return err
		}
	}
	return n.services.Start(ctx, names, env)
}

func (n *node) announceIdentity(a core.Announce) {
	id := n.Config.Identities[a.Identity]
	t := announce.Target{Identity: id.Name, IfName: host.DeviceName(id.Name), MAC: id.MAC}
	for _, r := range id.Addresses {
		for addr := range r.All() {
			t.Addrs = append(t.Addrs, addr)
		}
	}
	err := n.announce.Announce(context.Background(), t, a.Generation)
	if err != nil {
		n.Log.Warn("announce", "identity", id.Name, "err", err)
	}
	n.mark(a.Identity, announcedAgain, err)
}

// tell publishes an event: to the API, the log and the hook.
func (n *node) tell(at int64, kind string, identity int, text string, fields map[string]any) {
	e := control.Event{
		TimeNS: at, Wall: time.Now().Add(time.Duration(at - loader.Now())), Node: n.self(), Kind: kind, Text: text, Fields: fields,
	}
	if identity >= 0 {
		e.Identity = n.Config.Identities[identity].Name
	}
	e.Seq = n.hub.Publish(e)
	n.Log.Info(kind, "identity", e.Identity, "text", text)
	n.hooks.tell(e)
}
