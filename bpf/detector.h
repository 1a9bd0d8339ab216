// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// detector.h: the peer's state, decided by a timer from what XDP stamped.
#ifndef XDPHA_DETECTOR_H
#define XDPHA_DETECTOR_H

#include "ownership.h"

#define REACH_FRESH_NS 500000000ULL // an answer older than this counts no longer
#define DETECTOR_MIN_NS 50000ULL // no faster than timers are exact
#define DETECTOR_MAX_NS 10000000ULL // leases and returning peers are looked after this often
#define LATE_MIN_NS 200000ULL // timers are this late on an idle machine at p99

static __always_inline void become(struct xd_state *st, __u64 peer, __u64 now)
{
	*(volatile __u64 *)&st->peer_state = peer;
	st->peer_since_ns = now;
}

// The last evidence of life on any link; 0: never. Another CPU may stamp meanwhile.
static __always_inline __u64 last_evidence(struct xd_state *st)
{
	__u64 last = 0;

	for (__u32 i = 0; i < MAX_LINKS; i++) {
		__u64 heard = *(volatile __u64 *)&st->links[i].heard_ns;

		if ((__s64)(heard - last) > 0)
			last = heard;
	}
	return last;
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

// How many of the listed hosts answered since a time, by any NIC.
static __always_inline __u32 reached(const struct xd_config *cfg, struct xd_state *st, __u64 since)
{
	__u32 n = 0;

	for (__u32 i = 0; i < MAX_REACH; i++) {
		if (i >= cfg->n_reach)
			break;
		if ((__s64)(st->reach_ns[i][LINK_LAN] - since) > 0 || (__s64)(st->reach_ns[i][LINK_SPARE] - since) > 0)
			n++;
	}
	return n;
}

// May this node take or keep while the peer is silent? With 'reach': only while a majority
// of the listed hosts answers.
static __always_inline int arbiter_allows(const struct xd_config *cfg, struct xd_state *st, __u64 since, __u64 now)
{
	if (cfg->arbiter == ARBITER_NONE)
		return 1;
	if (reached(cfg, st, since) * 2 <= cfg->n_reach) {
		st->majority_since_ns = 0;
		return 0;
	}
	if (!st->majority_since_ns)
		st->majority_since_ns = now;
	return 1;
}

// Cut off: the gates of what is owned now close.
static __always_inline void isolate(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	__u64 owned = 0;

	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++) {
		__u64 *word = the_word(i);

		if (word && *(volatile __u64 *)word & WORD_OWNER)
			owned |= 1ULL << i;
	}
	__sync_fetch_and_or(&st->isolated, owned);
	if (st->isolated_since_ns)
		return;
	*(volatile __u64 *)&st->isolated_since_ns = now;
	tell(now, EVENT_ISOLATED, NO_IDENTITY, 0, 0);
}

static __always_inline void rejoin(struct xd_state *st, __u64 now)
{
	if (!st->isolated_since_ns)
		return;
	__sync_fetch_and_and(&st->isolated, 0);
	*(volatile __u64 *)&st->isolated_since_ns = 0;
	tell(now, EVENT_REJOINED, NO_IDENTITY, 0, 0);
}

// A node that was cut off serves again what it owned once it has reached the majority, and
// the peer stayed silent, for as long as would make it dead: it may have served meanwhile.
static __always_inline void rejoin_alone(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	if (cfg->arbiter == ARBITER_NONE || (__s64)(now - st->majority_since_ns) >= (__s64)cfg->dead_ns)
		rejoin(st, now);
}

// Have the listed hosts been asked since a time, and had time to answer? A pacer that
// stalled has asked nobody, and their silence says nothing.
static __always_inline int asked(const struct xd_config *cfg, struct xd_state *st, __u64 since, __u64 now)
{
	__u64 sent = *(volatile __u64 *)&st->reach_sent_ns;

	return (__s64)(sent - since) > 0 && (__s64)(now - sent) >= (__s64)(cfg->probe_ns / 2);
}

// silence is evaluated in SUSPECT, and in UNKNOWN with the hold after boot for dead_ns. A node
// that is cut off closes at once, for the peer may take over by now; if it has not even
// asked the listed hosts, it waits as long again before it blames the network.
static __always_inline void judge(const struct xd_config *cfg, struct xd_state *st, __u64 last, __u64 limit,
				  __u64 not_before, __u64 now)
{
	__u64 since = now - REACH_FRESH_NS;

	if ((__s64)(now - last) < (__s64)limit)
		return;
	if (st->peer_state == PEER_SUSPECT && (__s64)(st->suspect_ns - since) > 0)
		since = st->suspect_ns; // what answered before may have gone with the peer
	if (!arbiter_allows(cfg, st, since, now)) {
		if (asked(cfg, st, since, now) || (__s64)(now - last) >= (__s64)(2 * limit))
			isolate(cfg, st, now);
		return;
	}
	if ((__s64)(now - not_before) < 0 || unanswered(cfg, st, last, now) < cfg->confirm_probes)
		return;
	if ((__s64)(last_evidence(st) - last) > 0)
		return; // it spoke while we judged
	st->dead_ns = now;
	become(st, PEER_DEAD, now);
	tell(now, EVENT_PEER_DEAD, NO_IDENTITY, last, 0);
	take_over(cfg, last);
}

static __always_inline void evaluate(const struct xd_config *cfg, struct xd_state *st, const struct xd_control *ctl,
				     __u64 not_before, __u64 now)
{
	__u64 last = last_evidence(st);

	switch (st->peer_state) {
	case PEER_UNKNOWN:
		if (last) {
			become(st, PEER_UP, now);
			rejoin(st, now);
			tell(now, EVENT_PEER_UP, NO_IDENTITY, 0, 0);
		} else {
			judge(cfg, st, st->started_ns, cfg->hold_ns, not_before, now);
		}
		break;
	case PEER_UP:
		if ((__s64)(now - last) >= (__s64)cfg->suspect_ns) {
			st->suspect_ns = now;
			st->suspects++;
			become(st, PEER_SUSPECT, now);
			*(volatile __u64 *)&st->hurry = 1;
			tell(now, EVENT_PEER_SUSPECT, NO_IDENTITY, last, 0);
		} else if (!lease_valid(ctl, now)) {
			lapse(cfg, now);
		}
		break;
	case PEER_SUSPECT:
		if ((__s64)(now - last) < (__s64)cfg->suspect_ns) {
			st->refuted++;
			become(st, PEER_UP, now);
			rejoin(st, now);
			tell(now, EVENT_PEER_REFUTED, NO_IDENTITY, 0, 0);
		} else {
			judge(cfg, st, last, cfg->dead_ns, not_before, now);
		}
		break;
	case PEER_DEAD:
		if ((__s64)(last - st->peer_since_ns) > 0) {
			become(st, PEER_UP, now);
			rejoin(st, now);
			tell(now, EVENT_PEER_UP, NO_IDENTITY, 0, 0);
		} else if (arbiter_allows(cfg, st, now - REACH_FRESH_NS, now)) {
			rejoin_alone(cfg, st, now);
			take_over(cfg, last ? last : st->started_ns);
		} else if ((__s64)(now - st->peer_since_ns) >= (__s64)REACH_FRESH_NS) {
			isolate(cfg, st, now);
		}
		break;
	}
}

static __always_inline __u64 next_look(const struct xd_config *cfg, struct xd_state *st, const struct xd_control *ctl,
				       __u64 now)
{
	__u64 at = now + DETECTOR_MAX_NS, last = last_evidence(st);
	__s64 wait;

	if (st->peer_state == PEER_UP) {
		if ((__s64)(last + cfg->suspect_ns - at) < 0)
			at = last + cfg->suspect_ns;
		if (lease_valid(ctl, now) && (__s64)(ctl->lease_until_ns - at) < 0)
			at = ctl->lease_until_ns;
	} else if (st->peer_state == PEER_SUSPECT) {
		at = last + cfg->dead_ns;
		if ((__s64)(at - now) <= 0)
			at = now + cfg->probe_ns / 4;
	} else {
		at = now + cfg->probe_ns;
	}
	wait = at - now;
	return wait < (__s64)DETECTOR_MIN_NS ? DETECTOR_MIN_NS : wait;
}

static int detector_callback(void *map, __u32 *key, struct detector *d)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 now = bpf_ktime_get_boot_ns(), wait, slack;
	__s64 late;

	if (!cfg || !ctl || !st)
		return 0;
	late = now - d->due_ns;
	slack = cfg->probe_ns / 2 > LATE_MIN_NS ? cfg->probe_ns / 2 : LATE_MIN_NS;
	if (late > (__s64)slack) { // our own stall: frames may wait unread, so give them a probe's time
		st->self_stalls++;
		d->not_before_ns = now + cfg->probe_ns;
		tell(now, EVENT_SELF_STALL, NO_IDENTITY, late, 0);
	}
	evaluate(cfg, st, ctl, d->not_before_ns, now);
	now = bpf_ktime_get_boot_ns();
	wait = next_look(cfg, st, ctl, now);
	d->due_ns = now + wait;
	bpf_timer_start(&d->timer, wait, 0);
	return 0;
}

#endif
