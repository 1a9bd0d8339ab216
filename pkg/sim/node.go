// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// node is a machine: a clock, a disk, power, a kernel and a daemon.
type node struct {
	w    *world
	self int

	offset  int64
	drift   float64
	disk    core.Saved // what is synced
	powered bool
	life    int   // of the power
	paused  int64 // the whole machine stands still until then
	k       *kernel
	d       *daemon
	dirty   bool     // the maps say something new
	guard   *guard   // nil: its daemon has left in order
	svc     []bool   // services run
	seen    []uint64 // by identity: the highest generation that its mirrors have seen, on the disk
	excused int64    // until when it is not promised that its guard has acted: the machine stood still
	addrs   []bool
	aside   []bool // the other NIC than its regular one carries the identity: there alone is its gate
}

func newNode(w *world, self int) *node {
	n := &node{w: w, self: self, disk: core.Saved{Generations: map[string]uint64{}}, seen: make([]uint64, len(w.ids))}
	n.offset = w.rnd(s, 1000*s)
	n.drift = (2*w.r.Float64() - 1) * clockError
	return n
}

// clock is the node's own: CLOCK_BOOTTIME, which goes on while it is paused.
func (n *node) clock() int64 { return n.offset + int64(float64(n.w.now)*(1+n.drift)) }

func (n *node) stands() bool { return n.w.now < n.paused }

// later runs f if the machine still has the same power; one that stands does it afterwards.
func (n *node) later(d int64, f func()) {
	life := n.life
	var try func()
	try = func() {
		switch {
		case !n.powered || n.life != life:
		case n.stands():
			n.w.after(n.paused-n.w.now+n.w.rnd(1, 20*us), try)
		default:
			f()
		}
	}
	n.w.after(d, try)
}

// power boots the machine with empty maps; the daemon loads the programs.
func (n *node) power() {
	w := n.w
	if n.powered {
		return
	}
	n.life++
	n.powered, n.paused = true, 0
	count := len(w.ids)
	n.svc, n.addrs, n.aside = make([]bool, count), make([]bool, count), make([]bool, count)
	n.k = newKernel(&w.p, n, n.self, n.clock(), count)
	for i, id := range w.ids {
		n.k.floor[i] = n.disk.Generations[id.Name]
		for _, node := range id.Prefer {
			n.k.candidates[i] |= 1 << node
		}
		n.k.running[i].mark = w.fresh() // nobody has looked yet
	}
	n.k.lan = n.lanView()
	w.check.booted(n)
	w.logf("serv%d boots, on its disk %v", n.self+1, n.disk)
	n.d = newDaemon(n)
	n.d.start(true)
	n.pace()
	n.detect()
}

func (n *node) changes(i int, old, word core.Word, why string) { n.w.changed(n, i, old, word, why) }
func (n *node) passed(f *frame)                                { n.w.check.passed(n, f) }
func (n *node) news()                                          { n.dirty = true }
func (n *node) fresh() uint64                                  { return n.w.fresh() }
func (n *node) trueTime() int64                                { return n.w.now }
func (n *node) logf(format string, args ...any)                { n.w.logf(format, args...) }

// cut takes the power: nothing is left but what is synced.
func (n *node) cut() {
	n.w.logf("serv%d loses power", n.self+1)
	n.powered = false
	n.d.end()
}

// stall is a delay of what a processor should do at once.
func (n *node) stall() int64 {
	if n.w.chance(2000) {
		return n.w.rnd(100*us, 8*ms)
	}
	return 0
}

// pace is the token of the kernel's pacer: two laps in an interval.
func (n *node) pace() {
	lap := n.w.p.Probe / 2
	n.later(lap+n.w.rnd(0, lap/8)+n.stall(), func() {
		now := n.clock()
		if n.tickDue(now) {
			n.tick()
		}
		n.pace()
	})
}

func (n *node) tickDue(now int64) bool {
	k := n.k
	since := now - k.ticks[k.seq%ticks]
	if k.seq == 0 || k.hurry {
		return true
	}
	if since < n.w.p.Probe/4 {
		return false
	}
	return k.suspecting() || since >= n.w.p.Probe-n.w.p.Probe/4
}

func (n *node) tick() {
	probes, ask := n.k.tick(n.clock())
	for _, f := range probes {
		n.w.send(n, f)
	}
	if ask {
		n.w.ask(n)
	}
}

func (n *node) receive(f frame) {
	if a := n.k.receive(f, n.clock()); a != nil {
		n.w.send(n, *a)
	}
	n.d.hint()
}

// detect is the detector's timer.
func (n *node) detect() {
	wait := n.k.callback(n.clock())
	n.d.hint()
	n.later(wait+n.w.rnd(10*us, 90*us)+n.stall(), n.detect)
}

func (n *node) lanView() core.LanView {
	w := n.w
	view := func(nic int) core.NIC {
		reach := 0
		for h := range hosts {
			if w.net.asks(n.self, nic, h) {
				reach++
			}
		}
		v := core.NIC{Present: true, Carrier: w.net.nic[n.self][nic]}
		if w.p.Reach {
			v.Reach, v.Majority = reach, hosts/2+1
		}
		return v
	}
	return core.LanView{Lan: view(0), Spare: view(1)}
}

// observed is what the daemon reads in the maps.
func (n *node) observed() core.Observed {
	k, now := n.k, n.clock()
	o := core.Observed{
		At: now, Local: slices.Clone(k.words), MyLan: k.lan, Peers: make([]core.PeerView, len(k.peers)), Isolated: k.isolatedSince != 0,
	}
	for node := range k.peers {
		if node == n.self {
			continue
		}
		p := &k.peers[node]
		state := p.state
		if state == core.PeerUp && now-p.heardAny >= n.w.p.Suspect {
			state = core.PeerSuspect
		}
		o.Peers[node] = core.PeerView{
			State: state, Boot: p.boot, SupervisorOK: state == core.PeerUp && p.said.age+(now-p.saidAt) < n.w.p.Lease*3/4,
			Standby: p.said.standby, Frozen: p.said.frozen, Lan: p.said.lan, Words: slices.Clone(p.words), Runs: p.runs.list(len(p.words)),
		}
	}
	if !k.many() {
		dead := k.other().state == core.PeerDead
		o.Fenced, o.Barred = dead && k.fencedOff(), dead && !k.mayServe(now)
	}
	for i := range k.words {
		o.Granted = append(o.Granted, k.granted(i, now))
	}
	if n.w.p.Etcd {
		for i := range k.words {
			x := n.d.keeper.keys[i]
			o.Keys = append(o.Keys, core.Key{Held: x.toldGen, Stored: x.v.stored, Elsewhere: x.v.ownerRev != 0 && !n.d.keeper.mine(x)})
		}
	}
	return o
}
