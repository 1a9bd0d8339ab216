// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// gate.h: the per-packet test: may this identity's traffic pass here, now?
#ifndef XDPHA_GATE_H
#define XDPHA_GATE_H

#include "parse.h"
#include "account.h"

static __always_inline int lease_valid(const struct xd_control *ctl, __u64 now)
{
	return (__s64)(*(volatile __u64 *)&ctl->lease_until_ns - now) > 0;
}

static __always_inline int is_many(const struct xd_config *cfg)
{
	return cfg->n_nodes > 2;
}

static __always_inline int is_candidate(const struct xd_config *cfg, __u32 identity, __u32 node)
{
	WITHIN(identity, MAX_IDENTITIES);
	return cfg->identities[identity].candidates >> (node & (MAX_NODES - 1)) & 1;
}

// A pair's right to serve: the peer's word that it counted a frame of mine as life, or the
// arbiter's leave. It ends by itself before the peer may take over: see detector.h.
static __always_inline int may_serve(const struct xd_config *cfg, const struct xd_state *st, __u64 now)
{
	return !cfg->serve_ns || (__s64)(*(volatile __u64 *)&st->serve_until_ns - now) > 0;
}

// This node holds the identity's key in etcd, so nobody else does.
static __always_inline int holds_key(const struct xd_config *cfg, const struct xd_control *ctl, __u32 identity,
				     __u64 now)
{
	WITHIN(identity, MAX_IDENTITIES);
	return cfg->verdict == VERDICT_ETCD && (__s64)(*(volatile __u64 *)&ctl->leave_ns[identity] - now) > 0;
}

// The right to serve one identity among many: every other candidate, any of which may take over,
// has counted a frame of mine as life, lately enough, that left after I took it.
__noinline int granted_by_all(__u32 identity, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();

	if (!cfg || !st || identity >= MAX_IDENTITIES)
		return 0;
	WITHIN(identity, MAX_IDENTITIES);
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++) {
		struct xd_peer *p = the_peer(node);
		__u64 granted;

		if (node == cfg->self || !is_candidate(cfg, identity, node))
			continue;
		granted = p ? *(volatile __u64 *)&p->granted_ns : 0;
		if (!granted || (__s64)(granted + cfg->serve_ns - now) <= 0 ||
		    (__s64)(granted - *(volatile __u64 *)&st->taken_ns[identity]) <= 0)
			return 0;
	}
	return 1;
}

static __always_inline int granted(const struct xd_config *cfg, const struct xd_state *st, __u32 identity, __u64 now)
{
	return is_many(cfg) ? granted_by_all(identity, now) : may_serve(cfg, st, now);
}

static __always_inline int owns(__u32 identity)
{
	__u64 *word = the_word(identity);

	return word && *(volatile __u64 *)word & WORD_OWNER;
}

// An identity's word as frames carry it. The word is read first: what runs is noted before it is
// started, and that at an owner's word, so no frame says of a released one too early that it has ended.
static __always_inline __u64 said_word(const struct xd_control *ctl, const __u64 *word, __u32 identity)
{
	__u64 said = *(volatile __u64 *)word;

	WITHIN(identity, MAX_IDENTITIES);
	return *(volatile __u64 *)&ctl->running[identity] & ~RUNNING_ENDED ? said | WORD_RUNS : said;
}

// What a pair's node serves without a supervisor: the peer is known dead, so nobody could take over,
// and the configuration says that served is better than dark. Without a supervisor and its thread
// this node does not probe, and so cannot prove a peer that boots: the peer's knocking must do, for
// it will take over after its hold.
static __always_inline int keeps_alone(const struct xd_config *cfg, __u64 now)
{
	struct xd_peer *p = the_other(cfg);

	return p && cfg->solo_keep && !is_many(cfg) && *(volatile __u64 *)&p->state == PEER_DEAD &&
	       (!p->knocked_ns || (__s64)(now - p->knocked_ns) > (__s64)cfg->hold_ns);
}

// Open: owned here, with the right to serve, and a supervisor's lease.
static __always_inline int gate_open(const struct xd_config *cfg, __u32 identity)
{
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	__u64 *word = the_word(identity), now;

	if (!ctl || !st || !word)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (!granted(cfg, st, identity, now) && !holds_key(cfg, ctl, identity, now))
		return 0;
	if (!lease_valid(ctl, now) && !keeps_alone(cfg, now))
		return 0;
	// Last, as frames close a word before they grant: who was held up in between must not see a
	// word of before and a right of after.
	return !!(*(volatile __u64 *)word & WORD_OWNER);
}

// An identity's configuration; its number is one of the maps', so below MAX_IDENTITIES.
static __always_inline const struct xd_identity_config *identity_config(const struct xd_config *cfg, __u32 identity)
{
	WITHIN(identity, MAX_IDENTITIES);
	return &cfg->identities[identity];
}

static __always_inline int carries(const struct xd_config *cfg, __u32 identity, __u32 ifindex)
{
	return identity_config(cfg, identity)->carrier == ifindex;
}

// The first time that a question for an identity's address is answered here.
static __always_inline void note_answer(__u32 identity)
{
	struct xd_timeline *timeline = the_timeline(identity);

	if (timeline && !timeline->answered_ns)
		timeline->answered_ns = bpf_ktime_get_boot_ns();
}

struct tcp_start { // RFC 9293, 3.1, up to the flags
	__be16 source_be, dest_be;
	__u8 numbers[8], offset, flags;
} __attribute__((packed));

#define TCP_SYN 0x02
#define TCP_ACK 0x10

static __always_inline struct tcp_start *tcp_of(__be16 ethertype_be, struct cursor c)
{
	if (ethertype_be == bpf_htons(ETH_P_IPV6)) {
		if (TAKE(c, struct ipv6hdr, 0)->nexthdr != IPPROTO_TCP)
			return 0;
		return TAKE(c, struct tcp_start, 0);
	}
	if (ethertype_be != bpf_htons(ETH_P_IP))
		return 0;
	struct iphdr *ip = TAKE(c, struct iphdr, 0);

	if (ip->protocol != IPPROTO_TCP || ip->frag_off & bpf_htons(0x1fff) || ip->ihl < 5)
		return 0;
	c.at = (void *)ip + ip->ihl * 4;
	return TAKE(c, struct tcp_start, 0);
}

// is_early: the packet begins a TCP connection to a port behind which no service is ready yet. To drop
// it makes the client ask again; the stack would refuse it, and the client give up.
static __noinline int is_early(__u32 identity, __be16 ethertype_be, void *at, void *end)
{
	struct tcp_start *tcp = tcp_of(ethertype_be, (struct cursor){at, end});
	struct xd_port key = {.identity = identity};
	__u64 *word = the_word(identity), *ready;

	if (!tcp || (tcp->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	key.port_be = tcp->dest_be;
	ready = bpf_map_lookup_elem(&ports, &key);
	return ready && word && *(volatile __u64 *)ready != (*(volatile __u64 *)word & WORD_GEN);
}

// Ingress: frames to a virtual MAC or address. One identity's MAC opens no other one's gate.
static __always_inline enum xd_reason gate_in(const struct xd_config *cfg, __u32 ifindex, struct ethhdr *eth,
					      struct cursor c)
{
	__u32 *identity = identity_of_mac(eth->h_dest), *by_ip = identity_to(eth->h_proto, c);
	struct xd_timeline *timeline;

	if (identity && !carries(cfg, *identity, ifindex))
		return REASON_IN_WRONG_NIC;
	if (!identity)
		identity = by_ip;
	if (!identity)
		return REASON_NOT_OURS;
	if (!gate_open(cfg, *identity) || (by_ip && *by_ip != *identity && !gate_open(cfg, *by_ip)))
		return REASON_IN_GATE_CLOSED;
	if (by_ip && cfg->with_ports >> (*by_ip & (MAX_IDENTITIES - 1)) & 1 && is_early(*by_ip, eth->h_proto, c.at, c.end))
		return REASON_IN_NOT_READY;
	timeline = the_timeline(*identity);
	if (timeline && !timeline->in_ns)
		timeline->in_ns = bpf_ktime_get_boot_ns();
	return REASON_IN_OPEN;
}

// Egress: frames from a virtual MAC or address. What leaves with the MAC must have an
// address of the same identity, and the other way round.
static __always_inline enum xd_reason gate_out(const struct xd_config *cfg, __u32 ifindex, struct cursor c)
{
	struct ethhdr *eth = TAKE(c, struct ethhdr, REASON_INTERNAL);
	__u32 *by_mac = identity_of_mac(eth->h_source);
	__u32 *by_ip = identity_from(eth->h_proto, c);
	struct xd_timeline *timeline;

	if (!by_mac)
		return by_ip ? REASON_OUT_WRONG_MAC : REASON_NOT_OURS;
	if (!is_arp_probe(eth->h_proto, c) && (!by_ip || *by_ip != *by_mac))
		return REASON_OUT_FOREIGN_SOURCE;
	if (!carries(cfg, *by_mac, ifindex))
		return REASON_OUT_WRONG_NIC;
	if (!gate_open(cfg, *by_mac))
		return REASON_OUT_GATE_CLOSED;
	timeline = the_timeline(*by_mac);
	if (timeline && !timeline->out_ns && !is_announcement(eth->h_proto, c))
		timeline->out_ns = bpf_ktime_get_boot_ns();
	return REASON_OUT_OPEN;
}

#endif
