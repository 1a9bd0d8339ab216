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
	if k.p.Serve == 0 {
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
	return k.p.Serve != 0 && k.peerSolo != 0 && now-k.peerSolo < k.p.SoloOver+k.p.Dead
}

func (k *kernel) justBack(now int64) bool {
	if k.mayServe(now) {
		return false
	}
	if k.majoritySince == 0 || k.serveUntil > k.majoritySince {
		k.majoritySince = now
	}
	return now-k.majoritySince < 2*k.p.Probe
}

func (k *kernel) become(s core.PeerState, now int64) {
	k.state, k.since = s, now
	k.n.dirty = true
	k.n.w.logf("serv%d: the peer is %v", k.n.self+1, s)
}

func (k *kernel) judge(last, limit, now int64) {
	since := now - k.p.Solo
	if now-last < limit || k.peerMayServeAlone(now) {
		return
	}
	if k.state == core.PeerSuspect && now-last-limit >= k.p.Late && !k.serveAlone(now) {
		return
	}
	if k.state == core.PeerSuspect {
		since = max(since, k.suspectAt)
	}
	if !k.arbiterAllows(since) || k.justBack(now) || now < k.notBefore || k.unanswered(last, now) < k.p.Confirm {
		return
	}
	k.become(core.PeerDead, now)
	if k.p.Serve != 0 {
		raise(&k.serveUntil, since+k.p.Solo)
		raise(&k.serveUntil, k.reachOK+k.p.Solo)
	}
	k.takeOver()
}

func (k *kernel) watchRight(now int64) {
	if k.mayServe(now) {
		if k.isolatedSince != 0 {
			k.isolatedSince, k.n.dirty = 0, true
		}
		return
	}
	if k.isolatedSince != 0 {
		return
	}
	for _, w := range k.words {
		if w.Has(core.Owner) {
			k.isolatedSince, k.n.dirty = now, true
			return
		}
	}
}

func (k *kernel) evaluate(now int64) {
	last := k.lastEvidence()
	switch k.state {
	case core.PeerUnknown:
		if last != 0 {
			k.become(core.PeerUp, now)
		} else {
			k.judge(k.started, k.p.Hold, now)
		}
	case core.PeerUp:
		if now-last >= k.p.Suspect {
			k.suspectAt = now
			k.become(core.PeerSuspect, now)
			k.hurry = true
		} else if !k.leaseValid(now) {
			k.lapse()
		}
	case core.PeerSuspect:
		if now-last < k.p.Suspect {
			k.become(core.PeerUp, now)
		} else {
			k.judge(last, k.p.Dead, now)
		}
	case core.PeerDead:
		if last > k.since {
			k.become(core.PeerUp, now)
		} else if k.serveAlone(now) {
			k.takeOver()
		}
	}
	k.watchRight(now)
}

// callback is detector_callback; it returns when it wants to run again, from now.
func (k *kernel) callback(now int64) (wait int64) {
	if late := now - k.due; k.due != 0 && late > max(k.p.Probe/2, 200*us) {
		k.notBefore = now + k.p.Probe
	}
	k.evaluate(now)
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
