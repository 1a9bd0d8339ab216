// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"

	"github.com/xdpha/xdpha/pkg/core"
)

// event is something that happens at a time; of two at one time the earlier made one is first.
type event struct {
	at  int64
	seq int
	f   func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// world is one run: the nodes, what is between them, and who looks on.
type world struct {
	o     Options
	p     Params
	r     *rand.Rand
	now   int64 // true time
	q     queue
	seq   int
	nodes []*node
	net   network
	etcd  *store // nil: the arbiter is another one
	calm  bool   // nothing fails any more
	ids   []core.IdentityConfig
	nonce uint64
	ops   uint64
	check checker
	trace []string
	err   *Violation
}

// failure ends a run from wherever it is found.
type failure struct{}

func newWorld(o Options) *world {
	w := &world{o: o, p: o.Params, r: rand.New(rand.NewPCG(o.Seed, 0x7364)), now: s}
	w.p.mutation = o.Mutation
	w.ids = identities(w.p.Nodes)
	w.check = newChecker(w)
	w.net = soundNetwork()
	if w.p.Etcd {
		w.etcd = newStore(w)
	}
	for i := range w.p.Nodes {
		w.nodes = append(w.nodes, newNode(w, i))
		w.after(w.rnd(0, 300*ms), w.nodes[i].power)
	}
	return w
}

// identities are one that every node may own, and one whose home is the second node; among many the
// first one is no candidate of that.
func identities(nodes int) []core.IdentityConfig {
	files := core.IdentityConfig{Name: "files", Home: 0, Failback: "manual", Exclusive: []string{"samba"}}
	mail := core.IdentityConfig{Name: "mail", Home: 1, Failback: "auto", FailbackAfter: 700 * ms, Exclusive: []string{"imap"}, StagingAhead: true}
	for n := range nodes {
		files.Prefer = append(files.Prefer, n)
	}
	if mail.Prefer = []int{1, 0}; nodes > 2 {
		mail.Prefer = []int{1, nodes - 1}
	}
	return []core.IdentityConfig{files, mail}
}

func (w *world) newCore(cfg core.Config, saved core.Saved) Core {
	if w.o.New != nil {
		return w.o.New(cfg, saved)
	}
	return core.New(cfg, saved)
}

// rnd draws from lo to hi, both included.
func (w *world) rnd(lo, hi int64) int64 { return lo + w.r.Int64N(hi-lo+1) }

// chance draws whether something fails that fails one time in n.
func (w *world) chance(n int64) bool { return !w.calm && w.r.Int64N(n) == 0 }

// fresh is a nonce or boot id that nobody had before.
func (w *world) fresh() uint64 { w.nonce++; return w.nonce<<8 | 1 }

func (w *world) after(d int64, f func()) {
	w.seq++
	heap.Push(&w.q, event{w.now + d, w.seq, f})
}

// run lets time pass.
func (w *world) run(d int64) {
	end := w.now + d
	for len(w.q) > 0 && w.q[0].at <= end {
		e := heap.Pop(&w.q).(event)
		w.now = e.at
		e.f()
		w.check.instant()
	}
	w.now = end
}

// keptLines is how much of a transcript a run keeps: its end.
const keptLines = 4000

func (w *world) logf(format string, args ...any) {
	if !w.o.Trace {
		return
	}
	if len(w.trace) >= 2*keptLines {
		w.trace = append(w.trace[:0], w.trace[keptLines:]...)
	}
	w.trace = append(w.trace, fmt.Sprintf("%14.6f ms  ", float64(w.now-s)/1e6)+fmt.Sprintf(format, args...))
}

// fail ends the run.
func (w *world) fail(format string, args ...any) {
	w.err = &Violation{Seed: w.o.Seed, AtNs: w.now - s, Text: fmt.Sprintf(format, args...)}
	w.logf("VIOLATION: %s", w.err.Text)
	panic(failure{})
}
