// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"github.com/xdpha/xdpha/pkg/core"
)

type mirrorRole int

const (
	mirrorNone mirrorRole = iota
	mirrorOwner
	mirrorStandby
)

// mirroring is what an identity's mirrored set has to do: node.mirroring.
type mirroring struct {
	gen  uint64
	role mirrorRole
}

// mirrored is a pair's daemon's part in the set of one identity: pkg/mirror's set. Its memory is
// on the disk (node.seen).
type mirrored struct {
	now     mirroring
	told    mirroring // by the loop
	sending *sending
	inbound *receiving
}

// sending is an owner's runs at one generation, receiving one run where it writes.
type sending struct{ ended bool }
type receiving struct {
	by    *daemon
	gen   uint64
	ended bool
}

// tellMirrors follows the words: node.followMirrors.
func (d *daemon) tellMirrors() {
	if len(d.n.w.nodes) > 2 {
		return
	}
	for i, id := range d.m.Snapshot().Identities {
		now := mirroring{d.sets[i].told.gen, mirrorNone}
		switch word := d.n.k.words[i]; {
		case word.Has(core.Owner):
			now = mirroring{word.Gen(), mirrorOwner}
		case id.Owner == 1-d.n.self && id.Services == "stopped":
			now = mirroring{d.n.k.other().words[i].Gen(), mirrorStandby}
		}
		if now == d.sets[i].told {
			continue
		}
		d.sets[i].told = now
		d.do(&d.lanes[i], func(done func()) {
			d.followMirror(i, now)
			d.alive(d.n.w.rnd(0, 5*ms), done)
		})
	}
}

// followMirror is set.follow. It returns when nobody else writes to the set.
func (d *daemon) followMirror(i int, to mirroring) {
	n, s := d.n, &d.sets[i]
	if len(n.w.nodes) > 2 || to.role != mirrorNone && to.gen < n.seen[i] || to == s.now {
		return
	}
	if s.sending != nil {
		s.sending.ended = true
	}
	if in := s.inbound; in != nil && (to.role != mirrorStandby || in.gen < to.gen) && !n.w.p.mutate("who writes is not ended") {
		in.ended = true
	}
	n.seen[i] = max(n.seen[i], to.gen)
	s.now = to
	if to.role == mirrorOwner {
		s.sending = &sending{}
		d.send(i, to.gen, s.sending)
	}
}

// send has a run now and then.
func (d *daemon) send(i int, gen uint64, s *sending) {
	w, to := d.n.w, d.n.w.nodes[1-d.n.self]
	d.alive(w.rnd(20*ms, 200*ms), func() {
		if s.ended {
			return
		}
		if w.net.joins(0, d.n.self, to.self) || w.net.joins(1, d.n.self, to.self) {
			to.later(w.rnd(50*us, 2*ms), func() {
				if r := to.d.admit(i, gen); r != nil {
					d.write(i, r, s, int(w.rnd(1, 20)))
				}
			})
		}
		d.send(i, gen, s)
	})
}

// admit is receive's: what it knows of the sender is that it is the peer.
func (d *daemon) admit(i int, gen uint64) *receiving {
	n := d.n
	if !n.listens() {
		return nil
	}
	s := &d.sets[i]
	own := gen != 0 && int(gen%2) == n.self
	if !n.w.p.mutate("a stale owner's run is admitted") {
		if own || gen < n.seen[i] {
			return nil
		}
		if n.seen[i] = gen; s.now.role != mirrorStandby {
			return nil
		}
	}
	if s.inbound != nil {
		s.inbound.ended = true
	}
	s.inbound = &receiving{by: d, gen: gen}
	return s.inbound
}

// write is some of what a run has to write, and the next one after it. What is on the way when the sender
// is ended, or either daemon stopped, still arrives.
func (d *daemon) write(i int, r *receiving, s *sending, times int) {
	w, to := d.n.w, d.n.w.nodes[1-d.n.self]
	d.alive(w.rnd(100*us, 10*ms), func() {
		if s.ended || times == 0 {
			return
		}
		to.later(w.rnd(50*us, 5*ms), func() {
			if !r.ended && r.by == to.d && r.by.running {
				w.check.written(to, i, r.gen)
			}
		})
		d.write(i, r, s, times-1)
	})
}

// written: nobody writes to the data of a service that runs, nor what is of a generation before the
// latest that has been served there.
func (c *checker) written(n *node, i int, gen uint64) {
	name := c.w.ids[i].Name
	c.stats.Writes++
	if n.svc[i] {
		c.w.fail("serv%d %s: a mirror writes at generation %d while the services run there", n.self+1, name, gen)
	}
	if mine := c.data[i][n.self]; gen < mine {
		c.w.fail("serv%d %s: a mirror writes at generation %d, and the data is of generation %d", n.self+1, name, gen, mine)
	}
	c.data[i][n.self] = gen
}
