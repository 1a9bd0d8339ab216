// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/xdpha/xdpha/pkg/core"

// frame is a heartbeat.
type frame struct {
	reply                  bool
	link                   int
	boot, nonce, echo, seq uint64
	sent, grant            int64 // on the sender's and on the receiver's clock
	age                    int64 // of the sender's supervisor
	solo, standby, frozen  bool
	lan                    core.LanView
	words                  []core.Word
	trueSent               int64 // for the checker alone
}

// kernel is the state that bpf/ holds on one node, and the same steps on it. Times are the
// node's own clock's; 0 is never.
type kernel struct {
	p *Params
	n *node

	boot, nonce, nonceBefore, peerBoot, peerNonce         uint64
	candidate                                             [links]uint64
	state                                                 core.PeerState
	since, suspectAt, started                             int64
	words, peerWords                                      []core.Word
	peer                                                  frame // what its last one said
	peerAt                                                int64
	heard                                                 [links]int64
	heardAny                                              int64
	probeSeq, replySeq                                    [links]uint64
	seq                                                   uint64
	ticks                                                 [ticks]int64
	serveUntil, granted, peerSent, peerSolo, peerSoloSent int64
	reachSent, reachOK, reachWait                         int64
	reach                                                 [hosts][nics]int64
	majoritySince, isolatedSince, knocked                 int64
	due, notBefore                                        int64
	hurry                                                 bool

	renewed, leaseUntil int64 // control
	floor               []uint64
	flags               core.SetFlags
	lan                 core.LanView
}

const seqWindow = 64

func raise(at *int64, to int64) { *at = max(*at, to) }

func (k *kernel) leaseValid(now int64) bool { return k.leaseUntil > now }

func (k *kernel) mayServe(now int64) bool {
	return k.p.Serve == 0 || k.serveUntil > now || k.p.mutate("the right never ends")
}

func (k *kernel) gateOpen(i int, now int64) bool {
	if !k.words[i].Has(core.Owner) || !k.mayServe(now) {
		return false
	}
	if k.leaseValid(now) {
		return true
	}
	return k.state == core.PeerDead && (k.knocked == 0 || now-k.knocked > k.p.Hold)
}

// set changes a word; the checker sees it.
func (k *kernel) set(i int, w core.Word, why string) {
	if k.words[i] == w {
		return
	}
	k.n.w.changed(k.n, i, k.words[i], w, why)
	k.words[i] = w
	k.n.dirty = true
}

func (k *kernel) nextOwn(i int, gen uint64) uint64 {
	gen = max(gen, k.floor[i]) + 1
	return gen + (gen+uint64(k.n.self))%2
}

func (k *kernel) takeOne(i int, why string) {
	if w := k.words[i]; w.Has(core.Ready) && !w.Has(core.Owner) {
		k.set(i, core.MakeWord(core.Owner, k.nextOwn(i, w.Gen())), why)
	}
}

func (k *kernel) takeOver() {
	for i := range k.words {
		k.takeOne(i, "take_over")
	}
}

func (k *kernel) lapse() {
	for i, w := range k.words {
		if w.Has(core.Owner) {
			k.set(i, core.MakeWord(core.Yield, w.Gen()), "lapse")
		}
	}
}

func (k *kernel) peerWord(i int, theirs core.Word, now int64) {
	if theirs.Gen() < k.peerWords[i].Gen() && k.state == core.PeerUp {
		return
	}
	if theirs != k.peerWords[i] {
		k.peerWords[i] = theirs
		k.n.dirty = true
	}
	k.applyWord(i, theirs, now)
}

func (k *kernel) applyWord(i int, theirs core.Word, now int64) {
	old := k.words[i]
	gen := old.Gen()
	switch {
	case theirs.Gen() > gen:
		k.set(i, core.MakeWord(0, theirs.Gen()), "higher generation")
	case theirs.Gen() < gen:
	case theirs.Has(core.Ready|core.Demand) && old.Has(core.Owner):
		k.set(i, core.MakeWord(core.Yield, gen), "demanded")
	case theirs.Has(core.Yield) && !theirs.Has(core.Owner) && old.Has(core.Ready) && !old.Has(core.Owner) && k.leaseValid(now):
		k.set(i, core.MakeWord(core.Owner, k.nextOwn(i, gen)), "released by the peer")
	}
}

// say is what a sender says of itself: hb_say.
func (k *kernel) say(f *frame, now int64) {
	f.boot, f.nonce, f.sent, f.trueSent = k.boot, k.nonce, now, k.n.w.now
	f.age = now - k.renewed
	f.solo = k.p.Serve != 0 && k.serveUntil-now > k.p.Serve
	f.standby, f.frozen, f.lan = k.flags.Standby, k.flags.Frozen, k.lan
	f.words = append([]core.Word(nil), k.words...)
}

func (k *kernel) hbFresh(f *frame, now int64) bool {
	l := f.link
	if (k.nonce == 0 || f.echo != k.nonce) && !(f.boot == k.peerBoot && k.nonceBefore != 0 && f.echo == k.nonceBefore) {
		if k.state == core.PeerUnknown || k.state == core.PeerDead {
			k.candidate[l], k.knocked = f.nonce, now
		}
		return false
	}
	if f.boot != k.peerBoot {
		if f.reply && f.seq > k.seq {
			return false
		}
		k.nonceBefore, k.nonce = k.nonce, k.n.w.fresh()
		k.probeSeq = [links]uint64{}
		if f.reply {
			k.replySeq[l] = f.seq
		} else {
			k.probeSeq[l] = f.seq
		}
		clear(k.peerWords)
		k.peerSent, k.peerSoloSent, k.granted = 0, 0, 0
		k.peerBoot = f.boot
		return true
	}
	highest := &k.probeSeq[l]
	if f.reply {
		highest = &k.replySeq[l]
		if f.seq > k.seq || f.seq+seqWindow <= k.seq {
			return false
		}
	} else {
		for i := range links {
			if k.probeSeq[i] >= f.seq+seqWindow {
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

func (k *kernel) hbSolo(f *frame, now int64) {
	switch {
	case f.solo:
		raise(&k.peerSoloSent, f.sent)
		k.peerSolo = now
	case f.sent > k.peerSoloSent:
		k.peerSolo = 0
	}
}

func (k *kernel) hbGranted(mine, now int64) {
	if k.p.Serve == 0 || mine == 0 || now < mine {
		return
	}
	if k.p.mutate("a grant counts from its arrival") {
		mine = now
	}
	raise(&k.granted, mine)
	raise(&k.serveUntil, mine+k.p.Serve)
}

func (k *kernel) giveBackLeave() {
	if k.p.Serve != 0 && k.granted != 0 && (k.state == core.PeerUp || k.state == core.PeerSuspect) {
		k.serveUntil = min(k.serveUntil, k.granted+k.p.Serve)
	}
}

func (k *kernel) hbPromise(f *frame, now int64) bool {
	k.heardAny, k.heard[f.link] = now, now
	if k.state == core.PeerDead {
		return false
	}
	raise(&k.peerSent, f.sent)
	return true
}

// receive is handle_heartbeat: hb_fresh, hb_believe, hb_answer. It returns the answer, or nil.
func (k *kernel) receive(f frame, now int64) *frame {
	if !k.hbFresh(&f, now) {
		return nil
	}
	k.n.w.check.passed(k.n, &f)
	if k.peer.boot != f.boot || k.peer.standby != f.standby || k.peer.frozen != f.frozen || k.peer.lan != f.lan {
		k.n.dirty = true
	}
	k.peerNonce, k.peer, k.peerAt = f.nonce, f, now
	k.hbSolo(&f, now)
	for i := range k.words {
		k.peerWord(i, f.words[i], now)
	}
	k.hbGranted(f.grant, now)
	promised := k.hbPromise(&f, now)
	k.giveBackLeave()
	if f.reply {
		return nil
	}
	a := frame{reply: true, link: f.link, echo: f.nonce, seq: f.seq}
	if promised {
		a.grant = f.sent
	}
	k.say(&a, now)
	return &a
}

func (k *kernel) echoForPeer(link int) uint64 {
	up := k.state == core.PeerUp || k.state == core.PeerSuspect
	if !up && k.candidate[link] != 0 && (k.peerNonce == 0 || k.seq&1 == 1) {
		return k.candidate[link]
	}
	return k.peerNonce
}

// tick is handle_tick, past tick_due: a probe on every link, and questions to the listed hosts.
func (k *kernel) tick(now int64) (probes [links]frame, ask bool) {
	k.hurry = false
	k.seq++
	k.ticks[k.seq%ticks] = now
	for l := range links {
		f := frame{link: l, echo: k.echoForPeer(l), seq: k.seq, grant: k.peerSent}
		k.say(&f, now)
		probes[l] = f
	}
	if ask = k.reachDue(now); ask {
		k.reachSent = now
	}
	return probes, ask
}

func (k *kernel) rightEnds(now int64) bool {
	left := k.serveUntil - now
	return k.p.Serve != 0 && left > 0 && left < k.p.Serve-k.p.Suspect
}

func (k *kernel) reachDue(now int64) bool {
	const every = 100 * ms
	if !k.p.Reach {
		return false
	}
	wait, next := every, k.p.Probe
	if k.state == core.PeerSuspect || k.rightEnds(now) {
		if k.reachOK == k.reachSent {
			wait = 0
		} else {
			wait, next = k.reachWait, 2*k.reachWait
		}
	}
	if now-k.reachSent < wait {
		return false
	}
	k.reachWait = min(next, every)
	return true
}

func (k *kernel) reached(since int64) (n int) {
	for h := range hosts {
		if k.reach[h][0] > since || k.reach[h][1] > since {
			n++
		}
	}
	return n
}

func (k *kernel) isSilent(now int64) bool {
	return now-k.heardAny >= k.p.Probe+k.p.Probe/2 && (k.granted == 0 || k.heardAny-k.granted <= k.p.Suspect)
}

func (k *kernel) reachHeard(host, nic int, now int64) {
	k.reach[host][nic] = now
	sent := k.reachSent
	if sent == 0 || k.reached(sent)*2 <= hosts {
		return
	}
	raise(&k.reachOK, sent)
	if k.p.Serve != 0 && k.mayServe(now) && (k.isSilent(now) || k.p.mutate("leave while heard")) {
		raise(&k.serveUntil, sent+k.p.Serve)
	}
}
