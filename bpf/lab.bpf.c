// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

// The lab's cables: what passes a port, who was seen using an identity's MAC, and two bare programs for benchmarks.
// Nothing here runs on a real node.
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "steady.h"

#define MAX_PORTS 64       /* a port's number is its ifindex, chosen by pkg/lab */
#define MAX_NODES 16       /* everything that has cables: servers, client, hosts, trunk */
#define MAX_IDENTITIES 16  /* watched MACs */
#define MAX_SPEAKERS 1024  /* MACs with which servers send during a partition */
#define SERVERS 8          /* the first nodes are the cluster's, two or more */
#define CUT_SERVER (1ULL << 32) /* among a node's cuts, shifted by a server's number: its frames do not reach this node */
#define CUT_SERVERS (CUT_SERVER * ((1ULL << SERVERS) - 1))
#define SILENCE_NS 2000000 /* the trail has what a server did not hear for longer than this */
#define FORGED_MARK 0x1ab /* of frames that the lab itself sends in a node's name: nobody was heard */
#define TC_PASS (-1)       /* TCX_NEXT, and TC_ACT_UNSPEC where there is only clsact */
#define TC_DROP 2

enum lab_kind { KIND_OTHER, KIND_ARP_REQUEST, KIND_ARP_REPLY, KIND_IPV4, KIND_IPV6, KIND_ND,
	/* Of a silence: its record's identity is the number of the node that was not heard, its port leads to who did not hear. */
	KIND_FELL_SILENT, KIND_HEARD };

/* One end of a cable, on the side of the switch. */
struct lab_port {
	__u32 node;  /* index into cuts */
	__u32 bit;   /* the cable's bit in the node's cuts */
	__u32 judge; /* 1: frames entering here are looked at by the judge */
};

/* What the judge saw of one identity at one port. */
struct lab_seen {
	__u64 first_ns;
	__u64 last_ns;
	__u64 count;
};

struct lab_record {
	__u64 t_ns; /* CLOCK_BOOTTIME */
	__u32 port;
	__u16 identity;
	__u16 kind; /* enum lab_kind */
};

_Static_assert(sizeof(struct lab_port) == 12, "lab_port is read by Go");
_Static_assert(sizeof(struct lab_seen) == 24, "lab_seen is read by Go");
_Static_assert(sizeof(struct lab_record) == 16, "lab_record is read by Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct lab_port);
} lab_ports SEC(".maps");

/* One word per node: a set bit is a cut cable, so one store into mapped memory cuts them all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_NODES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} lab_cuts SEC(".maps");

/* Which servers have sent with a MAC: an identity's may have been used by several. */
struct lab_speaker {
	__u8 by[SERVERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SPEAKERS);
	__type(key, __u64); /* MAC in the first six bytes, then zeros */
	__type(value, struct lab_speaker);
} lab_speakers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IDENTITIES);
	__type(key, __u64); /* MAC in the first six bytes, then zeros */
	__type(value, __u32);
} lab_watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDENTITIES * MAX_PORTS);
	__type(key, __u32);
	__type(value, struct lab_seen);
} lab_sightings SEC(".maps");

/* When server TO was last sent a frame by NODE, from NIC to NIC: slot TO * MAX_NODES + NODE. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVERS * MAX_NODES);
	__type(key, __u32);
	__type(value, __u64);
} lab_heard SEC(".maps");

/* Frames dropped at a cut port, both directions together. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, __u64);
} lab_dropped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22); /* 170,000 records: 8 s of an identity answering every 50 us */
} lab_trail SEC(".maps");

volatile __u32 lab_tracing = 0;
volatile __u64 lab_trail_lost = 0;

const struct lab_record *lab_unused_record __attribute__((unused)); /* keeps the type in BTF for bpf2go */

static __always_inline __u64 cuts_of(struct lab_port *p)
{
	__u64 *cuts = bpf_map_lookup_elem(&lab_cuts, &p->node);

	return cuts ? *(volatile __u64 *)cuts : 0;
}

static __always_inline void count_drop(__u32 port)
{
	__u64 *dropped = bpf_map_lookup_elem(&lab_dropped, &port);

	if (dropped)
		__sync_fetch_and_add(dropped, 1);
}

static __always_inline __u64 source_of(void *data, void *data_end)
{
	struct ethhdr *eth = data;
	__u64 mac = 0;

	if ((void *)(eth + 1) <= data_end)
		__builtin_memcpy(&mac, eth->h_source, ETH_ALEN);
	return mac;
}

/* Notes who speaks. Not 0: there is no room to note it, so it must not be heard. */
static __always_inline int note_speaker(void *data, void *data_end, __u32 node)
{
	__u64 mac = source_of(data, data_end);
	struct lab_speaker *s = bpf_map_lookup_elem(&lab_speakers, &mac), nobody = {};

	if (!s) {
		bpf_map_update_elem(&lab_speakers, &mac, &nobody, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&lab_speakers, &mac);
	}
	if (!s)
		return 1;
	s->by[node & (SERVERS - 1)] = 1;
	return 0;
}

/* Whether a server that is kept from this node has sent with this frame's MAC. */
static __always_inline int is_parted(void *data, void *data_end, __u64 cuts)
{
	__u64 mac = source_of(data, data_end);
	struct lab_speaker *s = bpf_map_lookup_elem(&lab_speakers, &mac);

	if (!s)
		return 0;
	for (int i = 0; i < SERVERS; i++)
		if (s->by[i] && cuts & CUT_SERVER << i)
			return 1;
	return 0;
}

/* Neighbour solicitation and advertisement (RFC 4861); nothing stands between IPv6's header and them. */
static __always_inline __u16 kind_of_ipv6(struct ipv6hdr *ip, void *data_end)
{
	struct icmp6hdr *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > data_end || ip->nexthdr != IPPROTO_ICMPV6)
		return KIND_IPV6;
	return icmp->icmp6_type == 135 || icmp->icmp6_type == 136 ? KIND_ND : KIND_IPV6;
}

static __always_inline __u16 kind_of(void *data, void *data_end)
{
	struct ethhdr *eth = data;
	__u8 *arp = data + sizeof(*eth);

	if (arp + 8 > (__u8 *)data_end)
		return KIND_OTHER;
	switch (bpf_ntohs(eth->h_proto)) {
	case ETH_P_IP:
		return KIND_IPV4;
	case ETH_P_IPV6:
		return kind_of_ipv6((void *)(eth + 1), data_end);
	case ETH_P_ARP:
		return arp[7] == 2 ? KIND_ARP_REPLY : KIND_ARP_REQUEST;
	}
	return KIND_OTHER;
}

static __always_inline void trail(__u64 t_ns, __u32 port, __u16 identity, __u16 kind)
{
	struct lab_record *r;

	if (!lab_tracing)
		return;
	r = bpf_ringbuf_reserve(&lab_trail, sizeof(*r), 0);
	if (!r) {
		__sync_fetch_and_add(&lab_trail_lost, 1);
		return;
	}
	r->t_ns = t_ns;
	r->port = port;
	r->identity = identity;
	r->kind = kind;
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP); /* read when the run is over: a wake-up would disturb it */
}

/* NICs have MACs of pkg/lab's choice: 02:1a:b0:00, the node's number, the port's. */
static __always_inline int is_nic(const __u8 *mac)
{
	return mac[0] == 0x02 && mac[1] == 0x1a && mac[2] == 0xb0 && mac[3] == 0;
}

/* Notes that a server is about to hear a node, and for how long it had not. */
static __always_inline void note_heard(void *data, void *data_end, __u32 to, __u32 port)
{
	struct ethhdr *eth = data;
	__u64 *last, before, now;
	__u32 slot;

	if ((void *)(eth + 1) > data_end || to >= SERVERS || !is_nic(eth->h_dest) || eth->h_dest[4] != to ||
	    !is_nic(eth->h_source) || eth->h_source[4] == to)
		return;
	slot = to * MAX_NODES + (eth->h_source[4] & (MAX_NODES - 1));
	last = bpf_map_lookup_elem(&lab_heard, &slot);
	if (!last)
		return;
	now = bpf_ktime_get_boot_ns();
	before = *(volatile __u64 *)last;
	if (now <= before) /* another CPU was later, and first */
		return;
	*(volatile __u64 *)last = now;
	if (now - before < SILENCE_NS)
		return;
	trail(before, port, eth->h_source[4], KIND_FELL_SILENT);
	trail(now, port, eth->h_source[4], KIND_HEARD);
}

/* The judge: a node that sends with an identity's MAC is using it, whatever it believes. */
static __always_inline void judge(void *data, void *data_end, __u32 port)
{
	struct ethhdr *eth = data;
	struct lab_seen *seen;
	__u64 mac = 0, now;
	__u32 *identity, slot;

	if ((void *)(eth + 1) > data_end)
		return;
	__builtin_memcpy(&mac, eth->h_source, ETH_ALEN);
	identity = bpf_map_lookup_elem(&lab_watched, &mac);
	if (!identity || *identity >= MAX_IDENTITIES)
		return;
	slot = *identity * MAX_PORTS + (port & (MAX_PORTS - 1));
	seen = bpf_map_lookup_elem(&lab_sightings, &slot);
	if (!seen)
		return;
	now = bpf_ktime_get_boot_ns();
	if (!seen->first_ns)
		seen->first_ns = now;
	seen->last_ns = now;
	__sync_fetch_and_add(&seen->count, 1);
	trail(now, port, *identity, kind_of(data, data_end));
}

/* On the switch's end of a cable: frames coming from the node. */
SEC("xdp")
int cable_in(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 port = ctx->ingress_ifindex;
	struct lab_port *p = bpf_map_lookup_elem(&lab_ports, &port);
	__u64 cuts;

	if (!p)
		return XDP_PASS;
	cuts = cuts_of(p);
	if ((cuts & (1ULL << (p->bit & 63))) || (cuts & CUT_SERVERS && note_speaker(data, data_end, p->node))) {
		count_drop(port);
		return XDP_DROP;
	}
	if (p->judge)
		judge(data, data_end, port);
	return XDP_PASS;
}

/* The same end: frames going to the node. */
SEC("tcx/egress")
int cable_out(struct __sk_buff *skb)
{
	__u32 port = skb->ifindex;
	struct lab_port *p = bpf_map_lookup_elem(&lab_ports, &port);
	__u64 cuts;

	if (!p)
		return TC_PASS;
	cuts = cuts_of(p);
	if (!(cuts & (1ULL << (p->bit & 63))) &&
	    !(cuts & CUT_SERVERS && is_parted((void *)(long)skb->data, (void *)(long)skb->data_end, cuts))) {
		if (skb->mark != FORGED_MARK)
			note_heard((void *)(long)skb->data, (void *)(long)skb->data_end, p->node, port);
		return TC_PASS;
	}
	count_drop(port);
	return TC_DROP;
}

/* The least that XDP can do to answer: what the heartbeat's answer is measured against. */
SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > data_end)
		return XDP_PASS;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	return XDP_TX;
}

/* What veth wants on the far end before it transmits natively. */
SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
