// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// ownership.h: the life of an ownership word; it changes by compare-and-swap only.
//
//   READY|g   -> OWNER|g'   take_over  (the peer is dead, and off if a fence agent must say so, and
//                                      the key in etcd is won if it must be; g' is the next of this node's own)
//   READY|g   -> OWNER|g'   peer_word  (the peer released it: YIELD|g)
//   OWNER|g   -> YIELD|g    lapse      (the supervisor's lease ran out)
//   OWNER|g   -> YIELD|g    peer_word  (stand-down: the peer demands it, READY|DEMAND|g)
//   any|g     -> g'         peer_word  (the peer knows a higher generation g')
//
// Generations are even on the first node and odd on the second, so that none is ever owned by
// both, whatever a partition let happen and a power cut let be forgotten.
//
// User space does the rest: arming, wishes, planned release, the home node's first claim.
#ifndef XDPHA_OWNERSHIP_H
#define XDPHA_OWNERSHIP_H

#include "gate.h"

// The least generation of this node's own above that one and above all that it may have owned.
static __always_inline __u64 next_own(const struct xd_config *cfg, __u32 i, __u64 gen)
{
	struct xd_control *ctl = the_control();

	WITHIN(i, MAX_IDENTITIES);
	if (ctl && ctl->floor[i] > gen)
		gen = ctl->floor[i];
	return gen + 1 + ((gen + 1 + cfg->self) & 1);
}

static __always_inline int take(const struct xd_config *cfg, struct xd_state *st, __u64 *word, __u64 old,
				enum xd_event_kind kind, __u32 i, __u64 since)
{
	struct xd_timeline *timeline = the_timeline(i);
	__u64 new = WORD_OWNER | next_own(cfg, i, old & WORD_GEN), now;

	if (!swap_word(word, old, new))
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (timeline) {
		int death = kind == EVENT_TAKEOVER;

		*timeline = (struct xd_timeline){
			.word = new,
			.evidence_ns = death ? since : 0,
			.suspect_ns = death ? st->suspect_ns : 0,
			.dead_ns = death ? st->dead_ns : 0,
			.flip_ns = now,
		};
	}
	__sync_fetch_and_or(&st->to_announce, 1ULL << (i & 63));
	tell(now, kind, i, new, kind == EVENT_TAKEOVER ? since : old);
	return 1;
}

// With etcd this node must have won the identity's key, at the very generation that it takes.
static __always_inline int won(const struct xd_config *cfg, __u32 i, __u64 gen)
{
	struct xd_control *ctl = the_control();

	WITHIN(i, MAX_IDENTITIES);
	return ctl && holds_key(cfg, ctl, i, bpf_ktime_get_boot_ns()) && *(volatile __u64 *)&ctl->leave_gen[i] == gen;
}

// The functions of one identity are global: the verifier proves each once, not once a caller.
__noinline int take_one(__u32 i, __u64 evidence)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	__u64 *word = the_word(i), old;

	if (!cfg || !st || !word)
		return 0;
	old = *(volatile __u64 *)word;
	if (!(old & WORD_READY) || (old & WORD_OWNER))
		return 0;
	if (cfg->verdict == VERDICT_ETCD && !won(cfg, i, next_own(cfg, i, old & WORD_GEN)))
		return 0;
	return take(cfg, st, word, old, EVENT_TAKEOVER, i, evidence);
}

__noinline int lapse_one(__u32 i, __u64 now)
{
	__u64 *word = the_word(i), old, new;

	if (!word)
		return 0;
	old = *(volatile __u64 *)word;
	if (!(old & WORD_OWNER))
		return 0;
	new = WORD_YIELD | (old & WORD_GEN);
	if (!swap_word(word, old, new))
		return 0;
	tell(now, EVENT_LAPSED, i, new, 0);
	return 1;
}

// With a fence agent the peer must be known to be off: it was asked after this death was declared,
// and neither has a frame come since, nor has somebody with the key knocked, who has booted.
static __always_inline int fenced(const struct xd_state *st)
{
	struct xd_control *ctl = the_control();
	__u64 at;

	if (!ctl)
		return 0;
	at = *(volatile __u64 *)&ctl->fenced_ns;
	return at && (__s64)(at - st->peer_since_ns) > 0 && (__s64)(at - *(volatile __u64 *)&st->heard_ns) > 0 &&
	       (__s64)(at - *(volatile __u64 *)&st->knocked_ns) > 0;
}

// What a peer of another configuration owned may have another name here: nothing is taken until
// both agree again.
static __always_inline void take_over(const struct xd_config *cfg, const struct xd_state *st, __u64 evidence)
{
	if (st->peer_boot && (__u32)st->peer_digest != cfg->digest)
		return;
	if (cfg->verdict == VERDICT_FENCE && !fenced(st))
		return;
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		take_one(i, evidence);
}

static __always_inline void lapse(const struct xd_config *cfg, __u64 now)
{
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		lapse_one(i, now);
}

static __always_inline int change(__u64 *word, __u64 old, __u64 new, enum xd_event_kind kind, __u32 i)
{
	if (!swap_word(word, old, new))
		return 0;
	if (old & WORD_OWNER)
		tell(bpf_ktime_get_boot_ns(), kind, i, new, old);
	return 1;
}

// What the peer says of one identity, applied to a word as it was read; 0: it has changed since.
static __always_inline int apply_word(const struct xd_config *cfg, struct xd_state *st, const struct xd_control *ctl,
				      __u64 *word, __u64 old, __u64 theirs, __u32 i, __u64 now)
{
	__u64 gen = old & WORD_GEN;

	if ((theirs & WORD_GEN) > gen)
		return change(word, old, theirs & WORD_GEN, EVENT_CLOSED, i);
	if ((theirs & WORD_GEN) < gen)
		return 1;
	if ((theirs & (WORD_READY | WORD_DEMAND)) == (WORD_READY | WORD_DEMAND) && old & WORD_OWNER)
		return change(word, old, WORD_YIELD | gen, EVENT_STOOD_DOWN, i);
	if ((theirs & (WORD_OWNER | WORD_YIELD)) == WORD_YIELD && (old & (WORD_READY | WORD_OWNER)) == WORD_READY &&
	    lease_valid(ctl, now))
		return take(cfg, st, word, old, EVENT_TAKEN, i, now);
	return 1;
}

// peer_word applies what the peer says of one identity. User space may change the word in the
// same moment: what closes a gate is not lost by that.
__noinline int peer_word(__u32 i, __u64 theirs, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 *word = the_word(i);

	if (!cfg || !ctl || !st || !word || i >= MAX_IDENTITIES)
		return 0;
	WITHIN(i, MAX_IDENTITIES);
	// An older frame of another link must not overwrite newer knowledge.
	if ((theirs & WORD_GEN) < (st->peer_words[i] & WORD_GEN) && st->peer_state == PEER_UP)
		return 0;
	if (theirs != st->peer_words[i]) {
		st->peer_words[i] = theirs;
		tell(now, EVENT_PEER_WORD, i, theirs, 0);
	}
	for (int tries = 0; tries < 4; tries++)
		if (apply_word(cfg, st, ctl, word, *(volatile __u64 *)word, theirs, i, now))
			break;
	return 0;
}

#endif
