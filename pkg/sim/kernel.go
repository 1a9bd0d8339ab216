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

// around is what a kernel touches of what is around it.
type around interface {
	changes(i int, old, word core.Word, why string) // before it does
	passed(f *frame)                                // a frame is believed
	news()                                          // the maps say something new
	fresh() uint64                                  // a number that nobody had before
	trueTime() int64
	logf(format string, args ...any)
}

// kernel is the state that bpf/ holds on one node, and the same steps on it. Times are the
// node's own clock's; 0 is never.
type kernel struct {
	p *Params
	around
	self int

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
	fenced              int64
	leave               []int64  // until when this node surely holds the identity's key in etcd
	leaveGen            []uint64 // the generation that it holds it at
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

// leased: a lost supervisor closes the gate, unless the peer is known dead.
func (k *kernel) leased(now int64) bool {
	return k.leaseValid(now) || k.state == core.PeerDead && (k.knocked == 0 || now-k.knocked > k.p.Hold)
}

// holdsKey: this node holds the identity's key in etcd, so nobody else does.
func (k *kernel) holdsKey(i int, now int64) bool { return k.p.Etcd && k.leave[i] > now }

func (k *kernel) gateOpen(i int, now int64) bool {
	return (k.mayServe(now) || k.holdsKey(i, now)) && k.leased(now) && k.words[i].Has(core.Owner)
}

// setLeave is the supervisor's SetLeave.
func (k *kernel) setLeave(i int, gen uint64, until int64) { k.leave[i], k.leaveGen[i] = until, gen }

// set changes a word; the checker sees it.
func (k *kernel) set(i int, w core.Word, why string) {
	if k.words[i] == w {
		return
	}
	k.changes(i, k.words[i], w, why)
	k.words[i] = w
	k.news()
}

func (k *kernel) nextOwn(i int, gen uint64) uint64 {
	if k.p.mutate("generations without parity") {
		return gen + 1
	}
	gen = max(gen, k.floor[i]) + 1
	return gen + (gen+uint64(k.self))%2
}

// won: with etcd this node must have won the identity's key, at the very generation that it takes.
func (k *kernel) won(i int, gen uint64, now int64) bool {
	if !k.p.Etcd || k.p.mutate("the key in etcd is not needed") {
		return true
	}
	return k.holdsKey(i, now) && (k.leaveGen[i] == gen || k.p.mutate("a key of any generation will do"))
}

func (k *kernel) takeOne(i int, now int64) {
	w := k.words[i]
	if gen := k.nextOwn(i, w.Gen()); w.Has(core.Ready) && !w.Has(core.Owner) && k.won(i, gen, now) {
		k.set(i, core.MakeWord(core.Owner, gen), takenOver)
	}
}

// takenOver is why a word changes that is taken because of the peer's death.
const takenOver = "take_over"

// fencedOff is fenced of ownership.h: the agent was asked after this death was declared, and no frame
// has come since.
func (k *kernel) fencedOff() bool {
	if k.p.mutate("once off is off for ever") {
		return k.fenced > 0
	}
	return k.fenced > k.since && k.fenced > k.heardAny && k.fenced > k.knocked
}

func (k *kernel) takeOver(now int64) {
	if k.p.Fence && !k.fencedOff() && !k.p.mutate("nobody need be off") {
		return
	}
	for i := range k.words {
		k.takeOne(i, now)
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
		k.news()
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
	f.boot, f.nonce, f.sent, f.trueSent = k.boot, k.nonce, now, k.trueTime()
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
		k.nonceBefore, k.nonce = k.nonce, k.fresh()
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

// giving is give_back_leave, between its steps.
type giving struct{ until, granted int64 }

func (k *kernel) giveBackLook(g *giving) {
	*g = giving{}
	if k.p.Serve != 0 && k.granted != 0 && (k.state == core.PeerUp || k.state == core.PeerSuspect) &&
		k.serveUntil-k.granted > k.p.Serve && !k.p.mutate("the leave is kept") {
		*g = giving{k.serveUntil, k.granted}
	}
}

func (k *kernel) giveBackExchange(g *giving) {
	if g.until != 0 && k.serveUntil == g.until {
		k.serveUntil = g.granted + k.p.Serve
	}
}

func (k *kernel) giveBackStands(g *giving) {
	if g.until != 0 {
		raise(&k.serveUntil, k.granted+k.p.Serve)
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
		if k.peer.boot != a.f.boot || k.peer.standby != a.f.standby || k.peer.frozen != a.f.frozen || k.peer.lan != a.f.lan {
			k.news()
		}
		k.peerNonce, k.peer, k.peerAt = a.f.nonce, a.f, a.now
		k.hbSolo(&a.f, a.now)
	}},
	{"peer_word", func(k *kernel, a *arrival) {
		for i := range k.words {
			k.peerWord(i, a.f.words[i], a.now)
		}
	}},
	{"hb_granted", func(k *kernel, a *arrival) { k.hbGranted(a.f.grant, a.now) }},
	{"hb_promise: stamp", func(k *kernel, a *arrival) {
		raise(&k.heardAny, a.now)
		raise(&k.heard[a.f.link], a.now)
	}},
	{"hb_promise: look", func(k *kernel, a *arrival) {
		if a.promised = k.state != core.PeerDead || k.p.mutate("promise though dead"); a.promised {
			raise(&k.peerSent, a.f.sent)
		}
	}},
	{"give_back_leave: look", func(k *kernel, a *arrival) { k.giveBackLook(&a.give) }},
	{"give_back_leave: exchange", func(k *kernel, a *arrival) { k.giveBackExchange(&a.give) }},
	{"give_back_leave: what was granted meanwhile", func(k *kernel, a *arrival) { k.giveBackStands(&a.give) }},
	{"hb_answer", func(k *kernel, a *arrival) {
		if a.f.reply {
			return
		}
		a.answer = &frame{reply: true, link: a.f.link, echo: a.f.nonce, seq: a.f.seq}
		if a.promised {
			a.answer.grant = a.f.sent
		}
		k.say(a.answer, a.now)
	}},
}

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
	every := k.p.ReachEvery
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

// question is a listed host's answer on its way through reach_stamp and reach_heard.
type question struct {
	host, nic int
	now, sent int64
	at        int
	allowed   bool
	give      giving
}

var questionSteps = []struct {
	name string
	do   func(k *kernel, q *question)
}{
	{"reach_stamp", func(k *kernel, q *question) { k.reach[q.host][q.nic] = q.now }},
	{"reach_heard: the round", func(k *kernel, q *question) {
		if q.sent = k.reachSent; q.sent == 0 || k.reached(q.sent)*2 <= hosts {
			q.sent = 0
			return
		}
		raise(&k.reachOK, q.sent)
	}},
	{"reach_heard: look", func(k *kernel, q *question) {
		q.allowed = q.sent != 0 && k.p.Serve != 0 && k.mayServe(q.now) && (k.isSilent(q.now) || k.p.mutate("leave while heard"))
	}},
	{"reach_heard: raise", func(k *kernel, q *question) {
		if q.allowed {
			raise(&k.serveUntil, q.sent+k.p.Serve)
		}
	}},
	{"reach_heard: look again", func(k *kernel, q *question) {
		if q.allowed && !k.isSilent(q.now) && !k.p.mutate("leave while heard") {
			k.giveBackLook(&q.give)
		}
	}},
	{"give_back_leave: exchange", func(k *kernel, q *question) { k.giveBackExchange(&q.give) }},
	{"give_back_leave: what was granted meanwhile", func(k *kernel, q *question) { k.giveBackStands(&q.give) }},
}

func (q *question) step(k *kernel) bool {
	questionSteps[q.at].do(k, q)
	q.at++
	return q.at < len(questionSteps)
}

// reachHeard is reach_stamp with nothing in between.
func (k *kernel) reachHeard(host, nic int, now int64) {
	for q := (question{host: host, nic: nic, now: now}); q.step(k); {
	}
}
