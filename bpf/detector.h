// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// detector.h: each peer's state, decided by a timer from what XDP stamped.
#ifndef XDPHA_DETECTOR_H
#define XDPHA_DETECTOR_H

#include "ownership.h"
#include "arp.h"
#include "heartbeat.h"

#define SOLO_NS 500000000ULL // how long the arbiter's leave lasts while the peer is dead
#define SOLO_OVER_NS (SOLO_NS + SOLO_NS / 256) // when it has surely ended on another clock, and on the wire
#define LATE_VERDICT_NS 50000000ULL // so long after its time a verdict must wait for one who was quicker
#define DETECTOR_MAX_NS 10000000ULL // leases and returning peers are looked after this often
#define TIMER_LATE_NS 40000ULL // as late as timers are as a rule
#define TIMER_LEAST_NS 10000ULL // no timer is set for less
#define LATE_MIN_NS 200000ULL // timers are this late on an idle machine at p99

static __always_inline void become(struct xd_peer *p, __u64 state, __u64 now)
{
	*(volatile __u64 *)&p->state = state;
	p->since_ns = now;
}

// Own probes that left after the last evidence and had time to be answered.
static __always_inline __u32 unanswered(const struct xd_config *cfg, struct xd_state *st, __u64 last, __u64 now)
{
	__u32 n = 0;

	for (__u32 i = 0; i < TICKS_KEPT; i++) {
		__u64 sent = *(volatile __u64 *)&st->ticks[i];

		if ((__s64)(sent - last) > 0 && (__s64)(now - sent) >= (__s64)(cfg->probe_ns / 2))
			n++;
	}
	return n;
}

// May this node call a silent peer dead? With listed hosts: only while a majority of them answers.
static __always_inline int arbiter_allows(const struct xd_config *cfg, struct xd_state *st, __u64 since)
{
	return !cfg->n_reach || reached(cfg, st, since) * 2 > cfg->n_reach;
}

// keeps_leave: what was just taken stands, unless a frame came since last was the newest. Who stamped it may
// have looked for the leave before it was there.
static __always_inline int keeps_leave(const struct xd_config *cfg, struct xd_state *st, const struct xd_peer *p,
				       __u64 last, __u64 now)
{
	if ((__s64)(last_evidence(p) - last) > 0)
		give_back_leave(cfg, st, p);
	return may_serve(cfg, st, now);
}

// With the peer dead the arbiter's leave is the right to serve, and lasts for SOLO_NS after the
// round of questions that a majority answered. Who has lost it gets it back only after a
// majority has answered for so long that another who had it meanwhile has stopped.
static __always_inline int serve_alone(const struct xd_config *cfg, struct xd_state *st, const struct xd_peer *p,
				       __u64 last, __u64 now)
{
	__u64 ok = *(volatile __u64 *)&st->reach_ok_ns;

	if (!cfg->serve_ns || cfg->verdict == VERDICT_ETCD) // there each identity has a key of its own
		return 1;
	if (!ok || (__s64)(now - ok) >= (__s64)SOLO_NS) {
		st->majority_since_ns = 0;
		return may_serve(cfg, st, now);
	}
	if (!st->majority_since_ns || (__s64)(*(volatile __u64 *)&st->serve_until_ns - st->majority_since_ns) > 0)
		st->majority_since_ns = now; // not since before the right ran out
	if (may_serve(cfg, st, now) || (__s64)(now - st->majority_since_ns) >= (__s64)(SOLO_OVER_NS + cfg->dead_ns)) {
		raise_time(&st->serve_until_ns, ok + SOLO_NS);
		return keeps_leave(cfg, st, p, last, now);
	}
	return 0;
}

// A peer that lately served by the arbiter's leave may do so for a while without hearing from
// anybody.
static __always_inline int peer_may_serve_alone(const struct xd_config *cfg, const struct xd_peer *p,
				       __u64 now)
{
	return cfg->serve_ns && p->solo_ns &&
	       (__s64)(now - p->solo_ns) < (__s64)(SOLO_OVER_NS + cfg->dead_ns);
}

// die declares the peer dead, unless a frame came while it did so: see hb_promise. Both
// exchanges are full barriers.
static __always_inline int die(struct xd_peer *p, __u64 last, __u64 now)
{
	__u64 before = p->state;

	__sync_lock_test_and_set(&p->state, PEER_DEAD);
	if ((__s64)(last_evidence(p) - last) > 0) {
		__sync_lock_test_and_set(&p->state, before);
		p->reverted++;
		return 0;
	}
	p->since_ns = now;
	p->dead_ns = now;
	return 1;
}

// A node whose right ran out was cut off, or stood still, and the peer may have taken over. When
// the network is back the listed hosts may be heard a moment before the peer is: it has two
// intervals to speak.
static __always_inline int just_back(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	if (may_serve(cfg, st, now) || cfg->verdict == VERDICT_ETCD)
		return 0;
	if (!st->majority_since_ns || (__s64)(*(volatile __u64 *)&st->serve_until_ns - st->majority_since_ns) > 0)
		st->majority_since_ns = now;
	return (__s64)(now - st->majority_since_ns) < (__s64)(2 * cfg->probe_ns);
}

// A booting node that hears somebody on the cable who speaks another version, or has another
// secret, is not alone: it takes nothing.
static __always_inline int stranger_heard(const struct xd_config *cfg, const struct xd_state *st, __u64 now)
{
	return st->stranger_ns && (__s64)(now - st->stranger_ns) < (__s64)cfg->hold_ns;
}

// silence is evaluated in SUSPECT, and in UNKNOWN with the hold after boot for dead_ns. A node
// that is cut off need not be told: its right to serve runs out by itself.
static __always_inline void judge(const struct xd_config *cfg, struct xd_state *st, struct xd_peer *p, __u32 node,
				  __u64 last, __u64 limit, __u64 not_before, __u64 now)
{
	__u64 since = now - SOLO_NS;

	if ((__s64)(now - last) < (__s64)limit || peer_may_serve_alone(cfg, p, now))
		return;
	if (p->state == PEER_UNKNOWN && stranger_heard(cfg, st, now))
		return;
	if (p->state == PEER_SUSPECT && (__s64)(now - last - limit) >= (__s64)LATE_VERDICT_NS &&
	    !serve_alone(cfg, st, p, last, now))
		return;
	if (p->state == PEER_SUSPECT && (__s64)(p->suspect_ns - since) > 0)
		since = p->suspect_ns; // what answered before may have gone with the peer
	if (!arbiter_allows(cfg, st, since) || just_back(cfg, st, now) || (__s64)(now - not_before) < 0 ||
	    unanswered(cfg, st, last, now) < cfg->confirm_probes)
		return;
	if (!die(p, last, now))
		return;
	if (cfg->serve_ns && cfg->verdict != VERDICT_ETCD) {
		raise_time(&st->serve_until_ns, since + SOLO_NS);
		raise_time(&st->serve_until_ns, st->reach_ok_ns + SOLO_NS);
	}
	tell_peer(now, EVENT_PEER_DEAD, node, last);
	if (cfg->verdict == VERDICT_ETCD || keeps_leave(cfg, st, p, last, now))
		take_over(cfg, p, node, last);
}

// Owned here and without a key, so that it needs the right to serve, which a peer or all of them give.
__noinline int lacks_right(__u32 i, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();

	return cfg && ctl && st && owns(i) && !holds_key(cfg, ctl, i, now) && !granted(cfg, st, i, now);
}

// A pair's right without etcd is one for all identities, and is out whether there is one or not.
static __always_inline int right_is_back(const struct xd_config *cfg, const struct xd_state *st, int any, __u64 now)
{
	return cfg->verdict == VERDICT_ETCD ? !any : may_serve(cfg, st, now);
}

// watch_right tells when this node is cut off: it owns something, and may not serve it.
static __always_inline void watch_right(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	int any = 0;

	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		any |= lacks_right(i, now);
	if (right_is_back(cfg, st, any, now)) {
		if (st->isolated_since_ns) {
			*(volatile __u64 *)&st->isolated_since_ns = 0;
			tell(now, EVENT_REJOINED, NO_IDENTITY, 0, 0);
		}
		return;
	}
	if (st->isolated_since_ns)
		return;
	if (!any)
		return;
	*(volatile __u64 *)&st->isolated_since_ns = now;
	tell(now, EVENT_ISOLATED, NO_IDENTITY, 0, 0);
}

static __always_inline void evaluate(const struct xd_config *cfg, struct xd_state *st, struct xd_peer *p, __u32 node,
				     const struct xd_control *ctl, __u64 not_before, __u64 now)
{
	__u64 last = last_evidence(p);

	switch (p->state) {
	case PEER_UNKNOWN:
		if (last) {
			become(p, PEER_UP, now);
			tell_peer(now, EVENT_PEER_UP, node, 0);
		} else {
			judge(cfg, st, p, node, st->started_ns, cfg->hold_ns, not_before, now);
		}
		break;
	case PEER_UP:
		if ((__s64)(now - last) >= (__s64)cfg->suspect_ns) {
			p->suspect_ns = now;
			p->suspects++;
			become(p, PEER_SUSPECT, now);
			*(volatile __u64 *)&st->hurry = 1;
			tell_peer(now, EVENT_PEER_SUSPECT, node, last);
		} else if (!is_many(cfg) && !lease_valid(ctl, now)) {
			lapse(cfg, now);
		}
		break;
	case PEER_SUSPECT:
		if ((__s64)(now - last) < (__s64)cfg->suspect_ns) {
			p->refuted++;
			become(p, PEER_UP, now);
			tell_peer(now, EVENT_PEER_REFUTED, node, 0);
		} else {
			judge(cfg, st, p, node, last, cfg->dead_ns, not_before, now);
		}
		break;
	case PEER_DEAD:
		if ((__s64)(last - p->since_ns) > 0) {
			become(p, PEER_UP, now);
			tell_peer(now, EVENT_PEER_UP, node, 0);
		} else if (serve_alone(cfg, st, p, last, now)) {
			take_over(cfg, p, node, last ? last : st->started_ns);
		}
		break;
	}
}

// A timer comes late as a rule: it is set so much earlier, and if it was not late after all, again.
static __always_inline __s64 early(__s64 wait)
{
	return wait > 2 * (__s64)TIMER_LATE_NS ? wait - (__s64)TIMER_LATE_NS : wait;
}

static __always_inline __s64 next_look(const struct xd_config *cfg, const struct xd_peer *p,
				       const struct xd_control *ctl, __u64 now)
{
	__s64 silence = now - last_evidence(p), wait = cfg->probe_ns, lease;

	if (p->state == PEER_SUSPECT) {
		wait = early(cfg->dead_ns - silence);
		if (wait <= 0)
			wait = cfg->probe_ns / 4;
	} else if (p->state == PEER_UP) {
		wait = early(cfg->suspect_ns - silence);
		lease = ctl->lease_until_ns - now;
		if (lease > 0 && lease < wait)
			wait = lease;
		if (wait > (__s64)DETECTOR_MAX_NS)
			wait = DETECTOR_MAX_NS;
	}
	return wait < (__s64)TIMER_LEAST_NS ? (__s64)TIMER_LEAST_NS : wait;
}

// look_at evaluates one peer. Global: the verifier proves it once, not once a peer.
__noinline int look_at(__u32 node, __u64 not_before, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	struct xd_peer *p = the_peer(node);

	if (cfg && ctl && st && p)
		evaluate(cfg, st, p, node, ctl, not_before, now);
	return 0;
}

// look_again is how many ns later it must be looked at a peer the next time.
__noinline __u64 look_again(__u32 node, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_peer *p = the_peer(node);

	return cfg && ctl && p ? next_look(cfg, p, ctl, now) : DETECTOR_MAX_NS;
}

// look_around evaluates all peers, and what follows from all of them together.
static __always_inline void look_around(const struct xd_config *cfg, struct xd_state *st, const struct xd_control *ctl,
					__u64 not_before, __u64 now)
{
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++)
		if (node != cfg->self)
			look_at(node, not_before, now);
	if (is_many(cfg)) {
		if (lease_valid(ctl, now))
			take_all(cfg);
		else
			lapse(cfg, now);
	}
	watch_right(cfg, st, now);
}

static int detector_callback(void *map, __u32 *key, struct detector *d)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 now = bpf_ktime_get_boot_ns(), wait = ~0ULL, slack;
	__s64 late;

	if (!cfg || !ctl || !st)
		return 0;
	late = now - d->due_ns;
	slack = cfg->probe_ns / 2 > LATE_MIN_NS ? cfg->probe_ns / 2 : LATE_MIN_NS;
	if (late > (__s64)slack) { // our own stall: frames may wait unread, so give them a probe's time
		st->self_stalls++;
		raise_max(&the_minute(st, now)->stall_ns, late);
		d->not_before_ns = now + cfg->probe_ns;
		tell(now, EVENT_SELF_STALL, NO_IDENTITY, late, 0);
	}
	look_around(cfg, st, ctl, d->not_before_ns, now);
	now = bpf_ktime_get_boot_ns();
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++) {
		__u64 again = node == cfg->self ? wait : look_again(node, now);

		if (again < wait)
			wait = again;
	}
	d->due_ns = now + wait;
	bpf_timer_start(&d->timer, wait, 0);
	return 0;
}

#endif
