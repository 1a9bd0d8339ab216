// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// account.h: counters for every exit, events for user space, histograms.
#ifndef XDPHA_ACCOUNT_H
#define XDPHA_ACCOUNT_H

#include "maps.h"

#define NO_LINK MAX_LINKS
#define NO_IDENTITY 0xffff
#define NO_NODE 0xffff

__noinline int account(__u32 link, enum xd_reason reason)
{
	__u32 slot = link * REASON_COUNT + reason;
	__u64 *n = bpf_map_lookup_elem(&counters, &slot);

	if (n)
		(*n)++;
	return 0;
}

static __always_inline int swap_word(__u64 *word, __u64 old, __u64 new)
{
	return __sync_val_compare_and_swap(word, old, new) == old;
}

static __always_inline void tell_of(__u64 now, enum xd_event_kind kind, __u16 identity, __u16 node, __u64 a, __u64 b,
				    __u64 first, __u64 second)
{
	struct xd_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) // full: the maps still hold the truth
		return;
	e->at_ns = now;
	e->kind = kind;
	e->identity = identity;
	e->node = node;
	e->a = a;
	e->b = b;
	e->first = first;
	e->second = second;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void tell(__u64 now, enum xd_event_kind kind, __u16 identity, __u64 a, __u64 b)
{
	tell_of(now, kind, identity, NO_NODE, a, b, 0, 0);
}

static __always_inline void tell_peer(__u64 now, enum xd_event_kind kind, __u32 node, __u64 a)
{
	tell_of(now, kind, NO_IDENTITY, node, a, 0, 0, 0);
}

static __always_inline void raise_max(__u64 *max, __u64 value)
{
	if (value > *max) // a lost race costs one sample
		*max = value;
}

// raise_time moves a time forward, never back, whoever else does the same.
static __always_inline void raise_time(__u64 *at, __u64 to)
{
	__u64 old = *(volatile __u64 *)at;

	for (int i = 0; i < 4 && (__s64)(to - old) > 0; i++) { // lost four times: others moved it on
		__u64 seen = __sync_val_compare_and_swap(at, old, to);

		if (seen == old)
			return;
		old = seen;
	}
}

static __always_inline void observe(__u64 *hist, __u64 value)
{
	__u32 bucket = 0;

	for (int shift = 16; shift; shift >>= 1)
		if (value >> shift) {
			value >>= shift;
			bucket += shift;
		}
	if (bucket >= HIST_BUCKETS)
		bucket = HIST_BUCKETS - 1;
	hist[bucket & (HIST_BUCKETS - 1)]++;
}

#endif
