// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// Violation is what a checker found.
type Violation struct {
	Seed uint64
	AtNs int64 // since the run began
	Text string
}

// Stats are what happened in a run.
type Stats struct {
	Changes    int   // of owner
	Overlaps   int   // of two open gates, as arbiter reach documents them
	OverlapMax int64 // the longest of them
	Fenced     int   // nodes that were switched off by their peer
	SettledNs  int64 // from the last fault's end until all was as it should be
	Writes     int   // of mirrors
	SimNs      int64 // how much time has passed in the run
}

// checker looks on at every instant.
type checker struct {
	w       *world
	sentAt  [maxNodes]int64 // by receiver: when the latest accepted frame left
	heard   [maxNodes]int   // by receiver: so many frames were accepted
	burnt   [][maxNodes]int // by identity and node: what heard was, and 1, when it went to a later generation unowned
	overlap []overlap
	owned   []map[uint64]int // by identity and generation: which node had it
	served  []served
	stored  []uint64           // by identity: the highest generation that etcd was told
	both    []int64            // by identity: until when two gates were open, longer than silence is waited for
	data    [][maxNodes]uint64 // by identity and node: the generation that its data is of
	forced  []bool             // by identity: somebody forced a move in this run
	stats   Stats
}

// overlap is a time with two open gates, or an interruption of one; from 0: there is none.
type overlap struct {
	from  int64
	words [2]core.Word
}

func newChecker(w *world) checker {
	c := checker{w: w, overlap: make([]overlap, len(w.ids)), served: make([]served, len(w.ids)), stored: make([]uint64, len(w.ids)), both: make([]int64, len(w.ids)), data: make([][maxNodes]uint64, len(w.ids)), burnt: make([][maxNodes]int, len(w.ids)), forced: make([]bool, len(w.ids))}
	for range w.ids {
		c.owned = append(c.owned, map[uint64]int{})
	}
	return c
}

// open reports whether a packet would pass a node's gate now.
func (c *checker) open(n *node, i int) bool {
	return n.powered && !n.stands() && n.k.gateOpen(i, n.clock())
}

// instant is called after everything that happens.
func (c *checker) instant() {
	w := c.w
	for i := range w.ids {
		c.once(i)
		if w.p.Etcd {
			c.keys(i)
			c.rises(i)
			continue
		}
		a, b := w.nodes[0], w.nodes[1]
		if !a.powered || !b.powered {
			c.overlap[i] = overlap{}
			continue
		}
		words := [2]core.Word{a.k.words[i], b.k.words[i]}
		if c.overlap[i].words != words {
			c.overlap[i] = overlap{}
		}
		if !c.open(a, i) || !c.open(b, i) {
			continue
		}
		if c.overlap[i].from == 0 {
			c.overlap[i] = overlap{w.now, words}
			c.begins(i)
		}
		lasts := w.now - c.overlap[i].from
		c.stats.OverlapMax = max(c.stats.OverlapMax, lasts)
		if lasts > excuse {
			c.both[i] = w.now
		}
		loser := a
		if a.k.words[i].Gen() >= b.k.words[i].Gen() {
			loser = b
		}
		if sent := c.sentAt[loser.self]; sent > c.overlap[i].from {
			w.fail("%s: both gates are open still, although serv%d has heard the other owner since", w.ids[i].Name, loser.self+1)
		}
	}
}

// begins judges two gates that have just become open together.
func (c *checker) begins(i int) {
	w := c.w
	c.stats.Overlaps++
	w.logf("%s: both gates are open", w.ids[i].Name)
	if w.p.Fence {
		w.fail("%s: both gates are open, %v and %v, and one of the nodes should be off", w.ids[i].Name, w.nodes[0].k.words[i], w.nodes[1].k.words[i])
	}
	if !w.p.Reach {
		return
	}
	// What was under way when the silence began arrives; and a node's last words may be as much
	// later than the last that it has heard as makes nobody suspect anybody.
	silence := int64(float64(w.p.Dead)*(1-2*clockError)) - w.p.Suspect - 100*us
	if since := w.now - max(c.sentAt[0], c.sentAt[1]); since < silence {
		w.fail("%s: both gates are open, %v and %v, and a frame passed that left %.3f ms ago", w.ids[i].Name, w.nodes[0].k.words[i], w.nodes[1].k.words[i], float64(since)/1e6)
	}
	for _, n := range w.nodes {
		// Where frames get lost a majority may have answered, and not in one round.
		within := w.p.Solo + w.p.Late + w.p.Dead
		if since := n.clock() - within; n.k.reachOK < since && n.k.reached(since)*2 <= hosts {
			w.fail("%s: both gates are open, and no majority has answered serv%d for %.3f ms", w.ids[i].Name, n.self+1, float64(within)/1e6)
		}
	}
}

// passed notes a frame that was accepted.
func (c *checker) passed(to *node, f *frame) {
	c.heard[to.self]++
	c.sentAt[to.self] = max(c.sentAt[to.self], f.trueSent)
}

func (w *world) changed(n *node, i int, old, word core.Word, why string) {
	w.logf("serv%d %s: %v -> %v (%s)", n.self+1, w.ids[i].Name, old, word, why)
	if word.Gen() < old.Gen() {
		w.fail("serv%d %s: the generation falls from %d to %d", n.self+1, w.ids[i].Name, old.Gen(), word.Gen())
	}
	if word.Has(core.Owner) && !(old.Has(core.Owner) && old.Gen() == word.Gen()) {
		w.check.owns(n, i, word.Gen(), why)
	}
}

// keys: at no time do two nodes count on an identity's key.
func (c *checker) keys(i int) {
	holder := -1
	for _, n := range c.w.nodes {
		if !n.powered || n.stands() || !n.k.holdsKey(i, n.clock()) {
			continue
		}
		if holder >= 0 {
			c.w.fail("%s: serv%d and serv%d both count on its key in etcd", c.w.ids[i].Name, holder+1, n.self+1)
		}
		holder = n.self
	}
}

// served is the latest time that an identity was served.
type served struct {
	gen   uint64
	by    *node
	since int64
}

// rises: no two gates are open, and none opens at a lower generation than one that was open before,
// wherever; but for what a pair's node claimed while both were up, which etcd is not told, if not a frame
// has brought that to the other one.
func (c *checker) rises(i int) {
	c.stored[i] = max(c.stored[i], c.w.etcd.views[i].stored)
	var open *node
	for _, n := range c.w.nodes {
		if !c.open(n, i) {
			continue
		}
		if open != nil {
			c.w.fail("%s: two gates are open, serv%d's at %v and serv%d's at %v", c.w.ids[i].Name, open.self+1, open.k.words[i], n.self+1, n.k.words[i])
		}
		open = n
		last, gen := &c.served[i], n.k.words[i].Gen()
		if gen == last.gen && n == last.by {
			continue
		}
		unheard := len(c.w.nodes) == 2 && c.stored[i] < last.gen && c.sentAt[n.self] < last.since
		if gen < last.gen && !unheard {
			c.w.fail("%s: serv%d's gate is open at generation %d, and serv%d's has been at %d", c.w.ids[i].Name, n.self+1, gen, last.by.self+1, last.gen)
		}
		*last = served{gen, n, c.w.now}
	}
}

// owns: no generation is owned two times, and what is taken of a dead peer with etcd was won there.
func (c *checker) owns(n *node, i int, gen uint64, why string) {
	c.stats.Changes++
	if c.w.p.Etcd && (why == tookOver || why == tookAmong) && c.w.etcd.views[i].stored < gen {
		c.w.fail("%s: serv%d takes generation %d, and etcd knows of none above %d", c.w.ids[i].Name, n.self+1, gen, c.w.etcd.views[i].stored)
	}
	if before, used := c.owned[i][gen]; used {
		c.w.fail("%s: serv%d takes generation %d, which serv%d has owned", c.w.ids[i].Name, n.self+1, gen, before+1)
	}
	c.owned[i][gen] = n.self
	c.burnt[i][n.self] = 0
}

// swap: nobody goes from one generation to the next, and on, without hearing anybody: who took it meanwhile
// would lose it. Nobody is armed for a generation that is not promised on the disk, and nobody releases
// what its services still use, unless that was forced.
func (c *checker) swap(n *node, a core.Swap) {
	name := c.w.ids[a.Identity].Name
	if a.New.Gen() > a.Old.Gen() && !a.New.Has(core.Owner) && !c.w.p.Etcd { // etcd tells of later ones
		burnt := &c.burnt[a.Identity][n.self]
		if *burnt == c.heard[n.self]+1 {
			c.w.fail("serv%d %s: %v -> %v, and no frame has come since it went to a later generation before", n.self+1, name, a.Old, a.New)
		}
		*burnt = c.heard[n.self] + 1
	}
	if a.New.Flags() == core.Yield && n.svc[a.Identity] && !c.forced[a.Identity] {
		c.w.fail("serv%d %s: released while its services run", n.self+1, name)
	}
	if a.New.Has(core.Ready) && n.disk.Generations[name] < n.k.nextOwn(a.Identity, a.New.Gen()) {
		c.w.fail("serv%d %s: armed as %v, and its disk promises %d", n.self+1, name, a.New, n.disk.Generations[name])
	}
}

// fenced: a node is switched off by its peer.
func (c *checker) fenced(*node) { c.stats.Fenced++ }

func (c *checker) booted(n *node) {
	c.sentAt[n.self] = 0
	for i := range c.burnt {
		c.burnt[i][n.self] = 0
	}
}

// unsettled says what is missing until all is as it should be without a fault; "": nothing.
func (c *checker) unsettled() string {
	w := c.w
	for _, n := range w.nodes {
		if !n.powered || !n.d.running {
			return "a node or a daemon does not run"
		}
	}
	for i, id := range w.ids {
		var owner *node
		for _, n := range w.nodes {
			if c.open(n, i) && owner != nil {
				return id.Name + " has two open gates"
			} else if c.open(n, i) {
				owner = n
			}
		}
		if owner == nil {
			return id.Name + " has no open gate"
		}
		for _, n := range w.nodes {
			if why := c.misplaced(n, owner, i); why != "" {
				return id.Name + ": " + why
			}
		}
		if id.Failback == "auto" && owner.self != id.Home {
			return id.Name + " is not at home"
		}
	}
	return ""
}

// evacuated says what a node in standby still has, or nobody else; "": nothing.
func (c *checker) evacuated(n *node) string {
	for i, id := range c.w.ids {
		owned := false
		for _, x := range c.w.nodes {
			if !x.powered {
				return "a node has no power"
			}
			owned = owned || x != n && x.k.words[i].Has(core.Owner)
		}
		if mine := n.k.words[i]; !owned || mine.Has(core.Owner) || mine.Has(core.Ready) {
			return fmt.Sprintf("of %s it has %v; whether another node owns it: %v", id.Name, mine, owned)
		}
	}
	return ""
}

// misplaced says what of an identity is not as it should be on a node, or "".
func (c *checker) misplaced(n, owner *node, i int) string {
	word, candidate := n.k.words[i], slices.Contains(c.w.ids[i].Prefer, n.self)
	switch {
	case candidate && n != owner && (!word.Has(core.Ready) || word.Gen() != owner.k.words[i].Gen()):
		return "another node is not armed"
	case !candidate && word.Has(core.Ready):
		return "who is no candidate is armed"
	case n.addrs[i] != (n == owner || candidate && c.w.ids[i].StagingAhead):
		return "addresses are not where they should be"
	case n.svc[i] != (n == owner):
		return "services are not where they should be"
	case n.aside[i]:
		return "it is not on its regular NIC"
	}
	return ""
}
