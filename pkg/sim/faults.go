// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// Fault is one thing that goes wrong, or an order of the administrator's.
type Fault struct {
	AtNs  int64 // since the run began
	Kind  string
	Node  int
	Which int   // link, NIC, host or identity
	ForNs int64 // how long
}

func (f Fault) String() string {
	return fmt.Sprintf("%.3f ms: %s, node %d, %d, for %.3f ms", float64(f.AtNs)/1e6, f.Kind, f.Node+1, f.Which, float64(f.ForNs)/1e6)
}

// kind is what may be drawn, and how it is done and undone.
type kind struct {
	name  string
	most  int64 // how long it lasts
	begin func(w *world, f Fault)
	end   func(w *world, f Fault)
}

var kinds = []kind{
	{"power", 1500 * ms, func(w *world, f Fault) {
		if n := w.nodes[f.Node]; n.powered {
			n.cut()
		}
	}, func(w *world, f Fault) { w.nodes[f.Node].power() }},
	{"daemon killed", 900 * ms, func(w *world, f Fault) {
		if n := w.nodes[f.Node]; n.powered {
			n.d.end()
			n.restart(f.ForNs)
		}
	}, nil},
	{"daemon stopped", 900 * ms, func(w *world, f Fault) {
		if n := w.nodes[f.Node]; n.powered {
			n.d.paused = w.now + f.ForNs
		}
	}, nil},
	{"machine paused", 400 * ms, pause, nil},
	{"machine paused for a moment", 8 * ms, pause, nil},
	{"cable", 300 * ms, func(w *world, f Fault) { w.net.cable = false }, func(w *world, f Fault) { w.net.cable = true }},
	{"trunk", 300 * ms, func(w *world, f Fault) { w.net.trunk = false }, func(w *world, f Fault) { w.net.trunk = true }},
	{"cable and trunk", 300 * ms, func(w *world, f Fault) { w.net.cable, w.net.trunk = false, false }, func(w *world, f Fault) { w.net.cable, w.net.trunk = true, true }},
	{"NIC", 300 * ms, func(w *world, f Fault) { w.net.nic[f.Node][f.Which%nics] = false }, func(w *world, f Fault) { w.net.nic[f.Node][f.Which%nics] = true }},
	{"isolated", 600 * ms, func(w *world, f Fault) {
		w.net.cable, w.net.nic[f.Node] = false, [nics]bool{}
	}, func(w *world, f Fault) {
		w.net.cable, w.net.nic[f.Node] = true, [nics]bool{true, true}
	}},
	{"isolated, its daemon stopped", 2500 * ms, func(w *world, f Fault) {
		w.net.cable, w.net.nic[f.Node] = false, [nics]bool{}
		if n := w.nodes[f.Node]; n.powered {
			n.d.paused = w.now + f.ForNs
		}
	}, func(w *world, f Fault) {
		w.net.cable, w.net.nic[f.Node] = true, [nics]bool{true, true}
	}},
	{"host", 300 * ms, func(w *world, f Fault) { w.net.host[f.Which%hosts] = false }, func(w *world, f Fault) { w.net.host[f.Which%hosts] = true }},
	{"deaf for a host", 300 * ms, func(w *world, f Fault) { w.net.deaf[f.Node][f.Which%nics][f.Which%hosts] = true },
		func(w *world, f Fault) { w.net.deaf[f.Node][f.Which%nics][f.Which%hosts] = false }},
	{"one way", 300 * ms, func(w *world, f Fault) { w.net.oneWay[f.Node][f.Which%links] = true }, func(w *world, f Fault) { w.net.oneWay[f.Node][f.Which%links] = false }},
	{"deaf for the peer", 300 * ms, func(w *world, f Fault) { w.net.oneWay[f.Node] = [links]bool{true, true, true} },
		func(w *world, f Fault) { w.net.oneWay[f.Node] = [links]bool{} }},
	{"loss", 500 * ms, func(w *world, f Fault) { w.net.loss = float64(f.Which%10) / 10 }, func(w *world, f Fault) { w.net.loss = 0 }},
	{"frames late", 500 * ms, func(w *world, f Fault) { w.net.late = int64(f.Which%20) * ms }, func(w *world, f Fault) { w.net.late = 0 }},
	{"frames two times", 500 * ms, func(w *world, f Fault) { w.net.twice = true }, func(w *world, f Fault) { w.net.twice = false }},
	{"clock runs otherwise", 0, func(w *world, f Fault) {
		n := w.nodes[f.Node]
		before := n.clock()
		n.drift = float64(f.Which%21-10) / 10 * clockError
		n.offset += before - n.clock() // its rate changes, not its time
	}, nil},
	{"move", 0, order(func(w *world, f Fault) core.Event {
		i, force := f.Which%len(w.ids), f.Which%4 == 0
		w.check.forced[i] = w.check.forced[i] || force
		to := f.Which%3 - 1 // -1: where it is not
		if len(w.nodes) > 2 {
			to = f.Which / 4 % len(w.nodes)
		}
		return core.CmdMove{Op: w.op(), Identity: i, To: to, Force: force}
	}), nil},
	{"giveback", 0, order(func(w *world, f Fault) core.Event { return core.CmdGiveback{Op: w.op()} }), nil},
	{"standby", 400 * ms, order(func(w *world, f Fault) core.Event { return core.CmdStandby{Op: w.op(), On: true} }),
		standbyOff},
	{"freeze", 400 * ms, order(func(w *world, f Fault) core.Event { return core.CmdFreeze{Op: w.op(), On: true} }),
		thaw},
	{"leave", 0, order(func(w *world, f Fault) core.Event { return core.CmdLeave{Op: w.op()} }), nil},
	{"service fails", 200 * ms, service(false), wellAgain},
	{"service ends by itself", 0, restartService, nil},
}

// etcdKinds are drawn beside the others where etcd is the arbiter.
var etcdKinds = []kind{
	{"etcd down", 900 * ms, func(w *world, f Fault) { w.etcd.down = [members]bool{true, true, true} },
		func(w *world, f Fault) { w.etcd.down = [members]bool{} }},
	{"member of etcd down", 900 * ms, func(w *world, f Fault) { w.etcd.down[f.Which%members] = true },
		func(w *world, f Fault) { w.etcd.down[f.Which%members] = false }},
	{"etcd unreachable", 900 * ms, func(w *world, f Fault) { w.etcd.cut[f.Node] = [members]bool{true, true, true} },
		func(w *world, f Fault) { w.etcd.cut[f.Node] = [members]bool{} }},
	{"member of etcd unreachable", 900 * ms, func(w *world, f Fault) { w.etcd.cut[f.Node][f.Which%members] = true },
		func(w *world, f Fault) { w.etcd.cut[f.Node][f.Which%members] = false }},
	{"member of etcd leads no longer", 600 * ms, func(w *world, f Fault) { w.etcd.depose(f.Which % members) },
		func(w *world, f Fault) { w.etcd.former = -1 }},
	{"etcd elects", 0, func(w *world, f Fault) { w.etcd.elect() }, nil},
	{"apart", 1500 * ms, apart(1), apart(-1)},
	{"apart, and etcd unreachable for one after a while", 1500 * ms, func(w *world, f Fault) {
		apart(1)(w, f)
		w.after(f.ForNs/2, func() { w.etcd.cut[f.Node] = [members]bool{true, true, true} })
	}, func(w *world, f Fault) {
		apart(-1)(w, f)
		w.etcd.cut[f.Node] = [members]bool{}
	}},
	{"apart, and one reaches a former leader of etcd only, after a while", 1500 * ms, func(w *world, f Fault) {
		apart(1)(w, f)
		w.after(f.ForNs/2, func() {
			w.etcd.depose(f.Which % members)
			w.etcd.cut[f.Node] = [members]bool{true, true, true}
			w.etcd.cut[f.Node][w.etcd.former] = false
		})
	}, func(w *world, f Fault) {
		apart(-1)(w, f)
		w.etcd.former, w.etcd.cut[f.Node] = -1, [members]bool{}
	}},
	{"apart, and a daemon killed", 1500 * ms, func(w *world, f Fault) {
		apart(1)(w, f)
		w.after(f.ForNs/2, func() {
			if n := w.nodes[f.Node]; n.powered {
				n.d.end()
				n.restart(w.rnd(0, w.p.TTL))
			}
		})
	}, apart(-1)},
	{"etcd slow", 600 * ms, func(w *world, f Fault) { w.etcd.slow = int64(f.Which%30) * ms }, func(w *world, f Fault) { w.etcd.slow = 0 }},
	{"requests to etcd late", 600 * ms, func(w *world, f Fault) { w.etcd.straggles = true }, func(w *world, f Fault) { w.etcd.straggles = false }},
}

// apart keeps a node's frames from all others, and theirs from it, as long as the others do not end it.
func apart(more int) func(*world, Fault) {
	return func(w *world, f Fault) {
		for other := range w.nodes {
			if other != f.Node {
				w.net.apart[f.Node][other] += more
				w.net.apart[other][f.Node] += more
			}
		}
	}
}

// manyKinds are drawn beside them among more than two nodes.
var manyKinds = []kind{
	{"two apart", 1500 * ms, twoApart(1, true), twoApart(-1, true)},
	{"one deaf for another", 1500 * ms, twoApart(1, false), twoApart(-1, false)},
	{"one deaf for another for a moment", 30 * ms, twoApart(1, false), twoApart(-1, false)},
	{"power of all but one", 1500 * ms, func(w *world, f Fault) {
		for _, n := range w.nodes {
			if n.self != f.Node && n.powered {
				n.cut()
			}
		}
	}, func(w *world, f Fault) {
		for _, n := range w.nodes {
			n.power()
		}
	}},
}

// twoApart keeps the frames of another node away, and both ways that one's.
func twoApart(more int, both bool) func(*world, Fault) {
	return func(w *world, f Fault) {
		other := (f.Node + 1 + f.Which%(len(w.nodes)-1)) % len(w.nodes)
		w.net.apart[f.Node][other] += more
		if both {
			w.net.apart[other][f.Node] += more
		}
	}
}

func kindsOf(p Params) []kind {
	all := kinds
	if p.Etcd {
		all = slices.Concat(all, etcdKinds)
	}
	if p.Nodes > 2 {
		all = slices.Concat(all, manyKinds)
	}
	return all
}

var (
	standbyOff = order(func(w *world, f Fault) core.Event { return core.CmdStandby{Op: w.op()} })
	thaw       = order(func(w *world, f Fault) core.Event { return core.CmdFreeze{Op: w.op()} })
)

func pause(w *world, f Fault) {
	if n := w.nodes[f.Node]; n.powered {
		n.paused = w.now + f.ForNs
		n.excused = n.paused + excuse
	}
}

func (w *world) op() uint64 { w.ops++; return w.ops }

// order gives the daemon a command, if it can take one.
func order(ev func(w *world, f Fault) core.Event) func(w *world, f Fault) {
	return func(w *world, f Fault) {
		if n := w.nodes[f.Node]; n.listens() {
			n.d.step(ev(w, f))
		}
	}
}

// listens reports whether the node's daemon takes orders now.
func (n *node) listens() bool {
	return n.powered && !n.stands() && n.d.running && n.d.paused <= n.w.now
}

func service(healthy bool) func(w *world, f Fault) {
	return order(func(w *world, f Fault) core.Event {
		i := f.Which % len(w.ids)
		return core.ServiceState{Identity: i, Service: w.ids[i].Exclusive[0], Healthy: healthy}
	})
}

// wellAgain is not missed by a daemon that does not run for a while: it looks at its services when it does.
func wellAgain(w *world, f Fault) {
	if !w.nodes[f.Node].listens() {
		w.after(20*ms, func() { wellAgain(w, f) })
		return
	}
	service(true)(w, f)
}

// Draw is the faults of a seed, within that time.
func Draw(seed uint64, p Params, within int64) []Fault {
	kinds := kindsOf(p)
	r := rand.New(rand.NewPCG(seed, 0x6661))
	var all []Fault
	for at := 700*ms + r.Int64N(500*ms); at < within; at += r.Int64N(120 * ms) {
		k := kinds[r.IntN(len(kinds))]
		f := Fault{AtNs: at, Kind: k.name, Node: r.IntN(p.Nodes), Which: r.IntN(60)}
		if k.most > 0 {
			f.ForNs = 1 + r.Int64N(k.most)
		}
		all = append(all, f)
	}
	return all
}

// schedule has the faults happen.
func (w *world) schedule(all []Fault) {
	for _, f := range all {
		for _, k := range kindsOf(w.p) {
			if k.name != f.Kind {
				continue
			}
			w.after(f.AtNs, func() {
				w.logf("FAULT %v", f)
				k.begin(w, f)
			})
			if k.end != nil {
				w.after(f.AtNs+f.ForNs, func() {
					w.logf("over: %s, node %d", f.Kind, f.Node+1)
					k.end(w, f)
				})
			}
		}
	}
}
