// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// pacer.h: one tick becomes a probe on every link, and on the cross paths when they are of use, and
// ARP probes to the listed hosts.
//
// Ticks come as frames into the private veth pair. A pulse, sent by user space, is one tick. A
// token is a tick that comes back: it is sent into the pair's start again, where a queueing
// discipline lets one frame pass in each interval, so it goes round without user space. Any
// number of tokens makes one tick a lap; the queue holds two, and each restores the other.
// Two laps make an interval of probes: what is to be announced or confirmed need not wait for the
// whole of it.
#ifndef XDPHA_PACER_H
#define XDPHA_PACER_H

#include "heartbeat.h"
#include "arp.h"
#include "nd.h"

#define CROSS_EVERY_NS 100000000ULL // while the lan and the spare link are heard
#define REACH_EVERY_NS 100000000ULL // while there is no suspicion, and at the least
#define TOKEN_MARK 0x70 // in the last byte of a tick's destination MAC
#define URGENT_MARK 0x71 // of a pulse that says what the peer waits for
#define TOKEN_BYTES (HB_OFFSET + HB_BYTES(MAX_IDENTITIES)) // what the queue is told to expect
#define TOKEN_STRIKES 4 // more than can be held up together, and be early in a row
#define TOKEN_COPY_MASK 15 // one tick in 16 leaves a second token behind it, if there is room
#define LINK_SLOTS 4 // a power of two: Linux 6.1 forgets what was found of a link's number that it puts aside
#define UNLEARNED_MASK 15 // without the peer's MAC a probe is a broadcast: one tick in 16

struct probe_head {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

// bpf_skb_store_bytes with a length of 64 bits: of one that is cut to 32 Linux 6.1 forgets that
// it is not zero.
static long (*store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u64 len,
			   __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;

// The echo that the peer must see: while no proven peer is up, who is not proven has its turn.
static __always_inline __u64 echo_for_peer(const struct xd_peer *p, const struct xd_path_state *path, __u64 seq)
{
	int proven_up = p->state == PEER_UP || p->state == PEER_SUSPECT;

	if (!proven_up && path->unproven && (!p->nonce || seq & 1))
		return path->unproven;
	return p->nonce;
}

// Where a probe to a peer's NIC goes; 0: nowhere in this tick.
static __always_inline __u64 probe_mac(const struct xd_peer *p, __u32 link, __u64 seq)
{
	__u64 mac;

	WITHIN(link, LINK_SLOTS);
	mac = p->macs[link];
	if (mac && (p->state != PEER_DEAD || seq & UNLEARNED_MASK)) // else its NIC may have been replaced
		return mac;
	return mac || !(seq & UNLEARNED_MASK) ? 0xffffffffffffULL : 0;
}

// probe_headers writes what comes before the heartbeat in a probe; 0: there is none to be sent.
// What a tick does is done in global functions: the verifier proves each once, not once a peer or
// identity, and their frames on the stack are not all there at once.
__noinline int probe_headers(struct __sk_buff *skb, __u32 node, __u32 path, __u64 seq)
{
	struct xd_config *cfg = the_config();
	struct xd_peer *peer = the_peer(node);
	const struct xd_link_config *lc;
	struct probe_head p = {};
	struct iphdr ip = {};
	__u32 bytes, remote_be, near, far;
	__u64 mac;

	if (!cfg || !peer || node >= MAX_NODES || path >= MAX_PATHS)
		return -1;
	near = path_end(path, cfg->self < node);
	far = path_end(path, cfg->self > node);
	mac = probe_mac(peer, far, seq);
	WITHIN(node, MAX_NODES);
	WITHIN(near, LINK_SLOTS);
	WITHIN(far, LINK_SLOTS);
	lc = &cfg->links[near];
	remote_be = cfg->remote_be[node][far];
	if (!lc->ifindex || !remote_be || !mac)
		return 0;
	bytes = HB_BYTES(cfg->n_identities);
	__builtin_memcpy(p.eth.h_source, lc->mac, 6);
	mac_from_u64(p.eth.h_dest, mac);
	p.eth.h_proto = bpf_htons(ETH_P_IP);
	ip.version = 4;
	ip.ihl = 5;
	ip.tos = 0xc0; // CS6, network control: RFC 4594
	ip.tot_len = bpf_htons(28 + bytes);
	ip.frag_off = bpf_htons(0x4000);
	ip.ttl = 255; // has crossed no router: RFC 5082
	ip.protocol = IPPROTO_UDP;
	ip.saddr = lc->local_be;
	ip.daddr = remote_be;
	ip.check = csum_fold(csum_add(0, &ip, sizeof(ip)));
	p.ip = ip;
	p.udp.source = bpf_htons(HEARTBEAT_PORT);
	p.udp.dest = bpf_htons(HEARTBEAT_PORT);
	p.udp.len = bpf_htons(8 + bytes);
	return bpf_skb_store_bytes(skb, 0, &p, sizeof(p), 0) ? -1 : 1;
}

static __always_inline int probe_body(struct __sk_buff *skb, const struct xd_config *cfg, const struct xd_state *st,
				      const struct xd_peer *p, const struct xd_path_state *path, __u32 number,
				      const struct xd_control *ctl, __u64 seq)
{
	__u64 body[HB_WORDS(MAX_IDENTITIES) + 1] = {};
	struct hb_head *h = (void *)body;
	__u64 keys = keys_in_force(ctl);
	const struct xd_key *key = the_key(KEYS_SIGNING(keys));
	__u32 n = cfg->n_identities;
	__u64 signed_bytes, tag;
	struct sip s;

	if (n > MAX_IDENTITIES || !key)
		return -1;
	signed_bytes = 8 * HB_WORDS(n);
	barrier_var(signed_bytes); // the check below must be on this very value
	if (signed_bytes < sizeof(*h) || signed_bytes > 8 * HB_WORDS(MAX_IDENTITIES))
		return -1;
	h->magic = HB_MAGIC;
	h->version = HB_VERSION;
	h->link = number;
	h->n_identities = n;
	h->cluster_id = cfg->cluster_id;
	h->echo = echo_for_peer(p, path, seq);
	h->seq = seq;
	h->grant_ns = *(volatile __u64 *)&p->sent_ns;
	hb_say(h, cfg, st, p, ctl, keys, bpf_ktime_get_boot_ns());

	s = sip_start(key);
#pragma unroll
	for (__u32 i = 0; i < HB_WORDS(0); i++)
		SIP_ABSORB(s, body[i]);
	for (__u32 i = 0; i < MAX_IDENTITIES; i++) {
		__u64 *word = the_word(i);

		if (i >= n || !word)
			break;
		body[HB_WORDS(0) + i] = said_word(ctl, word, i);
		SIP_ABSORB(s, body[HB_WORDS(0) + i]);
	}
	tag = sip_finish(s, signed_bytes);
	return store_bytes(skb, HB_OFFSET, body, signed_bytes, 0) ||
	       bpf_skb_store_bytes(skb, HB_OFFSET + signed_bytes, &tag, 8, 0);
}

// probe completes a probe and sends it.
__noinline int probe(struct __sk_buff *skb, __u32 node, __u32 path, __u64 seq)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	struct xd_state *st = the_state();
	struct xd_peer *p = the_peer(node);
	struct xd_path_state *l = p ? the_path(p, path) : 0;
	__u32 near;

	if (!cfg || !ctl || !st || !l || probe_body(skb, cfg, st, p, l, path, ctl, seq))
		return -1;
	near = path_end(path, cfg->self < node);
	WITHIN(near, LINK_SLOTS);
	return bpf_clone_redirect(skb, cfg->links[near].ifindex, 0);
}

static __always_inline int heard_lately(const struct xd_config *cfg, const struct xd_peer *p, __u32 link, __u64 now)
{
	return (__s64)(now - *(volatile __u64 *)&p->paths[link].heard_ns) < (__s64)cfg->suspect_ns;
}

// While a peer is heard on the links that share their NICs, the cross paths tell nothing that those
// do not: they are probed at leisure, so that both know whether they would be of use. They are there
// if both nodes have a spare NIC.
__noinline int cross_due(__u32 node, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_peer *p = the_peer(node);

	if (!cfg || !p || node >= MAX_NODES)
		return 0;
	WITHIN(node, MAX_NODES);
	if (!cfg->remote_be[node][LINK_SPARE])
		return 0;
	if (*(volatile __u64 *)&p->state == PEER_UP && heard_lately(cfg, p, LINK_LAN, now) &&
	    heard_lately(cfg, p, LINK_SPARE, now) && (__s64)(now - p->crossed_ns) < (__s64)CROSS_EVERY_NS)
		return 0;
	p->crossed_ns = now;
	return 1;
}

// A tick's probes, on all paths to all peers. Not 0: one has not left.
__noinline int probe_all(struct __sk_buff *skb, __u64 seq, __u64 now)
{
	struct xd_config *cfg = the_config();
	int failed = 0;
	__u32 paths;

	if (!cfg)
		return -1;
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++) {
		if (node == cfg->self)
			continue;
		paths = cross_due(node, now) ? MAX_PATHS : MAX_LINKS;
		for (__u32 path = 0; path < MAX_PATHS && path < paths; path++) {
			int ready = probe_headers(skb, node, path, seq);

			failed |= ready > 0 ? probe(skb, node, path, seq) : ready;
		}
	}
	return failed;
}

// A peer is suspected.
__noinline int suspecting(void)
{
	struct xd_config *cfg = the_config();

	if (!cfg)
		return 0;
	for (__u32 node = 0; node < MAX_NODES && node < cfg->n_nodes; node++) {
		struct xd_peer *p = the_peer(node);

		if (p && node != cfg->self && *(volatile __u64 *)&p->state == PEER_SUSPECT)
			return 1;
	}
	return 0;
}

// An ARP probe (RFC 5227: no sender address, so it changes nobody's tables); to_mac 0: to all.
static __always_inline int send_arp_probe(struct __sk_buff *skb, const struct xd_link_config *lc, __u64 to_mac,
					  __u32 host_be)
{
	struct arp_frame f = {};

	arp_frame(&f, lc->mac, 1);
	if (to_mac)
		mac_from_u64(f.eth.h_dest, to_mac);
	__builtin_memcpy(f.arp.target_ip, &host_be, 4);
	if (bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0))
		return -1;
	return bpf_clone_redirect(skb, lc->ifindex, 0);
}

// What the peer granted is used up so far that only the arbiter's leave may prolong it.
static __always_inline int right_ends(const struct xd_config *cfg, const struct xd_state *st, __u64 now)
{
	__s64 left = *(volatile __u64 *)&st->serve_until_ns - now;

	return cfg->serve_ns && left > 0 && left < (__s64)(cfg->serve_ns - cfg->suspect_ns);
}

// The listed hosts are asked at leisure, and at every tick while the peer is suspected or its grant
// ends: but more and more rarely if they do not answer, or the questions would be what keeps the
// answers away.
static __always_inline int reach_due(const struct xd_config *cfg, struct xd_state *st, __u64 now)
{
	__u64 wait = REACH_EVERY_NS, next = cfg->probe_ns;

	if (!cfg->n_reach)
		return 0;
	if (suspecting() || right_ends(cfg, st, now)) {
		int answered = st->reach_ok_ns == st->reach_sent_ns;

		wait = answered ? 0 : st->reach_wait_ns;
		next = answered ? cfg->probe_ns : 2 * wait;
	}
	if ((__s64)(now - st->reach_sent_ns) < (__s64)wait) // another CPU may have asked meanwhile
		return 0;
	st->reach_wait_ns = next < REACH_EVERY_NS ? next : REACH_EVERY_NS;
	return 1;
}

// Who answered the round before is asked alone (RFC 1122, 2.3.2.1: unicast poll); who did not,
// by broadcast: its NIC may have been replaced.
__noinline int ask_hosts(struct __sk_buff *skb, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	__u64 before;

	if (!cfg || !st)
		return 0;
	before = st->reach_sent_ns;
	st->reach_sent_ns = now;
	if (bpf_skb_change_tail(skb, ETH_ZLEN, 0))
		return 0;
	for (__u32 i = 0; i < MAX_REACH; i++) {
		__u64 mac;

		if (i >= cfg->n_reach)
			return 0;
		mac = reached_since(st, i, before) ? st->reach_mac[i] : 0;
		if (cfg->links[LINK_LAN].ifindex)
			send_arp_probe(skb, &cfg->links[LINK_LAN], mac, cfg->reach_be[i]);
		if (cfg->links[LINK_SPARE].ifindex)
			send_arp_probe(skb, &cfg->links[LINK_SPARE], mac, cfg->reach_be[i]);
	}
	return 0;
}

static __always_inline int send_announcement(struct __sk_buff *skb, const struct xd_identity_config *id, __u32 ip_be,
					     __u16 operation)
{
	struct arp_frame f = {};

	gratuitous_arp(&f, id->mac, ip_be, operation);
	if (bpf_skb_change_tail(skb, ETH_ZLEN, 0) || bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0))
		return -1;
	return bpf_clone_redirect(skb, id->carrier, 0);
}

static __always_inline int has_ip6(const struct xd_identity_config *id)
{
	return id->announced6[0] | id->announced6[15]; // a usable address has a first byte
}

// An unsolicited neighbour advertisement to all nodes (RFC 4861, 7.2.6).
static __always_inline int send_unsolicited_na(struct __sk_buff *skb, const struct xd_identity_config *id,
					       const __u8 *target)
{
	__u8 all_mac[6], all[16];
	struct na_frame f;

	to_all_nodes(all_mac, all);
	na_build(&f, id->mac, all_mac, target, all, ND_OVERRIDE);
	if (bpf_skb_change_tail(skb, sizeof(f), 0) || bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0))
		return -1;
	return bpf_clone_redirect(skb, id->carrier, 0);
}

// announce sends what is pending of one identity's announcements.
__noinline int announce(struct __sk_buff *skb, __u32 i, __u64 pending)
{
	__u64 first = 1ULL << (i & (MAX_IDENTITIES - 1)), rest = first << ANNOUNCE_REST;
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();
	const struct xd_identity_config *id;

	if (!cfg || !st || !(pending & (first | rest)))
		return 0;
	id = identity_config(cfg, i);
	if (!id->announced_be && !has_ip6(id))
		return 0;
	if (!gate_open(cfg, i)) {
		if (owns(i)) // its right is out for the moment
			__sync_fetch_and_or(&st->to_announce, pending & (first | rest));
		return 0;
	}
	if (pending & first) {
		if (id->announced_be ? send_announcement(skb, id, id->announced_be, 1) :
				       send_unsolicited_na(skb, id, id->announced6))
			__sync_fetch_and_or(&st->to_announce, first);
		else
			note_announced(st, i);
		return 0;
	}
	if ((id->announced_be && send_announcement(skb, id, id->announced_be, 2)) ||
	    (has_ip6(id) && send_unsolicited_na(skb, id, id->announced6)))
		__sync_fetch_and_or(&st->to_announce, rest); // an announcement too many does no harm
	return 0;
}

// The first tick after a change of owner sends one frame, which is what switches need; a flood of
// them would be in the way of the clients' own. The tick after it sends the other forms.
static __always_inline void send_announcements(struct __sk_buff *skb, const struct xd_config *cfg,
					       struct xd_state *st)
{
	__u64 pending = __sync_fetch_and_and(&st->to_announce, 0);

	if (!pending)
		return;
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
		announce(skb, i, pending);
}

// The address that somebody else has claimed is announced anew, in both forms of ARP. A claim of
// what is not served here any more is its new owner's to deny.
__noinline int deny(struct __sk_buff *skb, __u64 now)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();

	if (!cfg || !st)
		return 0;
	for (int i = 0; i < DENIALS_A_TICK; i++) {
		const struct xd_identity_config *id;
		struct xd_claim claim;
		__u32 number;

		if (!claim_to_deny(st, now, &claim))
			return 0;
		number = (claim.mark - 1) & (MAX_IDENTITIES - 1);
		id = identity_config(cfg, number);
		if (!gate_open(cfg, number))
			continue;
		if (claim.first == IP4_FIRST && (__u32)claim.second == (__u32)ip4_second(0)) {
			send_announcement(skb, id, claim.second >> 32, 1);
			send_announcement(skb, id, claim.second >> 32, 2);
		} else {
			send_unsolicited_na(skb, id, (__u8 *)&claim.first);
		}
	}
	return 0;
}

// A token that comes early may be one that was held up just before: the delay line counts from
// its leaving, not from its arrival. But when one after the other comes early, nobody holds them
// back: they end here, and an unpaced loop with them.
static __always_inline int token_unpaced(const struct xd_control *ctl, struct xd_state *st, __u64 now)
{
	__u64 before = st->token_ns;

	st->token_ns = now;
	if (!before || (__s64)(now - before) >= (__s64)(ctl->lap_ns / 4)) {
		st->token_strikes = 0;
		return 0;
	}
	return __sync_fetch_and_add(&st->token_strikes, 1) >= TOKEN_STRIKES;
}

static __always_inline __u8 tick_mark(struct __sk_buff *skb)
{
	__u8 mark = 0;

	bpf_skb_load_bytes(skb, 5, &mark, 1);
	return mark;
}

// token_return sends the token round again, as it was.
static __always_inline int token_return(struct __sk_buff *skb, struct xd_state *st, const struct xd_control *ctl)
{
	struct ethhdr eth = {.h_dest = {[5] = TOKEN_MARK}, .h_proto = bpf_htons(ETH_P_IP)};
	__u32 ring = ctl->ring_ifindex;

	if (ctl->pace == PACE_THREAD || !ring || bpf_skb_change_tail(skb, TOKEN_BYTES, 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	skb->priority = 0; // fq sends TC_PRIO_CONTROL at once, before Linux 6.7
	if (ctl->pace == PACE_FQ) {
		__u64 now = bpf_ktime_get_ns(), due = st->token_due_ns + ctl->lap_ns;

		if ((__s64)(due - now) < (__s64)(ctl->lap_ns / 2)) // late: not made up for by a burst
			due = now + ctl->lap_ns;
		st->token_due_ns = due;
		bpf_skb_set_tstamp(skb, due, BPF_SKB_TSTAMP_DELIVERY_MONO);
	}
	if (!(st->seq & TOKEN_COPY_MASK))
		bpf_clone_redirect(skb, ring, 0);
	return bpf_redirect(ring, 0);
}

// Is it time for probes? Whatever sends ticks, there are no more than four in an interval, but
// that hurry is good for one, and that an urgent pulse, which like every pulse does not come back, is
// one more. Between two probes a token passes by, unless there is a suspicion to confirm.
static __always_inline enum xd_reason tick_due(const struct xd_config *cfg, const struct xd_state *st,
					       const struct xd_control *ctl, __u8 mark, __u64 before, __u64 now)
{
	__s64 since = now - before;

	if (!before || st->hurry || mark == URGENT_MARK)
		return REASON_TICK_SENT;
	if (since < (__s64)(cfg->probe_ns / 4))
		return REASON_TICK_EARLY;
	if (mark == TOKEN_MARK && !suspecting() && since < (__s64)(cfg->probe_ns - ctl->lap_ns / 2))
		return REASON_TICK_BETWEEN;
	return REASON_TICK_SENT;
}

static __always_inline enum xd_reason handle_tick(struct __sk_buff *skb, const struct xd_config *cfg,
						  struct xd_state *st, const struct xd_control *ctl, __u8 mark,
						  __u64 now)
{
	__u64 seq, before = st->ticks[st->seq % TICKS_KEPT];
	enum xd_reason due = tick_due(cfg, st, ctl, mark, before, now);
	int failed;

	skb->priority = 7; // TC_PRIO_CONTROL
	send_announcements(skb, cfg, st);
	deny(skb, now);
	if (due != REASON_TICK_SENT)
		return due;
	*(volatile __u64 *)&st->hurry = 0;
	if (bpf_skb_change_tail(skb, HB_OFFSET + HB_BYTES(cfg->n_identities), 0))
		return REASON_TICK_FAILED;
	if (before && (__s64)(now - before) > 0) // another processor's pulse may have come since
		raise_max(&st->tick_gap_max_ns, now - before);
	seq = __sync_fetch_and_add(&st->seq, 1) + 1; // a pulse may come beside the pacer's own tick
	st->ticks[seq % TICKS_KEPT] = now;
	failed = probe_all(skb, seq, now);
	if (reach_due(cfg, st, now))
		ask_hosts(skb, now);
	return failed ? REASON_TICK_FAILED : REASON_TICK_SENT;
}

#endif
