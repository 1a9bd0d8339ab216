// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// conflict.h: somebody else claims an address that is served here: counted, told, and to be denied.
#ifndef XDPHA_CONFLICT_H
#define XDPHA_CONFLICT_H

#include "gate.h"

#define CLAIM_IDENTITY_BITS 8
#define CONFLICT_EVERY_NS 100000000LL // of one identity told no more often: somebody may flood us

// is_conflict counts and tells of a claim (RFC 5227, 2.4; RFC 4862, 5.4.4). With our own MAC it is
// our own frame, come back to another NIC: 0. The address is that of the map addresses, in two
// halves. Global: the verifier proves it once, not once a caller.
__noinline int is_conflict(__u32 id, __u64 claimant, __u64 first, __u64 second)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!cfg || !st || claimant == mac_u64(identity_config(cfg, id)->mac))
		return 0;
	WITHIN(id, MAX_IDENTITIES);
	__sync_fetch_and_add(&st->conflicts[id], 1);
	if ((__s64)(now - st->conflict_told_ns[id]) > CONFLICT_EVERY_NS) {
		st->conflict_told_ns[id] = now;
		tell_of(now, EVENT_ADDRESS_CONFLICT, id, NO_NODE, claimant, 0, first, second);
	}
	return 1;
}

// deny_claim leaves it to the next tick to announce the address anew: the clients believe who
// spoke last. What does not fit is not denied, for somebody floods us. A slot is free once the
// tick has counted on, so its writer is alone.
__noinline int deny_claim(__u32 id, __u64 first, __u64 second)
{
	struct xd_state *st = the_state();
	struct xd_claim *c;

	if (!st)
		return 0;
	for (int i = 0; i < 4; i++) {
		__u64 n = *(volatile __u64 *)&st->claimed;

		if (n - *(volatile __u64 *)&st->denied >= CLAIMS_KEPT)
			return 0;
		if (!swap_word(&st->claimed, n, n + 1))
			continue;
		c = &st->claims[n & (CLAIMS_KEPT - 1)];
		c->first = first;
		c->second = second;
		__sync_lock_test_and_set(&c->mark, n << CLAIM_IDENTITY_BITS | (id + 1));
		return 1;
	}
	return 0;
}

// claim_to_deny gives the next claim that it is time for; 0: none. Of two ticks at once that have
// read the same claim the one that swaps its mark has it. The other must not touch what may be the
// slot's next claim by then: one without a mark would be the last that is ever looked at.
static __always_inline int claim_to_deny(struct xd_state *st, __u64 now, struct xd_claim *claim)
{
	__u64 n = *(volatile __u64 *)&st->denied;
	struct xd_claim *c = &st->claims[n & (CLAIMS_KEPT - 1)];

	if (n == *(volatile __u64 *)&st->claimed)
		return 0;
	if ((__s64)(now - st->denials_since_ns) > DENIALS_NS) {
		st->denials_since_ns = now;
		st->denials = 0;
	}
	if (st->denials >= DENIALS)
		return 0;
	*claim = (struct xd_claim){*(volatile __u64 *)&c->mark, *(volatile __u64 *)&c->first, *(volatile __u64 *)&c->second};
	if (!claim->mark || claim->mark >> CLAIM_IDENTITY_BITS != n || !swap_word(&c->mark, claim->mark, 0))
		return 0; // not written yet, or another tick's
	st->denials++;
	*(volatile __u64 *)&st->denied = n + 1;
	return 1;
}

#endif
