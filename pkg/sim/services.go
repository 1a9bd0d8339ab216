// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"

	"github.com/xdpha/xdpha/pkg/core"
)

// What the guard goes by, as pkg/config derives it: timing.end_services_after, and what
// start_after_silence has beyond it.
const (
	endServices   = 500 * ms
	silenceMargin = 500 * ms
	guardPoll     = 20 * ms
	rightWait     = 100 * ms
	rightPoll     = 5 * ms
)

// running is what the kernel's map says of an identity's services, which must run once (loader/running.go).
type running struct {
	mark  uint64 // another one for each start; 0: nothing of them runs
	ended bool   // a guard has ended something since the daemon has stopped them
}

// bits are one for each identity.
type bits uint32

func (b bits) list(count int) (all []bool) {
	for i := range count {
		all = append(all, b>>i&1 != 0)
	}
	return all
}

// lane carries out a daemon's jobs one after the other: node.lane. A job calls its argument when it is done.
type lane struct {
	jobs []func(done func())
	busy bool
}

func (d *daemon) do(l *lane, job func(done func())) {
	l.jobs = append(l.jobs, job)
	d.next(l)
}

func (d *daemon) next(l *lane) {
	if l.busy || len(l.jobs) == 0 {
		return
	}
	job := l.jobs[0]
	l.busy, l.jobs = true, l.jobs[1:]
	job(func() { l.busy = false; d.next(l) })
}

// startOrder is a start, or an end, that is under way.
type startOrder struct{ calledOff bool }

// startServices starts what runs not yet, if it still may by then; a new daemon takes what runs.
func (d *daemon) startServices(a core.StartServices) {
	n, w, i := d.n, d.n.w, a.Identity
	o := &startOrder{}
	d.starting[i] = o
	d.do(&d.lanes[i], func(done func()) {
		report := func(ev core.Event) { d.step(ev); done() }
		d.followMirror(i, mirroring{a.Generation, mirrorOwner})
		started := func() {
			d.runs[i] = a.Generation
			bad := w.chance(20)
			d.alive(w.rnd(5*ms, 60*ms), func() {
				if bad || o.calledOff {
					report(core.Failed{Op: a.Op, Err: "drawn, or called off"})
					return
				}
				report(core.Done{Op: a.Op})
			})
		}
		// What runs already is taken, if it may run; if not, the start of it begins with its stop.
		d.mayStart(i, a.Generation, n.clock()+rightWait, o, func(err string) {
			if err != "" {
				n.runService(i, false)
				report(core.Failed{Op: a.Op, Err: err, Refused: !o.calledOff})
				return
			}
			n.runService(i, true)
			started()
		})
	})
}

func (d *daemon) stopServices(a core.StopServices) {
	n, w, i := d.n, d.n.w, a.Identity
	if o := d.starting[i]; o != nil {
		o.calledOff = true
	}
	d.do(&d.lanes[i], func(done func()) {
		d.runs[i] = 0
		bad := w.chance(20)
		d.alive(w.rnd(5*ms, 60*ms), func() {
			defer done()
			if bad {
				d.step(core.Failed{Op: a.Op, Err: "drawn"})
				return
			}
			n.runService(i, false)
			n.k.running[i] = running{}
			d.step(core.Done{Op: a.Op})
		})
	})
}

// restartService is a service that ends by itself and is started again, in place.
func restartService(w *world, f Fault) {
	n, i := w.nodes[f.Node], f.Which%len(w.ids)
	if !n.powered || !n.svc[i] {
		return
	}
	n.runService(i, false)
	d, gen := n.d, n.d.runs[i]
	d.alive(w.rnd(ms, 50*ms), func() {
		still := func() bool { return gen != 0 && d.runs[i] == gen && !n.svc[i] }
		if !still() {
			return
		}
		d.mayStart(i, gen, n.clock()+rightWait, &startOrder{}, func(err string) {
			switch {
			case !still():
			case err == "":
				n.runService(i, true)
			default:
				d.step(core.ServicesEnded{Identity: i, Refused: true})
			}
		})
	})
}

// mayStart is node.mayStart: it asks, says that they may run, and asks again. That, and the start of
// the process, are one instant here.
func (d *daemon) mayStart(i int, gen uint64, until int64, o *startOrder, f func(err string)) {
	n := d.n
	why := func() string {
		switch word := n.k.words[i]; {
		case n.w.p.mutate("services start unasked"):
		case !word.Has(core.Owner) || word.Gen() != gen:
			return "it is not owned at that generation any more"
		case n.k.rightUntil(i) <= n.clock():
			return "nobody lets this node serve it"
		}
		return ""
	}
	switch {
	case o.calledOff:
		f("called off")
	case why() != "" && n.clock() < until:
		d.alive(rightPoll, func() { d.mayStart(i, gen, until, o, f) })
	case why() != "":
		f(why())
	default:
		n.k.running[i].mark = n.w.fresh()
		d.alive(n.w.rnd(0, 20*us), func() { f(why()) })
	}
}

// rightUntil is loader.RightUntil.
func (k *kernel) rightUntil(i int) (until int64) {
	switch {
	case k.p.Serve == 0:
		return math.MaxInt64
	case !k.many():
		until = k.serveUntil
	default:
		until = math.MaxInt64
		for node := range k.peers {
			if node == k.self || !k.isCandidate(i, node) {
				continue
			}
			at := k.peers[node].granted
			if at == 0 || at <= k.taken[i] {
				at = -k.p.Serve
			}
			until = min(until, at+k.p.Serve)
		}
	}
	if k.p.Etcd {
		until = max(until, k.leave[i])
	}
	return until
}

// runService starts or ends an identity's processes.
func (n *node) runService(i int, on bool) {
	if on {
		n.w.check.data[i][n.self] = max(n.w.check.data[i][n.self], n.k.words[i].Gen())
	}
	if n.svc[i] != on {
		n.w.logf("serv%d: services of %s run: %v", n.self+1, n.w.ids[i].Name, on)
		n.svc[i] = on
	}
}

// guard is the process that ends what must run once where the daemon does not act: node.guard. It
// lives until its daemon leaves in order.
type guard struct {
	n         *node
	rightless []int64
	ending    []*startOrder // what is being ended; calledOff: it need not any more
}

// guarded has a new daemon's guard instead of the one before.
func (n *node) guarded() {
	g := &guard{n: n, rightless: make([]int64, len(n.w.ids)), ending: make([]*startOrder, len(n.w.ids))}
	n.guard = g
	g.watch()
}

func (g *guard) watch() {
	n := g.n
	n.later(guardPoll+n.w.rnd(0, 100*us)+n.stall(), func() {
		if n.guard == g {
			g.look(n.clock())
			g.watch()
		}
	})
}

func (g *guard) look(now int64) {
	n := g.n
	if n.w.p.mutate("nobody ends what the daemon does not") {
		return
	}
	for i := range n.w.ids {
		why, mark := g.why(i, now), n.k.running[i].mark
		switch e := g.ending[i]; {
		case e != nil && why == "":
			e.calledOff = true
		case e == nil && why != "" && mark != 0:
			g.end(i, mark, why)
		}
	}
}

// end takes its time. What need not end any more may have, all the same.
func (g *guard) end(i int, mark uint64, why string) {
	n, e := g.n, &startOrder{}
	g.ending[i] = e
	n.later(n.w.rnd(ms, 40*ms), func() {
		g.ending[i] = nil
		all := !e.calledOff
		if all || n.w.chance(2) {
			n.w.logf("serv%d: the guard ends the services of %s: %s", n.self+1, n.w.ids[i].Name, why)
			n.runService(i, false)
		}
		if r := &n.k.running[i]; *r != (running{}) {
			r.ended = true
			if all && r.mark == mark {
				r.mark = 0
			}
			n.dirty = true
		}
	})
}

func (g *guard) why(i int, now int64) string {
	k, until := g.n.k, g.n.k.rightUntil(i)
	if !k.words[i].Has(core.Owner) {
		g.rightless[i] = 0
		if now-k.renewed >= k.p.lost() {
			return "it is not owned, and the daemon does not act"
		}
		return ""
	}
	switch {
	case until > now, k.flags.Frozen:
		g.rightless[i] = 0
		return ""
	case until <= 0 && g.rightless[i] == 0:
		g.rightless[i] = now
	}
	if now-max(until, g.rightless[i]) < endServices {
		return ""
	}
	return "nobody lets this node serve"
}

// lost is timing.supervisor_lost.
func (p *Params) lost() int64 { return p.Lease * 3 / 4 }

// afterSilence is the identities' AfterSilence, and endAfter the core's EndAfter.
func (p *Params) afterSilence() int64 {
	if p.Serve == 0 || p.mutate("a silent node's services are not waited for") {
		return 0
	}
	return endServices + silenceMargin
}

func (p *Params) endAfter() int64 {
	if p.Serve == 0 {
		return 0
	}
	return endServices / 2
}

// once: what must run once runs on one node. A node that stood still, and its guard with it, is not
// promised to have ended it for a while after; without an arbiter who is cut off goes on; and where both
// serve for long, as arbiter reach documents it, both run what they serve.
func (c *checker) once(i int) {
	if c.w.p.Serve == 0 && !c.w.p.Fence || c.both[i] != 0 && c.w.now-c.both[i] < excuse {
		return
	}
	var by *node
	for _, n := range c.w.nodes {
		if !n.powered || n.stands() || !n.svc[i] || c.w.now < n.excused {
			continue
		}
		if by != nil {
			c.w.fail("%s: its services run on serv%d and on serv%d", c.w.ids[i].Name, by.self+1, n.self+1)
		}
		by = n
	}
}

// excuse is for how long after a pause a node is excused: as long as its guard may take from its right's end.
const excuse = endServices + silenceMargin
