// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// say is what a sender says of itself, to whomever: hb_say.
func (k *kernel) say(now int64) frame {
	f := frame{
		from: k.self, boot: k.boot, sent: now, trueSent: k.trueTime(), age: now - k.renewed,
		solo: k.p.Serve != 0 && k.serveUntil-now > k.p.Serve, standby: k.flags.Standby, frozen: k.flags.Frozen, lan: k.lan,
		words: slices.Clone(k.words),
	}
	for i, r := range k.running {
		if r.mark != 0 && !k.p.mutate("frames do not say what runs") {
			f.runs |= 1 << i
		}
	}
	return f
}

func (k *kernel) hbFresh(f *frame, now int64) bool {
	l, p := f.link, &k.peers[f.from]
	if (p.myNonce == 0 || f.echo != p.myNonce) && !(f.boot == p.boot && p.myNonceBefore != 0 && f.echo == p.myNonceBefore) {
		if p.state == core.PeerUnknown || p.state == core.PeerDead {
			p.unproven[l], p.knocked = f.nonce, now
		}
		return false
	}
	if f.boot != p.boot {
		if f.reply && f.seq > k.seq {
			return false
		}
		p.myNonceBefore, p.myNonce = p.myNonce, k.fresh()
		for i := range k.words {
			k.forsakeOne(i, f.from, now)
		}
		p.probeSeq = [links]uint64{}
		if f.reply {
			p.replySeq[l] = f.seq
		} else {
			p.probeSeq[l] = f.seq
		}
		clear(p.words)
		p.runs = 0
		p.sent, p.soloSent, p.granted = 0, 0, 0
		p.boot = f.boot
		return true
	}
	highest := &p.probeSeq[l]
	if f.reply {
		highest = &p.replySeq[l]
		if f.seq > k.seq || f.seq+seqWindow <= k.seq {
			return false
		}
	} else {
		for i := range links {
			if p.probeSeq[i] >= f.seq+seqWindow {
				return false
			}
		}
	}
	if f.seq <= *highest {
		return false
	}
	*highest = f.seq
	return true
}

func (p *peer) hbSolo(f *frame, now int64) {
	switch {
	case f.solo:
		raise(&p.soloSent, f.sent)
		p.solo = now
	case f.sent > p.soloSent:
		p.solo = 0
	}
}

func (k *kernel) hbGranted(p *peer, mine, now int64) {
	if k.p.Serve == 0 || mine == 0 || now < mine {
		return
	}
	if k.p.mutate("a grant counts from its arrival") {
		mine = now
	}
	raise(&p.granted, mine)
	if !k.many() {
		raise(&k.serveUntil, mine+k.p.Serve)
	}
}

// giving is give_back_leave, between its steps.
type giving struct{ until, granted int64 }

func (k *kernel) giveBackLook(p *peer, g *giving) {
	*g = giving{}
	// To promise though dead alone does no harm any more: it is put in together with the leave that is kept then.
	kept := k.p.mutate("the leave is kept") || p.state == core.PeerDead && k.p.mutate("promise though dead")
	if k.p.Serve != 0 && p.granted != 0 && k.serveUntil-p.granted > k.p.Serve && !kept {
		*g = giving{k.serveUntil, p.granted}
	}
}

func (k *kernel) giveBackExchange(g *giving) {
	if g.until != 0 && k.serveUntil == g.until {
		k.serveUntil = g.granted + k.p.Serve
	}
}

func (k *kernel) giveBackStands(p *peer, g *giving) {
	if g.until != 0 {
		raise(&k.serveUntil, p.granted+k.p.Serve)
	}
}

// arrival is a frame on its way through handle_heartbeat, between two steps of its processor.
type arrival struct {
	f        frame
	now      int64
	at       int // the next step
	promised bool
	give     giving
	answer   *frame
}

var arrivalSteps = []struct {
	name string
	do   func(k *kernel, a *arrival)
}{
	{"hb_believe", func(k *kernel, a *arrival) {
		k.passed(&a.f)
		p := a.peer(k)
		if p.said.boot != a.f.boot || p.said.standby != a.f.standby || p.said.frozen != a.f.frozen || p.said.lan != a.f.lan {
			k.news()
		}
		p.nonce, p.said, p.saidAt = a.f.nonce, a.f, a.now
		p.hbSolo(&a.f, a.now)
	}},
	{"peer_word", func(k *kernel, a *arrival) {
		for i := range k.words {
			k.peerWord(a.f.from, i, a.f.words[i], a.f.runs, a.now)
		}
	}},
	{"hb_granted", func(k *kernel, a *arrival) { k.hbGranted(a.peer(k), a.f.grant, a.now) }},
	{"hb_promise: stamp", func(k *kernel, a *arrival) {
		raise(&a.peer(k).heardAny, a.now)
		raise(&a.peer(k).heard[a.f.link], a.now)
	}},
	{"hb_promise: look", func(k *kernel, a *arrival) {
		if a.promised = a.peer(k).state != core.PeerDead || k.p.mutate("promise though dead"); a.promised {
			raise(&a.peer(k).sent, a.f.sent)
		}
	}},
	{"give_back_leave: look", func(k *kernel, a *arrival) { k.giveBackLook(a.peer(k), &a.give) }},
	{"give_back_leave: exchange", func(k *kernel, a *arrival) { k.giveBackExchange(&a.give) }},
	{"give_back_leave: what was granted meanwhile", func(k *kernel, a *arrival) { k.giveBackStands(a.peer(k), &a.give) }},
	{"hb_answer", func(k *kernel, a *arrival) {
		if a.f.reply {
			return
		}
		f := k.say(a.now)
		f.reply, f.to, f.link, f.seq = true, a.f.from, a.f.link, a.f.seq
		f.nonce, f.echo = a.peer(k).myNonce, a.f.nonce
		if a.promised {
			f.grant = a.f.sent
		}
		a.answer = &f
	}},
}

func (a *arrival) peer(k *kernel) *peer { return &k.peers[a.f.from] }

// step does the next step, and reports whether there are more.
func (a *arrival) step(k *kernel) bool {
	arrivalSteps[a.at].do(k, a)
	a.at++
	return a.at < len(arrivalSteps)
}

// receive is handle_heartbeat, with nothing in between. It returns the answer, or nil.
func (k *kernel) receive(f frame, now int64) *frame {
	if !k.hbFresh(&f, now) {
		return nil
	}
	a := arrival{f: f, now: now}
	for a.step(k) {
	}
	return a.answer
}
