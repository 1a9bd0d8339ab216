// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/xdpha/xdpha/pkg/core"

func (k *kernel) lastEvidence() (last int64) {
	for _, h := range k.heard {
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

func (k *kernel) peerMayServeAlone(now int64) bool {
	return k.p.Serve != 0 && k.peerSolo != 0 && !k.p.mutate("solo is not waited for") && now-k.peerSolo < k.p.SoloOver+k.p.Dead
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

func (k *kernel) become(s core.PeerState, now int64) {
	k.state, k.since = s, now
	k.news()
	k.logf("serv%d: the peer is %v", k.self+1, s)
}

// verdict is judge up to where it declares the peer dead: whether it does, and from when on the
// listed hosts' answers count.
func (k *kernel) verdict(last, limit, now int64) (dies bool, since int64) {
	since = now - k.p.Solo
	if now-last < limit || k.peerMayServeAlone(now) {
		return false, 0
	}
	if k.state == core.PeerSuspect && now-last-limit >= k.p.Late && !k.serveAlone(now) && !k.p.mutate("late verdicts") {
		return false, 0
	}
	if k.state == core.PeerSuspect {
		since = max(since, k.suspectAt)
	}
	return k.arbiterAllows(since) && !k.justBack(now) && now >= k.notBefore && k.unanswered(last, now) >= k.p.Confirm, since
}

func (k *kernel) watchRight(now int64) {
	any := false
	for i, w := range k.words {
		any = any || w.Has(core.Owner) && !k.holdsKey(i, now) // it needs the right
	}
	switch {
	case k.mayServe(now) || k.p.Etcd && !any:
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
	before           core.PeerState
	give             giving
	at               int // the next step
}

// The steps of evaluate and what it calls.
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
	watchRight
	detected
)

var detectionNames = [...]string{
	"last_evidence", "evaluate", "die: declare", "die: look again", "judge: the right to serve", "serve_alone: look again",
	"give_back_leave: exchange", "give_back_leave: what was granted meanwhile", "take_over", "watch_right",
}

// step does the next step, and reports whether there are more.
func (d *detection) step(k *kernel) bool {
	at := d.at
	d.at++
	switch at {
	case lastEvidence:
		d.last = k.lastEvidence()
	case evaluateState:
		d.at = k.evaluate(d)
	case dieDeclare:
		d.before = k.state
		k.become(core.PeerDead, k.since)
	case dieLookAgain:
		if k.lastEvidence() > d.last && !k.p.mutate("death is declared without looking again") {
			k.become(d.before, k.since)
			d.at = watchRight
			break
		}
		k.since = d.now
	case judgeRight:
		if k.p.Serve != 0 && !k.p.Etcd {
			raise(&k.serveUntil, d.since+k.p.Solo)
			raise(&k.serveUntil, k.reachOK+k.p.Solo)
		}
		d.at = takeOver
	case aloneLookAgain:
		if d.give = (giving{}); k.lastEvidence() >= d.now {
			k.giveBackLook(&d.give)
		}
	case aloneExchange:
		k.giveBackExchange(&d.give)
	case aloneStands:
		k.giveBackStands(&d.give)
		if !k.mayServe(d.now) {
			d.at = watchRight
		}
	case takeOver:
		k.takeOver(d.now)
	case watchRight:
		k.watchRight(d.now)
	}
	return d.at < detected
}

// evaluate returns the step that comes next.
func (k *kernel) evaluate(d *detection) int {
	dies := false
	switch k.state {
	case core.PeerUnknown:
		if d.last != 0 {
			k.become(core.PeerUp, d.now)
		} else {
			dies, d.since = k.verdict(k.started, k.p.Hold, d.now)
		}
	case core.PeerUp:
		if d.now-d.last >= k.p.Suspect {
			k.suspectAt = d.now
			k.become(core.PeerSuspect, d.now)
			k.hurry = true
		} else if !k.leaseValid(d.now) {
			k.lapse()
		}
	case core.PeerSuspect:
		if d.now-d.last < k.p.Suspect {
			k.become(core.PeerUp, d.now)
		} else {
			dies, d.since = k.verdict(d.last, k.p.Dead, d.now)
		}
	case core.PeerDead:
		if d.last > k.since {
			k.become(core.PeerUp, d.now)
		} else if k.serveAlone(d.now) {
			if k.p.Etcd {
				return takeOver
			}
			return aloneLookAgain
		}
	}
	if dies {
		return dieDeclare
	}
	return watchRight
}

// callback is detector_callback; it returns when it wants to run again, from now.
func (k *kernel) callback(now int64) (wait int64) {
	if late := now - k.due; k.due != 0 && late > max(k.p.Probe/2, 200*us) {
		k.notBefore = now + k.p.Probe
	}
	for d := (detection{now: now}); d.step(k); {
	}
	wait = k.nextLook(now)
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

func (k *kernel) nextLook(now int64) int64 {
	silence, wait := now-k.lastEvidence(), k.p.Probe
	switch k.state {
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
