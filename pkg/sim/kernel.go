// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"github.com/xdpha/xdpha/pkg/core"
)

// frame is a heartbeat.
type frame struct {
	reply                  bool
	from, to, link         int
	boot, nonce, echo, seq uint64
	sent, grant            int64 // on the sender's and on the receiver's clock
	age                    int64 // of the sender's supervisor
	solo, standby, frozen  bool
	lan                    core.LanView
	words                  []core.Word
	runs                   bits  // WORD_RUNS, by identity
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

// peer is what a kernel knows of another node: struct xd_peer.
type peer struct {
	boot, myNonce, myNonceBefore, nonce uint64
	unproven                            [links]uint64
	state                               core.PeerState
	since, suspectAt                    int64
	words                               []core.Word
	runs                                bits  // as it says with words
	said                                frame // its last one
	saidAt                              int64
	heard                               [links]int64
	heardAny                            int64
	probeSeq, replySeq                  [links]uint64
	granted, sent, solo, soloSent       int64
	knocked                             int64
}

// kernel is the state that bpf/ holds on one node, and the same steps on it. Times are the
// node's own clock's; 0 is never.
type kernel struct {
	p *Params
	around
	self       int
	candidates []uint32 // by identity, a bit for each node

	boot                          uint64
	peers                         []peer // by node number; the own one is not used
	started                       int64
	words                         []core.Word
	seq                           uint64
	ticks                         [ticks]int64
	serveUntil                    int64
	taken                         []int64 // by identity: among many, grants for frames of before do not count
	reachSent, reachOK, reachWait int64
	reach                         [hosts][nics]int64
	majoritySince, isolatedSince  int64
	due, notBefore                int64
	hurry                         bool

	renewed, leaseUntil int64 // control
	fenced              int64
	leave               []int64  // until when this node surely holds the identity's key in etcd
	leaveGen            []uint64 // the generation that it holds it at
	floor               []uint64
	running             []running // by identity
	flags               core.SetFlags
	lan                 core.LanView
}

const seqWindow = 64

func raise(at *int64, to int64) { *at = max(*at, to) }

func (k *kernel) leaseValid(now int64) bool { return k.leaseUntil > now }

// newKernel is one whose programs have just been loaded.
func newKernel(p *Params, around around, self int, now int64, identities int) *kernel {
	k := &kernel{
		p: p, around: around, self: self, candidates: make([]uint32, identities), boot: around.fresh(), peers: make([]peer, p.Nodes), started: now,
		words: make([]core.Word, identities), floor: make([]uint64, identities), taken: make([]int64, identities),
		leave: make([]int64, identities), leaveGen: make([]uint64, identities), running: make([]running, identities),
	}
	for node := range k.peers {
		if node != self {
			k.peers[node] = peer{myNonce: around.fresh(), words: make([]core.Word, identities)}
		}
	}
	return k
}

// many: there are more than two nodes.
func (k *kernel) many() bool { return len(k.peers) > 2 }

func (k *kernel) isCandidate(i, node int) bool { return k.candidates[i]>>node&1 != 0 }

// other is a pair's: the other node.
func (k *kernel) other() *peer { return &k.peers[1-k.self] }

func (k *kernel) mayServe(now int64) bool {
	return k.p.Serve == 0 || k.serveUntil > now || k.p.mutate("the right never ends")
}

// grantedByAll: every other candidate has counted a frame of this node's as life, lately enough, that
// left after it took the identity.
func (k *kernel) grantedByAll(i int, now int64) bool {
	for node := range k.peers {
		if node == k.self || !k.isCandidate(i, node) {
			continue
		}
		at := k.peers[node].granted
		valid := at != 0 && at+k.p.Serve > now && (at > k.taken[i] || k.p.mutate("a grant of before the taking counts"))
		if valid && k.p.mutate("one candidate's grant is enough") {
			return true
		}
		if !valid {
			return false
		}
	}
	return true
}

// granted is a pair's right to serve, or that to an identity among many.
func (k *kernel) granted(i int, now int64) bool {
	if k.many() {
		return k.grantedByAll(i, now)
	}
	return k.mayServe(now)
}

// keepsAlone: a pair's node serves without a supervisor while the peer is known dead.
func (k *kernel) keepsAlone(now int64) bool {
	if k.many() {
		return false
	}
	p := k.other()
	return p.state == core.PeerDead && (p.knocked == 0 || now-p.knocked > k.p.Hold)
}

// holdsKey: this node holds the identity's key in etcd, so nobody else does.
func (k *kernel) holdsKey(i int, now int64) bool { return k.p.Etcd && k.leave[i] > now }

func (k *kernel) gateOpen(i int, now int64) bool {
	return (k.granted(i, now) || k.holdsKey(i, now)) && (k.leaseValid(now) || k.keepsAlone(now)) && k.words[i].Has(core.Owner)
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
	self, n := uint64(k.self), uint64(len(k.peers))
	if k.p.mutate("two nodes of one residue") {
		self %= 2
	}
	gen = max(gen, k.floor[i]) + 1
	return gen + (self+n-gen%n)%n
}

// own is a taking: among many only grants for frames that left after it count.
func (k *kernel) own(i int, now int64, why string) {
	k.taken[i] = now
	k.set(i, core.MakeWord(core.Owner, k.nextOwn(i, k.words[i].Gen())), why)
}

// won: with etcd this node must have won the identity's key, at the very generation that it takes.
func (k *kernel) won(i int, gen uint64, now int64) bool {
	if !k.p.Etcd || k.p.mutate("the key in etcd is not needed") {
		return true
	}
	return k.holdsKey(i, now) && (k.leaveGen[i] == gen || k.p.mutate("a key of any generation will do"))
}

// Why a word changes that is taken by the timer's verdict in a pair, and by the key among many.
const (
	tookOver  = "take_over"
	tookAmong = "take_among"
)

func (k *kernel) takeOne(i int, now int64) {
	w := k.words[i]
	if w.Has(core.Ready) && !w.Has(core.Owner) && k.won(i, k.nextOwn(i, w.Gen()), now) {
		k.own(i, now, tookOver)
	}
}

// fencedOff is fenced of ownership.h: the agent was asked after this death was declared, and no frame
// has come since.
func (k *kernel) fencedOff() bool {
	if k.p.mutate("once off is off for ever") {
		return k.fenced > 0
	}
	p := k.other()
	return k.fenced > p.since && k.fenced > p.heardAny && k.fenced > p.knocked
}

func (k *kernel) takeOver(now int64) {
	if k.many() || k.p.Fence && !k.fencedOff() && !k.p.mutate("nobody need be off") {
		return
	}
	for i := range k.words {
		k.takeOne(i, now)
	}
}

// consents reports whether another candidate lets this node take an identity that both know at that
// generation: it is not its owner, or, where deaths count, it is dead.
func (k *kernel) consents(node, i int, gen uint64, deaths bool) bool {
	p := &k.peers[node]
	said := p.words[i]
	switch {
	case p.state == core.PeerUnknown:
		return k.p.mutate("an unknown candidate is passed over")
	case p.boot != 0 && said.Gen() == gen && (!said.Has(core.Owner) || k.p.mutate("who owns it is not asked")):
		return true
	}
	return deaths && (p.state == core.PeerDead || p.state == core.PeerSuspect && k.p.mutate("a suspect is as good as dead"))
}

// takeAmong takes an identity among many.
func (k *kernel) takeAmong(i int, deaths bool, now int64) {
	w := k.words[i]
	if !w.Has(core.Ready) || w.Has(core.Owner) || !k.won(i, k.nextOwn(i, w.Gen()), now) || !k.leaseValid(now) || !k.isCandidate(i, k.self) {
		return
	}
	for node := range k.peers {
		switch {
		case node == k.self:
		case !k.isCandidate(i, node): // here all have one configuration, but after a boot that is not known
			if k.peers[node].state == core.PeerUnknown {
				return
			}
		case !k.consents(node, i, w.Gen(), deaths):
			return
		}
	}
	k.own(i, now, tookAmong)
}

// takeAll comes once the timer has looked at all peers.
func (k *kernel) takeAll(now int64) {
	for i := range k.words {
		k.takeAmong(i, true, now)
	}
}

func (k *kernel) lapse() {
	for i, w := range k.words {
		if w.Has(core.Owner) {
			k.set(i, core.MakeWord(core.Yield, w.Gen()), "lapse")
		}
	}
}

// forsakeOne: what is not served here any more may have been served by a peer that has booted since.
func (k *kernel) forsakeOne(i, node int, now int64) {
	at := k.peers[node].granted
	lasts := at != 0 && at+k.p.Serve > now && at > k.taken[i]
	switch {
	case !k.words[i].Has(core.Owner), k.holdsKey(i, now), k.p.mutate("what a boot has forgotten is served again"):
	case k.many() && (!k.isCandidate(i, node) || lasts), !k.many() && k.mayServe(now):
	default:
		k.set(i, core.MakeWord(core.Yield, k.words[i].Gen()), "forsake")
	}
}

func (k *kernel) peerWord(node, i int, theirs core.Word, runs bits, now int64) {
	p := &k.peers[node]
	if theirs.Gen() < p.words[i].Gen() && p.state == core.PeerUp {
		return
	}
	if theirs != p.words[i] || (runs^p.runs)>>i&1 != 0 {
		p.words[i], p.runs = theirs, p.runs&^(1<<i)|runs&(1<<i)
		k.news()
	}
	k.applyWord(node, i, theirs, now)
}

func (k *kernel) applyWord(node, i int, theirs core.Word, now int64) {
	old := k.words[i]
	gen := old.Gen()
	switch {
	case theirs.Gen() > gen:
		k.set(i, core.MakeWord(0, theirs.Gen()), "higher generation")
	case theirs.Gen() < gen, k.many() && !k.isCandidate(i, node):
	case theirs.Has(core.Ready|core.Demand) && old.Has(core.Owner):
		k.set(i, core.MakeWord(core.Yield, gen), "demanded")
	case theirs.Has(core.Owner), !old.Has(core.Ready), old.Has(core.Owner):
	case k.many():
		k.takeAmong(i, false, now)
	case theirs.Has(core.Yield) && k.leaseValid(now):
		k.own(i, now, "released by the peer")
	}
}

func (k *kernel) echoForPeer(p *peer, link int) uint64 {
	up := p.state == core.PeerUp || p.state == core.PeerSuspect
	if !up && p.unproven[link] != 0 && (p.nonce == 0 || k.seq&1 == 1) {
		return p.unproven[link]
	}
	return p.nonce
}

// tick is handle_tick, past tick_due: a probe of every peer on every link, and questions to the listed
// hosts.
func (k *kernel) tick(now int64) (probes []frame, ask bool) {
	k.hurry = false
	k.seq++
	k.ticks[k.seq%ticks] = now
	said := k.say(now)
	for node := range k.peers {
		if node == k.self {
			continue
		}
		p := &k.peers[node]
		for l := range links {
			f := said
			f.to, f.link, f.seq, f.nonce, f.echo, f.grant = node, l, k.seq, p.myNonce, k.echoForPeer(p, l), p.sent
			probes = append(probes, f)
		}
	}
	if ask = k.reachDue(now); ask {
		k.reachSent = now
	}
	return probes, ask
}

// suspecting: a peer is suspected.
func (k *kernel) suspecting() bool {
	for node := range k.peers {
		if k.peers[node].state == core.PeerSuspect {
			return true
		}
	}
	return false
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
	if k.suspecting() || k.rightEnds(now) {
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
	p := k.other()
	return now-p.heardAny >= k.p.Probe+k.p.Probe/2 && (p.granted == 0 || p.heardAny-p.granted <= k.p.Suspect)
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
			k.giveBackLook(k.other(), &q.give)
		}
	}},
	{"give_back_leave: exchange", func(k *kernel, q *question) { k.giveBackExchange(&q.give) }},
	{"give_back_leave: what was granted meanwhile", func(k *kernel, q *question) { k.giveBackStands(k.other(), &q.give) }},
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
