// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// Options of a run.
type Options struct {
	Seed     uint64
	Params   Params
	Given    bool // Faults are these; else the seed draws them
	Faults   []Fault
	WithinNs int64  // how long faults begin; default 3 s
	Trace    bool   // keep a transcript
	Mutation string // a bug that is put into the model: see Mutations; "": none
	// New makes the core of a daemon that starts; nil: core.New.
	New func(core.Config, core.Saved) Core
}

// Core is what a daemon asks what to do.
type Core interface {
	Step(now int64, ev core.Event) []core.Action
	Snapshot() core.Snapshot
}

// Result of a run.
type Result struct {
	Violation  *Violation // nil: nothing was found
	Faults     []Fault
	Stats      Stats
	Transcript []string
}

// Mutations are bugs that the checkers must find.
var Mutations = []string{
	"death is declared without looking again", "promise though dead", "a grant counts from its arrival", "leave while heard",
	"the leave is kept", "the right never ends", "solo is not waited for", "late verdicts", "generations without parity",
	"a write is done before it is synced",
}

// FenceMutations are those that concern a fence agent.
var FenceMutations = []string{"nobody need be off", "once off is off for ever"}

// ServiceMutations are those that concern what must run once, and its data.
var ServiceMutations = []string{
	"frames do not say what runs", "a silent node's services are not waited for", "nobody ends what the daemon does not", "services start unasked",
	"who writes is not ended", "a stale owner's run is admitted",
}

// EtcdMutations are those that concern etcd.
var EtcdMutations = []string{
	"the key in etcd is not needed", "a lease counts from the answer", "a renewal counts unseen",
	"a key of an earlier boot is one's own", "a key is given up before the kernel knows", "a key counts whose removal is under way",
	"a key is taken unseen", "a generation below the highest wins",
	"what a boot has forgotten is served again",
}

// ManyMutations are those that concern more than two nodes.
var ManyMutations = []string{
	"the key in etcd is not needed", "one candidate's grant is enough", "who owns it is not asked", "two nodes of one residue",
	"a grant of before the taking counts", "an unknown candidate is passed over", "a suspect is as good as dead", "a key of any generation will do",
}

func (p *Params) mutate(name string) bool { return p.mutation == name }

// patience is how long the pair may take, after the last fault, until all is as it should be.
const patience = 30 * s

// Run is one run.
func Run(o Options) (r Result) {
	if o.WithinNs == 0 {
		o.WithinNs = 3 * s
	}
	if r.Faults = o.Faults; !o.Given {
		r.Faults = Draw(o.Seed, o.Params, o.WithinNs)
	}
	w := newWorld(o)
	defer func() {
		if e := recover(); e != nil {
			if _, ours := e.(failure); !ours {
				panic(fmt.Sprintf("seed %d, %.3f ms: %v", o.Seed, float64(w.now-s)/1e6, e))
			}
		}
		r.Violation, r.Transcript = w.err, w.trace
		r.Stats = w.check.stats
		r.Stats.SimNs = w.now - s
	}()
	w.schedule(r.Faults)
	end := int64(0)
	for _, f := range r.Faults {
		end = max(end, f.AtNs+f.ForNs)
	}
	w.run(end + ms)
	w.heal()
	healed := w.now
	for why := w.check.unsettled(); why != ""; why = w.check.unsettled() {
		if w.now-healed > patience {
			w.fail("%.0f s after everything was healed: %s", float64(patience)/1e9, why)
		}
		w.run(20 * ms)
	}
	w.check.stats.SettledNs = w.now - healed
	if o.Seed%4 == 0 {
		w.oneInStandby(w.nodes[w.r.IntN(len(w.nodes))])
	}
	return r
}

// oneInStandby: the other nodes own everything, also after all have lost power.
func (w *world) oneInStandby(n *node) {
	n.d.step(core.CmdStandby{Op: w.op(), On: true})
	for _, after := range []string{"", ", and all have lost power"} {
		began := w.now
		for why := w.check.evacuated(n); why != ""; why = w.check.evacuated(n) {
			if w.now-began > 8*s {
				w.fail("serv%d is in standby%s, and %s", n.self+1, after, why)
			}
			w.run(50 * ms)
		}
		if w.run(2 * s); w.check.evacuated(n) != "" {
			w.fail("serv%d is in standby%s, and after all %s", n.self+1, after, w.check.evacuated(n))
		}
		for _, x := range w.nodes {
			x.cut()
			w.after(w.rnd(50*ms, 500*ms), x.power)
			if x != n { // one that is held because another was quicker
				w.after(3*s, func() { standbyOff(w, Fault{Node: x.self}) })
			}
		}
	}
}

// heal mends everything, and takes back what the administrator ordered.
func (w *world) heal() {
	w.logf("everything is healed")
	w.net, w.calm = soundNetwork(), true
	if w.etcd != nil {
		w.etcd.heal()
	}
	for i, n := range w.nodes {
		n.power()
		if !n.d.running {
			n.restart(0)
		}
		w.after(3*s, func() { thaw(w, Fault{Node: i}) })
		w.after(4*s, func() { standbyOff(w, Fault{Node: i}) }) // which a frozen node refuses
	}
	w.run(4*s + ms)
}

// Shrink leaves out of a failing run's faults what it fails without.
func Shrink(o Options, faults []Fault) []Fault {
	fails := func(some []Fault) bool {
		o := o
		o.Given, o.Faults = true, some
		return Run(o).Violation != nil
	}
	for size := len(faults) / 2; size > 0; {
		smaller := false
		for i := 0; i+size <= len(faults); {
			rest := slices.Concat(faults[:i], faults[i+size:])
			if fails(slices.Clip(rest)) {
				faults, smaller = rest, true
				continue
			}
			i += size
		}
		if !smaller || size > len(faults) {
			size = min(size, len(faults)) / 2
		}
	}
	return faults
}
