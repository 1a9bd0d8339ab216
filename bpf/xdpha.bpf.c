// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

// xdpha.bpf.c: the programs: parse, classify, handle, account, return.
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/time.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "steady.h"
#include "heartbeat.h"
#include "detector.h"
#include "arp.h"
#include "nd.h"
#include "pacer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int xdp_verdict(enum xd_reason reason)
{
	switch (reason) {
	case REASON_NOT_OURS:
	case REASON_IN_OPEN:
		return XDP_PASS;
	case REASON_HB_PROBE_ANSWERED:
	case REASON_HB_ANNOUNCED:
	case REASON_ARP_ANSWERED:
	case REASON_ND_ANSWERED:
		return XDP_TX;
	case REASON_INTERNAL:
		return XDP_ABORTED;
	default:
		return XDP_DROP;
	}
}

SEC("xdp")
int xdpha_in(struct xdp_md *ctx)
{
	int opaque = take_priority_off(ctx);
	struct cursor c = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct xd_config *cfg = the_config();
	struct ethhdr *eth = TAKE(c, struct ethhdr, XDP_PASS);
	enum xd_reason reason = REASON_NOT_OURS;
	__u32 link;

	if (!cfg)
		return XDP_PASS;
	link = link_of(cfg, ctx->ingress_ifindex);
	if (opaque)
		reason = REASON_IN_GATE_CLOSED;
	else if (eth->h_proto == bpf_htons(ETH_P_IP))
		reason = handle_heartbeat(ctx, cfg, link, eth, c);
	else if (eth->h_proto == bpf_htons(ETH_P_ARP))
		reason = handle_arp(cfg, link, ctx->ingress_ifindex, eth, c);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		reason = handle_nd(ctx, cfg, eth, c);
	if (reason == REASON_NOT_OURS)
		reason = gate_in(cfg, ctx->ingress_ifindex, eth, c);
	account(link, reason);
	return xdp_verdict(reason);
}

SEC("tc")
int xdpha_out(struct __sk_buff *skb)
{
	struct cursor c;
	struct xd_config *cfg = the_config();
	enum xd_reason reason;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (bpf_skb_pull_data(skb, sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + 1)) // to the type of ICMPv6
		bpf_skb_pull_data(skb, skb->len); // shorter than that
	c = (struct cursor){(void *)(long)skb->data, (void *)(long)skb->data_end};
	reason = gate_out(cfg, skb->ifindex, c);
	account(link_of(cfg, skb->ifindex), reason);
	return reason == REASON_NOT_OURS || reason == REASON_OUT_OPEN ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int xdpha_tick(struct __sk_buff *skb)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 now = bpf_ktime_get_boot_ns();
	__u8 mark;

	if (!cfg || !ctl || !st)
		return TC_ACT_SHOT;
	mark = tick_mark(skb);
	if (mark == TOKEN_MARK && token_unpaced(ctl, st, now)) {
		account(NO_LINK, REASON_TOKEN_UNPACED);
		return TC_ACT_SHOT;
	}
	account(NO_LINK, handle_tick(skb, cfg, st, ctl, mark, now));
	return mark == TOKEN_MARK ? token_return(skb, st, ctl) : TC_ACT_SHOT;
}

// Starts the detector, or hands the running one to this program after an upgrade.
SEC("syscall")
int xdpha_start(void *ctx)
{
	__u32 zero = 0;
	struct detector *d = bpf_map_lookup_elem(&detectors, &zero);
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	__u64 now = bpf_ktime_get_boot_ns();
	long err;

	if (!d || !cfg || !st)
		return 1;
	err = bpf_timer_init(&d->timer, &detectors, CLOCK_MONOTONIC);
	if (err && err != -16) // EBUSY: it runs already
		return 2;
	if (!st->started_ns)
		st->started_ns = now;
	for (__u32 node = 0; node < MAX_NODES; node++) {
		struct xd_peer *p = the_peer(node);

		if (p && !p->my_nonce)
			p->my_nonce = new_nonce(cfg, now);
	}
	if (bpf_timer_set_callback(&d->timer, detector_callback))
		return 3;
	d->due_ns = now + TIMER_LEAST_NS;
	d->not_before_ns = now + DETECTOR_MAX_NS;
	return bpf_timer_start(&d->timer, TIMER_LEAST_NS, 0) ? 4 : 0;
}
