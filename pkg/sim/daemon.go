// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"maps"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// daemon is the shell around the core: it carries out what the core decides, late or in vain.
type daemon struct {
	n       *node
	m       Core
	running bool
	paused  int64
	hinted  bool
	replied map[uint64]bool
	fencing uint64  // the Fence in flight
	keeper  *keeper // nil: the arbiter is not etcd

	// By identity.
	lanes    []lane // of its services and mirrors
	starting []*startOrder
	runs     []uint64 // at which generation it has started, or taken, the services; 0: not
	sets     []mirrored
}

var names = [maxNodes]string{"serv1", "serv2", "serv3", "serv4", "serv5"}

func newDaemon(n *node) *daemon {
	count := len(n.w.ids)
	return &daemon{
		n: n, replied: map[uint64]bool{}, lanes: make([]lane, count), starting: make([]*startOrder, count), runs: make([]uint64, count), sets: make([]mirrored, count),
	}
}

// start is of a node that has just booted, or of a daemon whose predecessor has ended.
func (d *daemon) start(booted bool) {
	n := d.n
	d.running = true
	saved := core.Saved{Generations: maps.Clone(n.disk.Generations), Standby: n.disk.Standby, Frozen: n.disk.Frozen}
	ids := slices.Clone(n.w.ids)
	for i := range ids {
		ids[i].Floor, ids[i].Aside, ids[i].AfterSilence = n.k.floor[i], n.aside[i], n.w.p.afterSilence()
		ids[i].Runs = !booted && n.k.running[i].mark != 0
	}
	d.m = n.w.newCore(core.Config{
		Self: n.self, Nodes: names[:n.w.p.Nodes], Identities: ids, Concurrent: []string{"dns"}, DemandIfLost: n.w.o.Seed%2 == 0, Hold: n.w.o.Seed%3 == 0 && booted,
		Etcd: n.w.p.Etcd, Fence: n.w.p.Fence, FenceDelay: n.w.p.FenceDelay[max(1-n.self, 0)],
		EndAfter: n.w.p.endAfter(),
		Limits:   core.Limits{Stage: 500 * ms, Release: 200 * ms, MoveEvery: 1000 * ms, LanBack: 500 * ms, Fence: 5 * s},
	}, saved)
	if n.w.p.Etcd {
		d.keeper = startKeeper(d)
	}
	n.guarded()
	d.step(core.Started{})
	d.renew()
	d.look()
	d.ticks()
}

func (d *daemon) end() { d.running = false }

// alive runs f later, unless this daemon has ended by then; a stopped one does it afterwards.
func (d *daemon) alive(after int64, f func()) {
	n := d.n
	var try func()
	try = func() {
		switch {
		case !d.running || n.d != d:
		case d.paused > n.w.now:
			n.later(d.paused-n.w.now+n.w.rnd(0, ms), try)
		default:
			f()
		}
	}
	n.later(after, try)
}

// renew is the loop's progress, which earns the lease.
func (d *daemon) renew() {
	now := d.n.clock()
	d.n.k.renewed, d.n.k.leaseUntil = now, now+d.n.w.p.Lease
	d.alive(d.n.w.p.Lease/10, d.renew)
}

func (d *daemon) ticks() {
	d.step(core.Tick{})
	d.alive(50*ms, d.ticks)
}

// hint is the ring buffer's: the maps are worth reading. One in a hundred is lost.
func (d *daemon) hint() {
	if !d.n.dirty || d.hinted || d.n.w.chance(100) {
		return
	}
	d.hinted = true
	d.alive(d.n.w.rnd(20*us, 2*ms), func() { d.hinted = false; d.read() })
}

func (d *daemon) look() {
	d.read()
	d.alive(30*ms, d.look)
}

func (d *daemon) read() {
	d.n.dirty = false
	d.n.k.lan = d.n.lanView()
	d.step(d.n.observed())
	for i, id := range d.m.Snapshot().Identities { // node.followGuard
		if (id.Services == "running" || id.Services == "starting") && d.n.k.running[i].ended {
			d.step(core.ServicesEnded{Identity: i})
		}
	}
	d.tellMirrors()
}

func (d *daemon) step(ev core.Event) {
	for _, a := range d.m.Step(d.n.clock(), ev) {
		d.act(a)
	}
}

// result reports an operation after a while; it fails now and then.
func (d *daemon) result(op uint64, failsOneIn, after int64, f func()) {
	bad := d.n.w.chance(failsOneIn)
	d.alive(after, func() {
		if bad {
			d.step(core.Failed{Op: op, Err: "drawn"})
			return
		}
		f()
		d.step(core.Done{Op: op})
	})
}

func (d *daemon) act(a core.Action) {
	n, w := d.n, d.n.w
	nothing := func() {}
	switch a := a.(type) {
	case core.Persist:
		// Between the write and the sync there is a while in which a power cut loses it.
		d.result(a.Op, 50, w.rnd(200*us, 15*ms), func() {
			n.disk = core.Saved{Generations: maps.Clone(a.Saved.Generations), Standby: a.Saved.Standby, Frozen: a.Saved.Frozen}
		})
	case core.Swap:
		ok := n.k.words[a.Identity] == a.Old
		if ok {
			w.check.swap(n, a)
			n.k.set(a.Identity, a.New, "swap")
		}
		r := core.Swapped{Op: a.Op, Identity: a.Identity, OK: ok, Current: n.k.words[a.Identity]}
		d.alive(0, func() { d.step(r) })
	case core.Carry:
		// The gate is at the other NIC at once; the device is made anew there.
		n.aside[a.Identity], n.addrs[a.Identity] = a.Spare == (w.ids[a.Identity].Home == n.self), false
		d.result(a.Op, 20, w.rnd(10*ms, 50*ms), func() { n.addrs[a.Identity] = a.Addresses })
	case core.AddAddresses:
		d.result(a.Op, 20, w.rnd(ms, 10*ms), func() { n.addrs[a.Identity] = true })
	case core.RemoveAddresses:
		d.result(a.Op, 20, w.rnd(ms, 10*ms), func() { n.addrs[a.Identity] = false })
	case core.StartServices:
		d.startServices(a)
	case core.StopServices:
		d.stopServices(a)
	case core.StartConcurrent:
		d.result(a.Op, 1<<40, 5*ms, nothing)
	case core.StopConcurrent:
		d.result(a.Op, 1<<40, 5*ms, nothing)
	case core.Fence:
		d.fence(a.Op)
	case core.CancelFence:
		d.fencing = 0
	case core.Win:
		d.keeper.win(a.Identity, a.Generation)
	case core.GiveUp:
		d.keeper.giveUp(a.Identity)
	case core.Announce:
		if !n.addrs[a.Identity] {
			w.fail("serv%d announces %s without its addresses", n.self+1, w.ids[a.Identity].Name)
		}
	case core.SetFlags:
		n.k.flags = a
	case core.Notify:
		w.logf("serv%d tells %s: %s", n.self+1, a.Kind, a.Text)
	case core.Reply:
		if d.replied[a.Op] {
			w.fail("serv%d replies to %d two times", n.self+1, a.Op)
		}
		d.replied[a.Op] = true
	case core.Left:
		if d.keeper != nil {
			d.keeper.release()
		}
		d.end()
		n.guard = nil
		n.restart(w.rnd(50*ms, 2*s))
	case core.Pulse:
		n.tick()
	}
}

// fence is the shell's part of a Fence, and the agent: an order that takes effect after a while, and
// questions whether the peer is off by then. It may fail before or after the power has gone, and
// its daemon may end meanwhile; its order goes on. Somebody gives the power back later.
func (d *daemon) fence(op uint64) {
	n, w := d.n, d.n.w
	d.fencing = op
	fails := w.chance(4)
	if !fails || w.chance(2) {
		w.after(w.rnd(5*ms, 300*ms), func() { w.switchOff(w.nodes[1-n.self]) })
	}
	d.alive(w.rnd(20*ms, 500*ms), func() { d.askOff(op, fails) })
}

func (d *daemon) askOff(op uint64, fails bool) {
	if d.fencing != op {
		return // it was cancelled
	}
	n, w := d.n, d.n.w
	asked := n.clock()
	d.alive(w.rnd(ms, 30*ms), func() {
		off := !w.nodes[1-n.self].powered
		d.alive(w.rnd(ms, 30*ms), func() {
			switch {
			case fails:
				d.step(core.Failed{Op: op, Err: "drawn"})
			case !off:
				d.askOff(op, fails)
			default:
				n.k.fenced = asked
				d.read()
				d.step(core.Done{Op: op})
			}
		})
	})
}

// switchOff is the power switch: it cuts, and the administrator gives the power back some time later.
func (w *world) switchOff(n *node) {
	if !n.powered {
		return
	}
	w.check.fenced(n)
	n.cut()
	w.after(w.rnd(300*ms, 1500*ms), n.power)
}

// restart starts a daemon after a while, if the machine has power and none runs by then.
func (n *node) restart(after int64) {
	n.later(after, func() {
		if !n.d.running {
			n.d = newDaemon(n)
			n.d.start(false)
		}
	})
}
