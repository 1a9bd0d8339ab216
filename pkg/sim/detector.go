// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/xdpha/xdpha/pkg/core"

func (p *peer) lastEvidence() (last int64) {
	for _, h := range p.heard {
		last = max(last, h)
	}
	return last
}

func (k *kernel) unanswered(last, now int64) (n int) {
	for _, sent := range k.ticks {
		if sent > last && now-sent >= k.p.Probe/2 {
			n++
		}
	}
	return n
}

func (k *kernel) arbiterAllows(since int64) bool {
	return !k.p.Reach || k.reached(since)*2 > hosts
}

func (k *kernel) serveAlone(now int64) bool {
	ok := k.reachOK
	if k.p.Serve == 0 || k.p.Etcd { // there each identity has a key of its own
		return true
	}
	if ok == 0 || now-ok >= k.p.Solo {
		k.majoritySince = 0
		return k.mayServe(now)
	}
	if k.majoritySince == 0 || k.serveUntil > k.majoritySince {
		k.majoritySince = now
	}
	if k.mayServe(now) || now-k.majoritySince >= k.p.SoloOver+k.p.Dead {
		raise(&k.serveUntil, ok+k.p.Solo)
	}
	return k.mayServe(now)
}

func (k *kernel) peerMayServeAlone(p *peer, now int64) bool {
	return k.p.Serve != 0 && p.solo != 0 && !k.p.mutate("solo is not waited for") && now-p.solo < k.p.SoloOver+k.p.Dead
}

func (k *kernel) justBack(now int64) bool {
	if k.mayServe(now) || k.p.Etcd {
		return false
	}
	if k.majoritySince == 0 || k.serveUntil > k.majoritySince {
		k.majoritySince = now
	}
	return now-k.majoritySince < 2*k.p.Probe
}

func (k *kernel) become(node int, s core.PeerState, now int64) {
	k.peers[node].state, k.peers[node].since = s, now
	k.news()
	k.logf("serv%d: serv%d is %v", k.self+1, node+1, s)
}

// verdict is judge up to where it declares the peer dead: whether it does, and from when on the
// listed hosts' answers count.
func (k *kernel) verdict(p *peer, last, limit, now int64) (dies bool, since int64) {
	since = now - k.p.Solo
	if now-last < limit || k.peerMayServeAlone(p, now) {
		return false, 0
	}
	if p.state == core.PeerSuspect && now-last-limit >= k.p.Late && !k.serveAlone(now) && !k.p.mutate("late verdicts") {
		return false, 0
	}
	if p.state == core.PeerSuspect {
		since = max(since, p.suspectAt)
	}
	return k.arbiterAllows(since) && !k.justBack(now) && now >= k.notBefore && k.unanswered(last, now) >= k.p.Confirm, since
}

func (k *kernel) watchRight(now int64) {
	any := false
	for i, w := range k.words {
		any = any || w.Has(core.Owner) && !k.holdsKey(i, now) && !k.granted(i, now)
	}
	switch {
	case k.p.Etcd && !any, !k.p.Etcd && k.mayServe(now):
		if k.isolatedSince != 0 {
			k.isolatedSince = 0
			k.news()
		}
	case k.isolatedSince == 0 && any:
		k.isolatedSince = now
		k.news()
	}
}

// detection is a run of the detector's timer, between two steps of its processor.
type detection struct {
	now, last, since int64
	node             int // the peer that it looks at
	before           core.PeerState
	give             giving
	at               int // the next step
}

// looksAround is a run that has not begun.
func (k *kernel) looksAround(now int64) detection {
	d := detection{now: now}
	if k.self == 0 {
		d.node = 1
	}
	return d
}

// The steps of look_around and what it calls: those of one peer, up to takeOver, then those of all.
const (
	lastEvidence = iota
	evaluateState
	dieDeclare
	dieLookAgain
	judgeRight
	aloneLookAgain
	aloneExchange
	aloneStands
	takeOver
	takeAll
	watchRight
	detected
)

var detectionNames = [...]string{
	"last_evidence", "evaluate", "die: declare", "die: look again", "judge: the right to serve", "serve_alone: look again",
	"give_back_leave: exchange", "give_back_leave: what was granted meanwhile", "take_over", "take_all", "watch_right",
}

// step does the next step, and reports whether there are more.
func (d *detection) step(k *kernel) bool {
	at, p := d.at, &k.peers[d.node]
	d.at++
	switch at {
	case lastEvidence:
		d.last = p.lastEvidence()
	case evaluateState:
		k.evaluate(d)
	case dieDeclare:
		d.before = p.state
		k.become(d.node, core.PeerDead, p.since)
	case dieLookAgain:
		if p.lastEvidence() > d.last && !k.p.mutate("death is declared without looking again") {
			k.become(d.node, d.before, p.since)
			d.lookOn(k)
			break
		}
		p.since = d.now
	case judgeRight:
		if k.p.Serve != 0 && !k.p.Etcd {
			raise(&k.serveUntil, d.since+k.p.Solo)
			raise(&k.serveUntil, k.reachOK+k.p.Solo)
		}
		if k.p.Etcd {
			d.at = takeOver
		}
	case aloneLookAgain:
		// A bug in one of the two looks does no harm any more, so it is put into both.
		if d.give = (giving{}); p.lastEvidence() > d.last && !k.p.mutate("death is declared without looking again") {
			k.giveBackLook(p, &d.give)
		}
	case aloneExchange:
		k.giveBackExchange(&d.give)
	case aloneStands:
		k.giveBackStands(p, &d.give)
		if !k.mayServe(d.now) {
			d.lookOn(k)
		}
	case takeOver:
		k.takeOver(d.now)
		d.lookOn(k)
	case takeAll:
		if k.leaseValid(d.now) {
			k.takeAll(d.now)
		} else {
			k.lapse()
		}
	case watchRight:
		k.watchRight(d.now)
	}
	return d.at < detected
}

// lookOn goes to the next peer, or to what follows from all of them.
func (d *detection) lookOn(k *kernel) {
	next := d.node + 1
	if next == k.self {
		next++
	}
	switch {
	case next < len(k.peers):
		d.node, d.at = next, lastEvidence
	case k.many():
		d.at = takeAll
	default:
		d.at = watchRight
	}
}

// evaluate looks at one peer, and chooses the step that comes next.
func (k *kernel) evaluate(d *detection) {
	p := &k.peers[d.node]
	dies := false
	switch p.state {
	case core.PeerUnknown:
		if d.last != 0 {
			k.become(d.node, core.PeerUp, d.now)
		} else {
			dies, d.since = k.verdict(p, k.started, k.p.Hold, d.now)
		}
	case core.PeerUp:
		if d.now-d.last >= k.p.Suspect {
			p.suspectAt = d.now
			k.become(d.node, core.PeerSuspect, d.now)
			k.hurry = true
		} else if !k.many() && !k.leaseValid(d.now) {
			k.lapse()
		}
	case core.PeerSuspect:
		if d.now-d.last < k.p.Suspect {
			k.become(d.node, core.PeerUp, d.now)
		} else {
			dies, d.since = k.verdict(p, d.last, k.p.Dead, d.now)
		}
	case core.PeerDead:
		if d.last > p.since {
			k.become(d.node, core.PeerUp, d.now)
			break
		}
		if !k.serveAlone(d.now) {
			break
		}
		if d.at = aloneLookAgain; k.p.Etcd {
			d.at = takeOver
		}
		return
	}
	if dies {
		d.at = dieDeclare
		return
	}
	d.lookOn(k)
}

// callback is detector_callback; it returns when it wants to run again, from now.
func (k *kernel) callback(now int64) (wait int64) {
	if late := now - k.due; k.due != 0 && late > max(k.p.Probe/2, 200*us) {
		k.notBefore = now + k.p.Probe
	}
	for d := k.looksAround(now); d.step(k); {
	}
	wait = forEver
	for node := range k.peers {
		if node != k.self {
			wait = min(wait, k.nextLook(&k.peers[node], now))
		}
	}
	k.due = now + wait
	return wait
}

func early(wait int64) int64 {
	const late = 40 * us
	if wait > 2*late {
		return wait - late
	}
	return wait
}

func (k *kernel) nextLook(p *peer, now int64) int64 {
	silence, wait := now-p.lastEvidence(), k.p.Probe
	switch p.state {
	case core.PeerSuspect:
		if wait = early(k.p.Dead - silence); wait <= 0 {
			wait = k.p.Probe / 4
		}
	case core.PeerUp:
		wait = early(k.p.Suspect - silence)
		if lease := k.leaseUntil - now; lease > 0 {
			wait = min(wait, lease)
		}
		wait = min(wait, 10*ms)
	}
	return max(wait, 10*us)
}
