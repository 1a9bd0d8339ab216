// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// ownership.h: the life of an ownership word; it changes by compare-and-swap only.
//
// In a pair:
//   READY|g   -> OWNER|g'   take_over  (the peer is dead, and off if a fence agent must say so, and
//                                      the key in etcd is won if it must be; g' is the next of this node's own)
//   READY|g   -> OWNER|g'   peer_word  (the peer released it: YIELD|g)
//   OWNER|g   -> YIELD|g    forsake_one (the peer has booted, and it was not served here any more)
//   OWNER|g   -> YIELD|g    lapse      (the supervisor's lease ran out, and the peer is up)
//   OWNER|g   -> YIELD|g    peer_word  (stand-down: the peer demands it, READY|DEMAND|g)
//   any|g     -> g'         peer_word  (the peer knows a higher generation g')
//
// Among many, which are three nodes or more:
//   READY|g   -> OWNER|g'   take_all   (by the timer: the key in etcd is won at g', and every other
//                                      candidate is dead, or has said that it does not own g, and no
//                                      living node may have another configuration)
//   READY|g   -> OWNER|g'   peer_word  (the same, but nobody's death counts)
//   OWNER|g   -> YIELD|g    lapse      (the supervisor's lease ran out)
//   OWNER|g   -> YIELD|g    peer_word  (stand-down: a candidate demands it, READY|DEMAND|g)
//   any|g     -> g'         peer_word  (any peer knows a higher generation g')
//
// Generations are this node's number modulo the number of nodes, so that none is ever owned by
// two, whatever a partition let happen and a power cut let be forgotten: of a pair the first node's
// are even. A word at a generation that was owned and is not any more is never owned at it again.
//
// User space does the rest: arming, wishes, planned release; in a pair the home node's first claim.
#ifndef XDPHA_OWNERSHIP_H
#define XDPHA_OWNERSHIP_H

#include "gate.h"

// Until a take is done its time is this much ahead: no grant is younger, so none opens the gate.
#define TAKING_NS (1ULL << 62)

// The least generation of this node's own above that one and above all that it may have owned.
static __always_inline __u64 next_own(const struct xd_config *cfg, __u32 i, __u64 gen)
{
	struct xd_control *ctl = the_control();
	__u64 n = cfg->n_nodes;

	WITHIN(i, MAX_IDENTITIES);
	if (ctl && ctl->floor[i] > gen)
		gen = ctl->floor[i];
	gen++;
	return gen + (cfg->self + n - gen % n) % n;
}

// own swaps the owner's word in. Among many only grants for frames that left after it count: of
// every frame the time is read first and the words then, so such a frame told its receiver. Who did not
// swap puts no time there that is earlier than another processor's swap: only over its own mark, which
// is of this processor alone.
static __always_inline int own(const struct xd_config *cfg, struct xd_state *st, __u64 *word, __u64 old, __u64 new,
			       __u32 i)
{
	__u64 mark;

	WITHIN(i, MAX_IDENTITIES);
	if (!is_many(cfg))
		return swap_word(word, old, new);
	mark = TAKING_NS + ((bpf_ktime_get_boot_ns() & ~0xffULL) | (bpf_get_smp_processor_id() & 0xff));
	__sync_lock_test_and_set(&st->taken_ns[i], mark);
	if (!swap_word(word, old, new)) {
		swap_word(&st->taken_ns[i], mark, bpf_ktime_get_boot_ns());
		return 0;
	}
	__sync_lock_test_and_set(&st->taken_ns[i], bpf_ktime_get_boot_ns());
	return 1;
}

// take makes this node the owner: dead is whose death let it, or NULL; since is its last evidence.
static __always_inline int take(const struct xd_config *cfg, struct xd_state *st, const struct xd_peer *dead,
				__u64 *word, __u64 old, __u32 i, __u32 node, __u64 since)
{
	struct xd_timeline *timeline = the_timeline(i);
	__u64 new = WORD_OWNER | next_own(cfg, i, old & WORD_GEN), now;

	if (!own(cfg, st, word, old, new, i))
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (timeline) {
		*timeline = (struct xd_timeline){
			.word = new,
			.evidence_ns = dead ? since : 0,
			.suspect_ns = dead ? dead->suspect_ns : 0,
			.dead_ns = dead ? dead->dead_ns : 0,
			.flip_ns = now,
		};
	}
	__sync_fetch_and_or(&st->to_announce, 1ULL << (i & 63));
	tell_of(now, dead ? EVENT_TAKEOVER : EVENT_TAKEN, i, node, new, dead ? since : old, 0, 0);
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
__noinline int take_one(__u32 node, __u32 i, __u64 evidence)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	struct xd_peer *p = the_peer(node);
	__u64 *word = the_word(i), old;

	if (!cfg || !st || !p || !word)
		return 0;
	old = *(volatile __u64 *)word;
	if (!(old & WORD_READY) || (old & WORD_OWNER))
		return 0;
	if (cfg->verdict == VERDICT_ETCD && !won(cfg, i, next_own(cfg, i, old & WORD_GEN)))
		return 0;
	return take(cfg, st, p, word, old, i, node, evidence);
}

// How another candidate stands to this node's taking of an identity; the highest says what let it.
enum consent { REFUSES, IS_IDLE, IS_DEAD, OWNED_AND_DIED, RELEASED };

// With another configuration, or none known after a boot, a node's word says nothing. A dead one's
// right by my grant has ended, and it gets no other one before the timer, which is the only one to
// ask about deaths, has called it alive: see hb_promise.
__noinline int consents(__u32 node, __u32 i, __u64 gen, int deaths)
{
	struct xd_config *cfg = the_config();
	struct xd_peer *p = the_peer(node);
	__u64 said, state;

	if (!cfg || !p || i >= MAX_IDENTITIES)
		return REFUSES;
	WITHIN(i, MAX_IDENTITIES);
	state = *(volatile __u64 *)&p->state;
	said = *(volatile __u64 *)&p->words[i];
	if ((p->boot && (__u32)p->digest != cfg->digest) || state == PEER_UNKNOWN)
		return REFUSES;
	if (p->boot && (said & WORD_GEN) == gen && !(said & WORD_OWNER))
		return said & WORD_YIELD ? RELEASED : IS_IDLE;
	if (!deaths || state != PEER_DEAD)
		return REFUSES;
	return said & WORD_OWNER ? OWNED_AND_DIED : IS_DEAD;
}

// A living node of another configuration may own the identity by that one, as a candidate that it is
// not here, and by the grants of nodes that are not asked here: nothing is taken beside it, nor
// after a boot before each node is known to be none, or dead.
static __always_inline int may_differ(const struct xd_config *cfg, __u32 node)
{
	struct xd_peer *p = the_peer(node);
	__u64 state;

	if (!p)
		return 1;
	state = *(volatile __u64 *)&p->state;
	return state == PEER_UNKNOWN || (state != PEER_DEAD && (__u32)p->digest != cfg->digest);
}

// The last evidence of life on any path; 0: never. Another CPU may stamp meanwhile.
static __always_inline __u64 last_evidence(const struct xd_peer *p)
{
	__u64 last = 0;

	for (__u32 i = 0; i < MAX_PATHS; i++) {
		__u64 heard = *(volatile __u64 *)&p->paths[i].heard_ns;

		if ((__s64)(heard - last) > 0)
			last = heard;
	}
	return last;
}

// take_among takes an identity among many. Whoever takes it must have won its key, so candidates
// are ordered by etcd, and the key it holds lets it serve until all have granted.
__noinline int take_among(__u32 i, int deaths)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 *word = the_word(i), old;
	int why = IS_IDLE;
	__u32 who = NO_NODE;
	struct xd_peer *p;

	if (!cfg || !ctl || !st || !word || i >= MAX_IDENTITIES)
		return 0;
	old = *(volatile __u64 *)word;
	if ((old & (WORD_READY | WORD_OWNER)) != WORD_READY || !won(cfg, i, next_own(cfg, i, old & WORD_GEN)) ||
	    !lease_valid(ctl, bpf_ktime_get_boot_ns()) || !is_candidate(cfg, i, cfg->self))
		return 0;
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++) {
		int consent;

		if (node == cfg->self)
			continue;
		if (!is_candidate(cfg, i, node)) {
			if (may_differ(cfg, node))
				return 0;
			continue;
		}
		consent = consents(node, i, old & WORD_GEN, deaths);
		if (consent == REFUSES)
			return 0;
		if (consent > why) {
			why = consent;
			who = node;
		}
	}
	p = the_peer(who);
	if (!p || (why != IS_DEAD && why != OWNED_AND_DIED))
		return take(cfg, st, 0, word, old, i, who, 0);
	return take(cfg, st, p, word, old, i, who, last_evidence(p) ? last_evidence(p) : st->started_ns);
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

// forsake_one: a peer that has booted knows nothing of what it owned before. What is owned here, but not
// served any more for want of that peer's word, may have been served there since: it is not served
// again by the word of a boot that has forgotten.
__noinline int forsake_one(__u32 i, __u32 node, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	struct xd_peer *p = the_peer(node);
	__u64 granted;

	if (!cfg || !ctl || !st || !p || i >= MAX_IDENTITIES || holds_key(cfg, ctl, i, now))
		return 0;
	if (!is_many(cfg))
		return may_serve(cfg, st, now) ? 0 : lapse_one(i, now);
	WITHIN(i, MAX_IDENTITIES);
	granted = *(volatile __u64 *)&p->granted_ns;
	if (!is_candidate(cfg, i, node) ||
	    (granted && (__s64)(granted + cfg->serve_ns - now) > 0 &&
	     (__s64)(granted - *(volatile __u64 *)&st->taken_ns[i]) > 0))
		return 0;
	return lapse_one(i, now);
}

// With a fence agent the peer must be known to be off: it was asked after this death was declared,
// and neither has a frame come since, nor has somebody with the key knocked, who has booted.
static __always_inline int fenced(const struct xd_peer *p)
{
	struct xd_control *ctl = the_control();
	__u64 at;

	if (!ctl)
		return 0;
	at = *(volatile __u64 *)&ctl->fenced_ns;
	return at && (__s64)(at - p->since_ns) > 0 && (__s64)(at - *(volatile __u64 *)&p->heard_ns) > 0 &&
	       (__s64)(at - *(volatile __u64 *)&p->knocked_ns) > 0;
}

// What a peer of another configuration owned may have another name here: nothing is taken until
// both agree again. Among many see take_all.
static __always_inline void take_over(const struct xd_config *cfg, const struct xd_peer *p, __u32 node, __u64 evidence)
{
	if (is_many(cfg) || (p->boot && (__u32)p->digest != cfg->digest))
		return;
	if (cfg->verdict == VERDICT_FENCE && !fenced(p))
		return;
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		take_one(node, i, evidence);
}

// Once the timer has looked at all peers.
static __always_inline void take_all(const struct xd_config *cfg)
{
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		take_among(i, 1);
}

static __always_inline void lapse(const struct xd_config *cfg, __u64 now)
{
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		lapse_one(i, now);
}

static __always_inline int change(__u64 *word, __u64 old, __u64 new, enum xd_event_kind kind, __u32 i, __u32 node)
{
	if (!swap_word(word, old, new))
		return 0;
	if (old & WORD_OWNER)
		tell_of(bpf_ktime_get_boot_ns(), kind, i, node, new, old, 0, 0);
	return 1;
}

// What a peer says of one identity, applied to a word as it was read; 0: it has changed since.
static __always_inline int apply_word(const struct xd_config *cfg, struct xd_state *st, const struct xd_control *ctl,
				      __u64 *word, __u64 old, __u64 theirs, __u32 i, __u32 node, __u64 now)
{
	__u64 gen = old & WORD_GEN;

	if ((theirs & WORD_GEN) > gen)
		return change(word, old, theirs & WORD_GEN, EVENT_CLOSED, i, node);
	if ((theirs & WORD_GEN) < gen || (is_many(cfg) && !is_candidate(cfg, i, node)))
		return 1;
	if ((theirs & (WORD_READY | WORD_DEMAND)) == (WORD_READY | WORD_DEMAND) && old & WORD_OWNER)
		return change(word, old, WORD_YIELD | gen, EVENT_STOOD_DOWN, i, node);
	if (theirs & WORD_OWNER || (old & (WORD_READY | WORD_OWNER)) != WORD_READY)
		return 1;
	if (is_many(cfg))
		take_among(i, 0);
	else if (theirs & WORD_YIELD && lease_valid(ctl, now))
		return take(cfg, st, 0, word, old, i, node, 0);
	return 1;
}

// peer_word applies what a peer says of one identity. User space may change the word in the
// same moment: what closes a gate is not lost by that.
__noinline int peer_word(__u32 node, __u32 i, __u64 theirs, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	struct xd_peer *p = the_peer(node);
	__u64 *word = the_word(i);

	if (!cfg || !ctl || !st || !p || !word || i >= MAX_IDENTITIES)
		return 0;
	WITHIN(i, MAX_IDENTITIES);
	// An older frame of another path must not overwrite newer knowledge.
	if ((theirs & WORD_GEN) < (p->words[i] & WORD_GEN) && p->state == PEER_UP)
		return 0;
	if (theirs != p->words[i]) {
		p->words[i] = theirs;
		tell_of(now, EVENT_PEER_WORD, i, node, theirs, 0, 0, 0);
	}
	for (int tries = 0; tries < 4; tries++)
		if (apply_word(cfg, st, ctl, word, *(volatile __u64 *)word, theirs, i, node, now))
			break;
	return 0;
}

#endif
