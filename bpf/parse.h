// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// parse.h: a cursor over a packet, one form of bounds check; _be names network order.
#ifndef XDPHA_PARSE_H
#define XDPHA_PARSE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "maps.h"

#define ND_SOLICITATION 135 // types of ICMPv6: RFC 4861, 4.3, 4.4
#define ND_ADVERTISEMENT 136

struct cursor {
	void *at, *end;
};

// TAKE is the one bounds check: the next T of the packet, or the function returns otherwise.
#define TAKE(c, T, otherwise)                          \
	({                                             \
		T *taken_ = (c).at;                    \
		if ((void *)(taken_ + 1) > (c).end)    \
			return otherwise;              \
		(c).at = taken_ + 1;                   \
		taken_;                                \
	})

struct vlan_tag { // IEEE 802.1Q, 9.6, behind the ethertype that says that it is there
	__be16 control_be, ethertype_be;
};

#define VLAN_ID 0x0fff // of the control field: 0 is none, the tag gives a priority only

static __always_inline int is_tagged(__be16 ethertype_be)
{
	return ethertype_be == bpf_htons(ETH_P_8021Q) || ethertype_be == bpf_htons(ETH_P_8021AD);
}

// take_priority_off does what the stack would do later: to it a frame in VLAN 0 is one without a
// tag, and must meet the gate as such. Not 0: there is more than one such tag, which nobody needs,
// and what is behind them is not known. Not inlined: the compiler would mix its reading of the packet with that after it.
static __noinline int take_priority_off(struct xdp_md *ctx)
{
	struct cursor c = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct ethhdr *eth = TAKE(c, struct ethhdr, 0);
	__u8 macs[12];

	if (!is_tagged(eth->h_proto))
		return 0;
	struct vlan_tag *tag = TAKE(c, struct vlan_tag, 0);

	if (tag->control_be & bpf_htons(VLAN_ID))
		return 0;
	if (is_tagged(tag->ethertype_be) && !(TAKE(c, struct vlan_tag, -1)->control_be & bpf_htons(VLAN_ID)))
		return -1;
	__builtin_memcpy(macs, eth, sizeof(macs));
	if (bpf_xdp_adjust_head(ctx, sizeof(*tag)))
		return -1;
	c = (struct cursor){(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	__builtin_memcpy(TAKE(c, struct ethhdr, -1), macs, sizeof(macs));
	return 0;
}

struct arp_ipv4 { // RFC 826, for Ethernet and IPv4
	__be16 hardware_be, protocol_be;
	__u8 hardware_len, protocol_len;
	__be16 operation_be;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
} __attribute__((packed));

static __always_inline __u32 ip4_be(const __u8 *b)
{
	__u32 v;

	__builtin_memcpy(&v, b, 4);
	return v;
}

// The halves of ::ffff:a.b.c.d, as it stands in the map addresses.
#define IP4_FIRST 0ULL

static __always_inline __u64 ip4_second(__u32 ip_be)
{
	return (__u64)ip_be << 32 | 0xffff0000;
}

static __always_inline __u64 mac_u64(const __u8 *m)
{
	return (__u64)m[0] | (__u64)m[1] << 8 | (__u64)m[2] << 16 | (__u64)m[3] << 24 | (__u64)m[4] << 32 |
	       (__u64)m[5] << 40;
}

static __always_inline void mac_from_u64(__u8 *m, __u64 v)
{
	for (int i = 0; i < 6; i++)
		m[i] = v >> (8 * i);
}

// The identity that owns an address or MAC; NULL: nobody's.
static __always_inline __u32 *identity_of_ip4(__u32 ip_be)
{
	struct xd_address a = {.bytes = {[10] = 0xff, [11] = 0xff}};

	__builtin_memcpy(&a.bytes[12], &ip_be, 4);
	return bpf_map_lookup_elem(&addresses, &a);
}

// An IPv6 packet with an address of that form is nobody's: on a wire there are none (RFC 4291, 2.5.5.2).
static __always_inline __u32 *identity_of_ip6(const void *ip)
{
	struct xd_address a;
	__u64 first;
	__u32 third;

	__builtin_memcpy(&a, ip, 16);
	__builtin_memcpy(&first, &a.bytes[0], 8);
	__builtin_memcpy(&third, &a.bytes[8], 4);
	if (!first && third == bpf_htonl(0xffff))
		return 0;
	return bpf_map_lookup_elem(&addresses, &a);
}

static __always_inline __u32 *identity_of_mac(const __u8 *mac)
{
	__u64 key = mac_u64(mac);

	return bpf_map_lookup_elem(&macs, &key);
}

// The identity that a packet behind its Ethernet header is for, by its address; NULL: none.
static __always_inline __u32 *identity_to(__be16 ethertype_be, struct cursor c)
{
	if (ethertype_be == bpf_htons(ETH_P_IP))
		return identity_of_ip4(TAKE(c, struct iphdr, 0)->daddr);
	if (ethertype_be == bpf_htons(ETH_P_IPV6))
		return identity_of_ip6(&TAKE(c, struct ipv6hdr, 0)->daddr);
	return 0;
}

// The identity that a packet says it comes from.
static __always_inline __u32 *identity_from(__be16 ethertype_be, struct cursor c)
{
	if (ethertype_be == bpf_htons(ETH_P_IP))
		return identity_of_ip4(TAKE(c, struct iphdr, 0)->saddr);
	if (ethertype_be == bpf_htons(ETH_P_IPV6))
		return identity_of_ip6(&TAKE(c, struct ipv6hdr, 0)->saddr);
	if (ethertype_be == bpf_htons(ETH_P_ARP))
		return identity_of_ip4(ip4_be(TAKE(c, struct arp_ipv4, 0)->sender_ip));
	return 0;
}

// An ARP packet without a sender's address: a probe (RFC 5227, 2.1.1).
static __always_inline int is_arp_probe(__be16 ethertype_be, struct cursor c)
{
	return ethertype_be == bpf_htons(ETH_P_ARP) && !ip4_be(TAKE(c, struct arp_ipv4, 0)->sender_ip);
}

// ARP, or an advertisement of a neighbour (RFC 4861, 4.4): it serves nobody yet.
static __always_inline int is_announcement(__be16 ethertype_be, struct cursor c)
{
	if (ethertype_be == bpf_htons(ETH_P_ARP))
		return 1;
	if (ethertype_be != bpf_htons(ETH_P_IPV6))
		return 0;
	if (TAKE(c, struct ipv6hdr, 0)->nexthdr != IPPROTO_ICMPV6)
		return 0;
	return *TAKE(c, __u8, 0) == ND_ADVERTISEMENT;
}

// The link whose NIC has this index; NO_LINK: none.
static __always_inline __u32 link_of(const struct xd_config *cfg, __u32 ifindex)
{
	for (__u32 i = 0; i < MAX_LINKS; i++)
		if (cfg->links[i].ifindex == ifindex)
			return i;
	return MAX_LINKS;
}

#endif
