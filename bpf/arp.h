// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// arp.h: the ARP responder (RFC 826, RFC 5227) and what ARP says about hosts and conflicts.
#ifndef XDPHA_ARP_H
#define XDPHA_ARP_H

#include "conflict.h"

#define ARP_ETHERNET 1 // types of hardware
#define ARP_IEEE802 6 // the stack heeds it on Ethernet, too

static __always_inline int reached_since(const struct xd_state *st, __u32 host, __u64 since)
{
	return (__s64)(st->reach_ns[host][LINK_LAN] - since) > 0 || (__s64)(st->reach_ns[host][LINK_SPARE] - since) > 0;
}

// How many of the listed hosts answered since a time, by any NIC.
static __always_inline __u32 reached(const struct xd_config *cfg, struct xd_state *st, __u64 since)
{
	__u32 n = 0;

	for (__u32 i = 0; i < MAX_REACH; i++) {
		if (i >= cfg->n_reach)
			break;
		if (reached_since(st, i, since))
			n++;
	}
	return n;
}

// give_back_leave ends the arbiter's leave when a peer is heard that has counted frames of mine:
// then it grants, or does not hear us, and will take over as long after what it granted last as
// makes that the end of my right. One that was called dead may do so as well, and at any moment.
// Every exchange is a full barrier: of a frame that is stamped here and a leave that is taken
// there in the same moment, one sees the other.
static __always_inline void give_back_leave(const struct xd_config *cfg, struct xd_state *st, const struct xd_peer *p)
{
	__u64 granted = *(volatile __u64 *)&p->granted_ns;

	if (!cfg->serve_ns || !granted)
		return;
	for (int i = 0; i < 4; i++) {
		__u64 until = *(volatile __u64 *)&st->serve_until_ns;

		if ((__s64)(until - granted) <= (__s64)cfg->serve_ns)
			return;
		if (__sync_val_compare_and_swap(&st->serve_until_ns, until, granted + cfg->serve_ns) != until)
			continue;
		// What another processor was granted meanwhile stands.
		raise_time(&st->serve_until_ns, *(volatile __u64 *)&p->granted_ns + cfg->serve_ns);
		return;
	}
}

// The peer is not heard, and heard me when it was heard last: it is not one that hears nothing of
// mine, and is about to take over, while its own frames are lost but for a few.
static __always_inline int is_silent(const struct xd_config *cfg, const struct xd_peer *p, __u64 now)
{
	__u64 heard = *(volatile __u64 *)&p->heard_ns, granted = *(volatile __u64 *)&p->granted_ns;

	return (__s64)(now - heard) >= (__s64)(cfg->probe_ns + cfg->probe_ns / 2) &&
	       (!granted || (__s64)(heard - granted) <= (__s64)cfg->suspect_ns);
}

// An answer counts for the round of questions before it. Once a majority has answered a round,
// this node may serve for as long after the round as after a frame that the peer counts. Not if
// its right has run out meanwhile, for the peer may have taken over: see serve_alone. And not
// while the peer is heard: see give_back_leave.
static __always_inline void reach_heard(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	__u64 sent = *(volatile __u64 *)&st->reach_sent_ns;
	struct xd_peer *p = the_other(cfg);

	if (!p || !sent || reached(cfg, st, sent) * 2 <= cfg->n_reach)
		return;
	raise_time(&st->reach_ok_ns, sent);
	if (!cfg->serve_ns || !may_serve(cfg, st, now) || !is_silent(cfg, p, now))
		return;
	raise_time(&st->serve_until_ns, sent + cfg->serve_ns);
	if (!is_silent(cfg, p, now))
		give_back_leave(cfg, st, p);
}

static __always_inline void reach_stamp(const struct xd_config *cfg, struct xd_state *st, __u32 link, __u32 ip_be,
					__u64 mac)
{
	__u64 now;

	for (__u32 i = 0; i < MAX_REACH; i++) {
		if (i >= cfg->n_reach)
			return;
		if (cfg->reach_be[i] != ip_be || link >= MAX_LINKS)
			continue;
		now = bpf_ktime_get_boot_ns();
		st->reach_ns[i][link] = now;
		st->reach_mac[i] = mac & 1 ? 0 : mac; // a group is nobody to ask
		reach_heard(cfg, st, now);
		return;
	}
}

static __always_inline void arp_answer(struct ethhdr *eth, struct arp_ipv4 *arp, const __u8 *mac)
{
	__u8 wanted[4];

	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
	arp->operation_be = bpf_htons(2);
	__builtin_memcpy(wanted, arp->target_ip, 4);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	__builtin_memcpy(arp->sender_mac, mac, 6);
	__builtin_memcpy(arp->sender_ip, wanted, 4);
}

struct arp_frame {
	struct ethhdr eth;
	struct arp_ipv4 arp;
	__u8 padding[18]; // to Ethernet's least frame
} __attribute__((packed));

// What all ARP frames of ours have in common.
static __always_inline void arp_frame(struct arp_frame *f, const __u8 *mac, __u16 operation)
{
	__builtin_memset(f->eth.h_dest, 0xff, 6);
	__builtin_memcpy(f->eth.h_source, mac, 6);
	f->eth.h_proto = bpf_htons(ETH_P_ARP);
	f->arp.hardware_be = bpf_htons(ARP_ETHERNET);
	f->arp.protocol_be = bpf_htons(ETH_P_IP);
	f->arp.hardware_len = 6;
	f->arp.protocol_len = 4;
	f->arp.operation_be = bpf_htons(operation);
	__builtin_memcpy(f->arp.sender_mac, mac, 6);
}

// A gratuitous ARP (RFC 5944, 4.6: some hosts heed the request, some the answer) moves the
// switches' entry for the virtual MAC to the NIC that carries it now.
static __always_inline void gratuitous_arp(struct arp_frame *f, const __u8 *mac, __u32 ip_be, __u16 operation)
{
	arp_frame(f, mac, operation);
	__builtin_memcpy(f->arp.sender_ip, &ip_be, 4);
	__builtin_memcpy(f->arp.target_ip, &ip_be, 4);
}

// The first announcement has left; what is left of them is for the next tick.
static __always_inline void note_announced(struct xd_state *st, __u32 identity)
{
	struct xd_timeline *timeline = the_timeline(identity);
	__u64 now = bpf_ktime_get_boot_ns();

	__sync_fetch_and_or(&st->to_announce, 1ULL << ((identity + ANNOUNCE_REST) & 63));
	if (timeline && !timeline->announced_ns)
		timeline->announced_ns = now;
	tell(now, EVENT_ANNOUNCED, identity, 0, 0);
}

static __always_inline int arp_conflict(__u32 id, const struct arp_ipv4 *arp, __u32 ip_be)
{
	return is_conflict(id, mac_u64(arp->sender_mac), IP4_FIRST, ip4_second(ip_be));
}

static __always_inline enum xd_reason handle_arp(const struct xd_config *cfg, __u32 link, __u32 ifindex,
						 struct ethhdr *eth, struct cursor c)
{
	struct arp_ipv4 *arp = TAKE(c, struct arp_ipv4, REASON_NOT_OURS);
	struct xd_state *st = the_state();
	__u32 sender_be, target_be, *claimed, *wanted, id;

	if (!st || (arp->hardware_be != bpf_htons(ARP_ETHERNET) && arp->hardware_be != bpf_htons(ARP_IEEE802)) ||
	    arp->protocol_be != bpf_htons(ETH_P_IP) || arp->hardware_len != 6 || arp->protocol_len != 4)
		return REASON_NOT_OURS;
	sender_be = ip4_be(arp->sender_ip);
	target_be = ip4_be(arp->target_ip);

	reach_stamp(cfg, st, link, sender_be, mac_u64(arp->sender_mac));
	claimed = identity_of_ip4(sender_be);
	// Behind a closed gate the claimant is the other node.
	if (claimed && gate_open(cfg, *claimed) && arp_conflict(*claimed, arp, sender_be)) {
		deny_claim(*claimed, IP4_FIRST, ip4_second(sender_be));
		return REASON_ARP_CONFLICT;
	}
	if (sender_be == target_be) // an announcement: for the stack to learn from
		return REASON_NOT_OURS;
	if (arp->operation_be != bpf_htons(1)) // an answer: the gate below decides by its MAC
		return gate_in(cfg, ifindex, eth, c);
	wanted = identity_of_ip4(target_be);
	if (!wanted) {
		// The stack would answer for the lan address on the spare NIC too (ARP flux).
		if (link == LINK_SPARE && target_be == cfg->own_be)
			return REASON_ARP_OWN_ON_SPARE;
		return REASON_NOT_OURS;
	}
	id = *wanted;
	if (!carries(cfg, id, ifindex))
		return REASON_ARP_WRONG_NIC;
	if (!gate_open(cfg, id))
		return REASON_ARP_GATE_CLOSED;
	if (!sender_be) // it wants this address for itself (RFC 5227, 2.1.1): the answer denies it
		arp_conflict(id, arp, target_be);
	arp_answer(eth, arp, identity_config(cfg, id)->mac);
	note_answer(id);
	return REASON_ARP_ANSWERED;
}

#endif
