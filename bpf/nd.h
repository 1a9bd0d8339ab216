// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// nd.h: the responder of IPv6 neighbour discovery (RFC 4861, RFC 4862) and what it says about conflicts.
#ifndef XDPHA_ND_H
#define XDPHA_ND_H

#include "csum.h"
#include "conflict.h"

#define ND_SOLICITED 0x40000000U
#define ND_OVERRIDE 0x20000000U
#define ND_SOURCE_MAC 1
#define ND_TARGET_MAC 2
#define ND_HOP_LIMIT 255 // has crossed no router
#define ND_MAX_OPTIONS 13 // units of 8 bytes: MAC and nonce (RFC 3971, 5.3.2) take two; bounds the verifier's walk

struct nd_message { // RFC 4861, 4.3 and 4.4
	__u8 type, code;
	__be16 check_be;
	__be32 flags_be;
	struct in6_addr target;
};

struct nd_option { // RFC 4861, 4.6; a MAC takes one unit of eight bytes (RFC 2464, 6)
	__u8 type;
	__u8 units;
	__u8 mac[6];
};

// An advertisement as it leaves: 86 bytes. Frames stand at even addresses.
struct na_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct nd_message na;
	struct nd_option mac;
} __attribute__((packed, aligned(2)));

_Static_assert(sizeof(struct na_frame) == 86, "advertisement");

// ff02::1 and its MAC (RFC 4291, 2.7.1; RFC 2464, 7), byte by byte: a constant would become
// a map of its own.
static __always_inline void to_all_nodes(__u8 *dst_mac, __u8 *dst)
{
	__builtin_memset(dst_mac, 0, 6);
	dst_mac[0] = dst_mac[1] = 0x33;
	dst_mac[5] = 1;
	__builtin_memset(dst, 0, 16);
	dst[0] = 0xff;
	dst[1] = 0x02;
	dst[15] = 1;
}

// The sum that the message's checksum is over (RFC 8200, 8.1), but for the message itself.
static __always_inline __u32 nd_pseudo_header(const void *addresses, __be16 len_be)
{
	return csum_add(len_be + bpf_htons(IPPROTO_ICMPV6), addresses, 32);
}

// na_build makes the advertisement of a target that is at mac, for one asker or for all.
// The arguments do not lie in the frame: it is overwritten.
static __always_inline void na_build(struct na_frame *f, const __u8 *mac, const __u8 *dst_mac, const __u8 *target,
				     const __u8 *dst, __u32 flags)
{
	__u32 sum;

	__builtin_memcpy(f->eth.h_dest, dst_mac, 6);
	__builtin_memcpy(f->eth.h_source, mac, 6);
	f->eth.h_proto = bpf_htons(ETH_P_IPV6);
	__builtin_memset(&f->ip, 0, sizeof(f->ip));
	f->ip.version = 6;
	f->ip.payload_len = bpf_htons(sizeof(f->na) + sizeof(f->mac));
	f->ip.nexthdr = IPPROTO_ICMPV6;
	f->ip.hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&f->ip.saddr, target, 16);
	__builtin_memcpy(&f->ip.daddr, dst, 16);
	f->na.type = ND_ADVERTISEMENT;
	f->na.code = 0;
	f->na.check_be = 0;
	f->na.flags_be = bpf_htonl(flags);
	__builtin_memcpy(&f->na.target, target, 16);
	f->mac.type = ND_TARGET_MAC;
	f->mac.units = 1;
	__builtin_memcpy(f->mac.mac, mac, 6);
	sum = nd_pseudo_header(&f->ip.saddr, f->ip.payload_len);
	f->na.check_be = csum_fold(csum_add(sum, &f->na, sizeof(f->na) + sizeof(f->mac)));
}

static __always_inline int is_unspecified(const struct in6_addr *a)
{
	return !(a->s6_addr32[0] | a->s6_addr32[1] | a->s6_addr32[2] | a->s6_addr32[3]);
}

// ff02::1:ff00:0/104 (RFC 4291, 2.7.1).
static __always_inline int is_solicited_node(const struct in6_addr *a)
{
	return a->s6_addr32[0] == bpf_htonl(0xff020000) && !a->s6_addr32[1] && a->s6_addr32[2] == bpf_htonl(1) &&
	       a->s6_addr[12] == 0xff;
}

// What a message's options say.
struct nd_said {
	__u64 target_mac; // 0: nothing
	int source_mac; // whether there is one
};

// nd_sound tells whether a message is valid as far as RFC 4861, 7.1.1 and 7.1.2, ask the
// same of both kinds. That no target is a group needs no look: it is an address of ours.
// Options end where the message ends, so that its length is of whole units. It is walked by
// units, each at a constant place for the verifier; header is the unit where the next option
// begins.
static __always_inline int nd_sound(const struct ipv6hdr *ip, const struct nd_message *nd, void *end,
				    struct nd_said *said)
{
	const struct nd_option *o = (const void *)(nd + 1);
	__u32 len = bpf_ntohs(ip->payload_len), units = (len - sizeof(*nd)) / 8, header = 0, sum;

	if (ip->hop_limit != ND_HOP_LIMIT || nd->code || len < sizeof(*nd) || len % 8 || units > ND_MAX_OPTIONS ||
	    ip->saddr.s6_addr[0] == 0xff) // RFC 4291, 2.7: no packet is from a group
		return 0;
	sum = csum_add(nd_pseudo_header(&ip->saddr, ip->payload_len), nd, sizeof(*nd));
	for (__u32 i = 0; i < ND_MAX_OPTIONS; i++, o++) {
		if (i >= units)
			break;
		if ((void *)(o + 1) > end)
			return 0;
		sum = csum_add(sum, o, sizeof(*o));
		if (i != header) // inside an option
			continue;
		if (!o->units)
			return 0;
		if (o->type == ND_SOURCE_MAC)
			said->source_mac = 1;
		if (o->type == ND_TARGET_MAC && o->units == 1 && !said->target_mac)
			said->target_mac = mac_u64(o->mac);
		header += o->units;
	}
	return header == units && !csum_fold(sum);
}

// What is asked of a solicitation besides (RFC 4861, 7.1.1): who has no address yet asks a
// group, and does not say where it is.
static __always_inline int nd_may_ask(const struct ipv6hdr *ip, const struct nd_said *said)
{
	return !is_unspecified(&ip->saddr) || (is_solicited_node(&ip->daddr) && !said->source_mac);
}

// And of an advertisement (RFC 4861, 7.1.2): what all hear is no answer.
static __always_inline int nd_may_tell(const struct ipv6hdr *ip, const struct nd_message *nd)
{
	return ip->daddr.s6_addr[0] != 0xff || !(nd->flags_be & bpf_htonl(ND_SOLICITED));
}

static __always_inline __u64 in6_half(const struct in6_addr *a, int half)
{
	return (__u64)a->s6_addr32[2 * half + 1] << 32 | a->s6_addr32[2 * half];
}

static __always_inline int nd_conflict(__u32 id, __u64 claimant, const struct in6_addr *a)
{
	return is_conflict(id, claimant, in6_half(a, 0), in6_half(a, 1));
}

// nd_answer turns the solicitation into its advertisement, in place (RFC 4861, 7.2.4). Who
// asks without an address wants this one (RFC 4862, 5.4): all are told whose it is.
static __always_inline enum xd_reason nd_answer(struct xdp_md *ctx, const struct xd_config *cfg, __u32 id,
						const struct ethhdr *eth, const struct ipv6hdr *ip,
						const struct nd_message *nd)
{
	struct in6_addr target = nd->target, dst = ip->saddr;
	__u32 flags = ND_OVERRIDE;
	struct na_frame *f;
	__u8 dst_mac[6];

	if (is_unspecified(&dst)) {
		nd_conflict(id, mac_u64(eth->h_source), &target);
		to_all_nodes(dst_mac, dst.s6_addr);
	} else {
		__builtin_memcpy(dst_mac, eth->h_source, 6);
		flags |= ND_SOLICITED;
	}
	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(*f) - (int)(ctx->data_end - ctx->data)))
		return REASON_INTERNAL;
	f = (void *)(long)ctx->data; // the old pointers are void
	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return REASON_INTERNAL;
	na_build(f, identity_config(cfg, id)->mac, dst_mac, target.s6_addr, dst.s6_addr, flags);
	note_answer(id);
	return REASON_ND_ANSWERED;
}

// Ours is what stands directly behind the IPv6 header: no extension header may precede a
// message that is answered here, and a fragment is never one (RFC 6980, 5).
static __always_inline enum xd_reason handle_nd(struct xdp_md *ctx, const struct xd_config *cfg, struct ethhdr *eth,
						struct cursor c)
{
	struct ipv6hdr *ip = TAKE(c, struct ipv6hdr, REASON_NOT_OURS);
	struct nd_message *nd = TAKE(c, struct nd_message, REASON_NOT_OURS);
	struct nd_said said = {};
	__u32 *wanted, id;
	__u64 claimant;
	int asks;

	if (ip->version != 6 || ip->nexthdr != IPPROTO_ICMPV6 ||
	    (nd->type != ND_SOLICITATION && nd->type != ND_ADVERTISEMENT))
		return REASON_NOT_OURS;
	wanted = identity_of_ip6(&nd->target);
	if (!wanted)
		return REASON_NOT_OURS;
	id = *wanted;
	asks = nd->type == ND_SOLICITATION;
	if (asks && !carries(cfg, id, ctx->ingress_ifindex))
		return REASON_ND_WRONG_NIC;
	if (!gate_open(cfg, id)) // what is said of it is for the other node to judge
		return asks ? REASON_ND_GATE_CLOSED : REASON_NOT_OURS;
	if (!nd_sound(ip, nd, c.end, &said) || !(asks ? nd_may_ask(ip, &said) : nd_may_tell(ip, nd)))
		return REASON_ND_BAD;
	if (asks)
		return nd_answer(ctx, cfg, id, eth, ip, nd);
	claimant = said.target_mac ? said.target_mac : mac_u64(eth->h_source);
	if (!nd_conflict(id, claimant, &nd->target))
		return REASON_NOT_OURS;
	deny_claim(id, in6_half(&nd->target, 0), in6_half(&nd->target, 1));
	return REASON_ND_CONFLICT;
}

#endif
