// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// heartbeat.h: frames between the nodes: build, check, accept, answer.
#ifndef XDPHA_HEARTBEAT_H
#define XDPHA_HEARTBEAT_H

#include "ownership.h"
#include "siphash.h"
#include "arp.h"

static __always_inline __u32 supervisor_age_us(const struct xd_control *ctl, __u64 now)
{
	__u64 age = now - ctl->renewed_ns;

	if (!ctl->renewed_ns)
		return ~0U;
	if ((__s64)age < 0)
		return 0;
	age /= 1000;
	return age > ~0U ? ~0U : age;
}

// Serves by the arbiter's leave, which lasts longer than what a peer's frame grants.
static __always_inline int is_solo(const struct xd_config *cfg, const struct xd_state *st, __u64 now)
{
	return cfg->serve_ns && (__s64)(*(volatile __u64 *)&st->serve_until_ns - now) > (__s64)cfg->serve_ns;
}

// Read once for each frame: its number and its key must be of the same reading.
static __always_inline __u64 keys_in_force(const struct xd_control *ctl)
{
	return *(volatile __u64 *)&ctl->keys;
}

// What a sender says of itself, in probe and reply alike.
static __always_inline void hb_say(struct hb_head *h, const struct xd_config *cfg, const struct xd_state *st,
				   const struct xd_peer *p, const struct xd_control *ctl, __u64 keys, __u64 now)
{
	h->sender = cfg->self;
	h->key_id = KEYS_SIGNING(keys);
	h->age_us = supervisor_age_us(ctl, now);
	h->boot_id = st->boot_id;
	h->nonce = *(volatile __u64 *)&p->my_nonce;
	h->sent_ns = now;
	h->flags = ctl->flags | (is_solo(cfg, st, now) ? FLAG_SOLO : 0) |
		   (KEYS_OTHER(keys) != KEYS_SIGNING(keys) ? FLAG_TWO_KEYS : 0);
	h->digest = cfg->digest;
}

// The number of identities, read anew: what the verifier learned of an earlier reading would
// make it walk what follows once for each number.
static __always_inline __u32 hb_count(struct hb_head *h)
{
	return *(volatile __u8 *)&h->n_identities;
}

// What walks over a frame's words is global and finds the frame by itself: the verifier proves it
// once, and not once for each number of words with all that follows.
static __always_inline struct hb_head *hb_of(struct xdp_md *ctx, void **end)
{
	struct hb_head *h = (void *)(long)ctx->data + sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr);

	*end = (void *)(long)ctx->data_end;
	return (void *)(h + 1) > *end ? 0 : h;
}

// The tag over head and words: written where it stands, or compared with what stands there. 0: done, or
// the same. To check a frame and to sign its answer is the same code, and short: it is not in the
// processor's cache when a frame comes, and to fetch it costs more than to run it.
__noinline int hb_tag(struct xdp_md *ctx, __u32 key_id, int sign)
{
	void *end;
	struct hb_head *h = hb_of(ctx, &end);
	const struct xd_key *key = the_key(key_id);
	__u64 *w = (void *)h, *carried;
	struct sip s;

	if (!h || !key)
		return -1;
	s = sip_start(key);
	for (__u32 i = 0; i < HB_WORDS(MAX_IDENTITIES); i++, w++) {
		if (i >= HB_WORDS(hb_count(h)))
			break;
		if ((void *)(w + 1) > end)
			return -1;
		SIP_ABSORB(s, *w);
	}
	carried = (__u64 *)h + HB_WORDS(hb_count(h) & 31);
	if ((void *)(carried + 1) > end)
		return -1;
	if (!sign)
		return *carried != sip_finish(s, 8 * HB_WORDS(hb_count(h)));
	*carried = sip_finish(s, 8 * HB_WORDS(hb_count(h)));
	return 0;
}

// hb_check tells what is wrong with a frame before anything of it is believed.
// 0: authentic. The frame's length is exact.
static __always_inline enum xd_reason hb_check(struct xdp_md *ctx, const struct xd_config *cfg, __u32 link,
					       struct iphdr *ip, struct udphdr *udp, void *payload, void *end)
{
	struct hb_head *h = payload;
	struct xd_control *ctl = the_control();
	__u64 keys;
	__u32 n;

	if ((void *)(h + 1) > end)
		return REASON_HB_TRUNCATED;
	if (h->magic != HB_MAGIC)
		return REASON_HB_BAD_MAGIC;
	if (h->version != HB_VERSION)
		return REASON_HB_BAD_VERSION;
	n = h->n_identities;
	if (n > MAX_IDENTITIES || h->direction > HB_REPLY)
		return REASON_HB_BAD_SHAPE;
	if (payload + HB_BYTES(n) > end)
		return REASON_HB_TRUNCATED;
	if (payload + HB_BYTES(n) < end)
		return REASON_HB_OVERSIZED;
	if (udp->len != bpf_htons(8 + HB_BYTES(n)) || ip->tot_len != bpf_htons(28 + HB_BYTES(n)))
		return REASON_HB_BAD_SHAPE;
	if (ip->ttl != 255)
		return REASON_HB_BAD_TTL;
	if (h->cluster_id != cfg->cluster_id)
		return REASON_HB_FOREIGN_CLUSTER;
	if (h->link >= MAX_PATHS || path_end(h->link, cfg->self < h->sender) != link)
		return REASON_HB_WRONG_LINK;
	if (h->sender >= cfg->n_nodes || h->sender == cfg->self)
		return REASON_HB_BAD_SENDER;
	keys = ctl ? keys_in_force(ctl) : 0;
	if (!(keys & KEYS_SET) || (h->key_id != KEYS_SIGNING(keys) && h->key_id != KEYS_OTHER(keys)))
		return REASON_HB_UNKNOWN_KEY;
	return hb_tag(ctx, h->key_id, 0) ? REASON_HB_BAD_TAG : 0;
}

static __always_inline int rise(__u64 *highest, __u64 seq)
{
	__u64 old = *(volatile __u64 *)highest;

	return seq > old && swap_word(highest, old, seq);
}

// A nonce for one peer. Its lowest bits are this node's number, so that what another one is sent
// never proves anything here.
static __always_inline __u64 new_nonce(const struct xd_config *cfg, __u64 now)
{
	__u64 nonce = (now ^ (__u64)bpf_get_prandom_u32() << 32) << 4 | (cfg->self & (MAX_NODES - 1));

	return nonce ? nonce : 1ULL << 63;
}

// hb_fresh tells whether an authentic frame is of now: it must echo the nonce that I chose
// after the last boot of the peer that I accepted, and its sequence must rise on its path.
// A frame that does not echo it is of a peer that has just booted, or a replay: its nonce is
// echoed to it (only while no proven peer is up), and its next frame will prove it.
// The boot that was proven by the nonce before may go on echoing that one: when first frames
// cross, each node changes its nonce while the other's answer to the old one is under way.
static __always_inline enum xd_reason hb_fresh(const struct xd_config *cfg, const struct xd_state *st,
					       struct xd_peer *p, struct xd_path_state *path, struct hb_head *h,
					       __u64 now)
{
	__u64 nonce = *(volatile __u64 *)&p->my_nonce;

	// Until xdpha_start has chosen a nonce it is 0, which the first frames of any boot echo.
	if ((!nonce || h->echo != nonce) &&
	    !(h->boot_id == p->boot && p->my_nonce_before && h->echo == p->my_nonce_before)) {
		if (p->state == PEER_UNKNOWN || p->state == PEER_DEAD) {
			path->unproven = h->nonce;
			p->knocked_ns = now;
		}
		return REASON_HB_UNPROVEN;
	}
	if (h->boot_id != p->boot) {
		__u64 fresh = new_nonce(cfg, now);

		if (h->direction == HB_REPLY && h->seq > st->seq)
			return REASON_HB_REPLAYED;
		if (fresh == nonce || !swap_word(&p->my_nonce, nonce, fresh))
			return REASON_HB_UNPROVEN; // another path was first
		p->my_nonce_before = nonce;
		for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++)
			forsake_one(i, h->sender, now);
		for (__u32 i = 0; i < MAX_PATHS; i++)
			p->paths[i].probe_seq = 0;
		if (h->direction == HB_REPLY)
			path->reply_seq = h->seq;
		else
			path->probe_seq = h->seq;
		for (__u32 i = 0; i < MAX_IDENTITIES; i++)
			p->words[i] = 0;
		p->sent_ns = 0; // of another clock
		p->granted_ns = 0; // by another boot: this one takes nothing before its hold
		p->solo_sent_ns = 0;
		p->boot = h->boot_id;
		tell_peer(now, EVENT_PEER_BOOT, h->sender, h->boot_id);
		return 0;
	}
	if (h->direction == HB_REPLY)
		return h->seq <= st->seq && h->seq + SEQ_WINDOW > st->seq && rise(&path->reply_seq, h->seq) ?
			       0 :
			       REASON_HB_REPLAYED;
	for (__u32 i = 0; i < MAX_PATHS; i++)
		if (p->paths[i].probe_seq >= h->seq + SEQ_WINDOW)
			return REASON_HB_REPLAYED;
	return rise(&path->probe_seq, h->seq) ? 0 : REASON_HB_REPLAYED;
}

// A peer of another configuration is alive, but its words speak of other identities.
__noinline int hb_words(struct xdp_md *ctx, __u64 now)
{
	struct xd_config *cfg = the_config();
	void *end;
	struct hb_head *h = hb_of(ctx, &end);
	__u64 *word;

	if (!cfg || !h || h->digest != cfg->digest || h->n_identities != cfg->n_identities)
		return 0;
	word = (__u64 *)(h + 1);
	for (__u32 i = 0; i < MAX_IDENTITIES; i++) {
		if (i >= hb_count(h) || (void *)(word + i + 1) > end)
			break;
		peer_word(h->sender, i, word[i], now);
	}
	return 0;
}

// hb_own_words puts this node's words into an answer. What the peer does not know the same of is 0.
__noinline int hb_own_words(struct xdp_md *ctx)
{
	struct xd_config *cfg = the_config();
	struct xd_control *ctl = the_control();
	void *end;
	struct hb_head *h = hb_of(ctx, &end);
	__u64 *word;

	if (!cfg || !ctl || !h)
		return -1;
	word = (__u64 *)(h + 1);
	for (__u32 i = 0; i < MAX_IDENTITIES; i++) {
		__u64 *mine = the_word(i);

		if (i >= hb_count(h) || !mine)
			break;
		if ((void *)(word + i + 1) > end)
			return -1;
		word[i] = i < cfg->n_identities ? said_word(ctl, mine, i) : 0;
	}
	return 0;
}

static __always_inline struct xd_minute *the_minute(struct xd_state *st, __u64 now)
{
	__u64 minute = now / 60000000000ULL;
	struct xd_minute *m = &st->minutes[minute & (MINUTES_KEPT - 1)];

	if (m->minute != minute)
		*m = (struct xd_minute){.minute = minute};
	return m;
}

// hb_gap notes how long it was silent, on this link and on all paths: how near it came to a takeover.
static __always_inline void hb_gap(struct xd_state *st, struct xd_peer *p, struct xd_path_state *path, __u32 number,
				   __u64 now)
{
	__s64 gap = now - path->heard_ns, silence = now - p->heard_ns;
	struct xd_minute *m = the_minute(st, now);

	if (number < MAX_LINKS && path->heard_ns && gap > 0) {
		raise_max(&path->gap_max_ns, gap);
		raise_max(&m->gap_ns[number & 3], gap);
		observe(path->gap_hist, gap);
	}
	if (p->heard_ns && silence > 0) {
		raise_max(&p->gap_max_ns, silence);
		raise_max(&m->gap_ns[MAX_LINKS], silence);
		observe(p->gap_hist, silence);
	}
}

// hb_promise stamps the frame as a sign of life, and lets the peer count on it: not before
// dead_ns after the stamp will this node take over, so the peer may serve for serve_ns after
// the frame left it. The detector on another CPU may be about to declare death on older
// evidence. It declares, then looks at the stamps again; here it is stamped, then looked
// whether death is declared. One of the two sees the other: either the death is taken back,
// or nothing is promised. The exchange is a full barrier, whatever it finds. A stamp never goes
// back: a processor that was held up must not take another's newer evidence away; and what could
// not be stamped is not promised.
static __always_inline int hb_promise(struct xd_peer *p, struct xd_path_state *path, struct hb_head *h,
					 __u64 now)
{
	raise_time(&p->heard_ns, now);
	raise_time(&path->heard_ns, now);
	if (__sync_val_compare_and_swap(&p->state, PEER_DEAD, PEER_DEAD) == PEER_DEAD ||
	    (__s64)(*(volatile __u64 *)&path->heard_ns - now) < 0)
		return 0;
	raise_time(&p->sent_ns, h->sent_ns);
	return 1;
}

// hb_solo notes whether the peer serves by the arbiter's leave. Frames of several paths overtake
// each other: one without the flag ends it only if it left later.
static __always_inline void hb_solo(struct xd_peer *p, struct hb_head *h, __u64 now)
{
	__u64 solo = *(volatile __u64 *)&p->solo_ns;

	if (h->flags & FLAG_SOLO) {
		raise_time(&p->solo_sent_ns, h->sent_ns);
		__sync_lock_test_and_set(&p->solo_ns, now);
	} else if (solo && (__s64)(h->sent_ns - *(volatile __u64 *)&p->solo_sent_ns) > 0) {
		swap_word(&p->solo_ns, solo, 0);
	}
}

// hb_granted: the peer counts my frame of that time as life, so I may serve for as long after
// it as makes me stop before the peer takes over.
static __always_inline void hb_granted(const struct xd_config *cfg, struct xd_state *st, struct xd_peer *p, __u64 mine,
				       __u64 now)
{
	if (!cfg->serve_ns || !mine || (__s64)(now - mine) < 0)
		return;
	raise_time(&p->granted_ns, mine);
	if (!is_many(cfg))
		raise_time(&st->serve_until_ns, mine + cfg->serve_ns);
}

// hb_believe takes over what a fresh frame says. The stamp comes after it: who sees the peer
// alive sees what it owns, and nobody serves by its grant what its words have closed. The
// arbiter's leave, which was for a peer that is not heard, ends with it.
// It returns whether the peer may count on it.
static __always_inline int hb_believe(struct xdp_md *ctx, const struct xd_config *cfg, struct xd_state *st,
				      struct xd_peer *p, struct xd_path_state *path, struct ethhdr *eth,
				      struct hb_head *h, __u64 now)
{
	int promised;

	p->macs[path_end(h->link, cfg->self > h->sender) & 3] = mac_u64(eth->h_source);
	if (h->direction == HB_REPLY) {
		__s64 rtt = now - h->grant_ns;

		if (h->grant_ns && rtt > 0) {
			path->rtt_ns = rtt;
			raise_max(&path->rtt_max_ns, rtt);
			observe(path->rtt_hist, rtt);
		}
	}
	p->nonce = h->nonce;
	p->age_us = h->age_us;
	p->age_at_ns = now;
	p->flags = h->flags;
	p->digest = h->digest;
	p->key = h->key_id;
	hb_solo(p, h, now);
	hb_words(ctx, now);
	hb_granted(cfg, st, p, h->grant_ns, now);
	if (p->state == PEER_UP || p->state == PEER_SUSPECT)
		hb_gap(st, p, path, h->link, now);
	promised = hb_promise(p, path, h, now);
	give_back_leave(cfg, st, p);
	return promised;
}

// hb_answer turns the probe that came in by a link's NIC into its reply, in place. Only what was promised is granted.
static __always_inline int hb_answer(struct xdp_md *ctx, const struct xd_config *cfg, struct xd_state *st,
				     const struct xd_peer *p, __u32 link, struct ethhdr *eth, struct iphdr *ip,
				     struct hb_head *h, int promised, __u64 now)
{
	struct xd_control *ctl = the_control();
	__u32 address;
	__u64 keys;
	__u8 mac[6];

	if (!ctl)
		return -1;
	keys = keys_in_force(ctl);
	__builtin_memcpy(mac, eth->h_dest, 6);
	if (mac[0] & 1) // it did not know my MAC yet
		__builtin_memcpy(mac, cfg->links[link < MAX_LINKS ? link : 0].mac, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
	address = ip->saddr; // the sum over both stays the same
	ip->saddr = ip->daddr;
	ip->daddr = address;
	h->direction = HB_REPLY;
	h->echo = h->nonce;
	h->grant_ns = promised ? h->sent_ns : 0;
	hb_say(h, cfg, st, p, ctl, keys, now);
	return hb_own_words(ctx) || hb_tag(ctx, KEYS_SIGNING(keys), 1);
}

// hb_fetch reads one word of each page that an authentic probe will need, and forgets it: the
// processor finds the pages while it computes the tag, instead of after it. It decides nothing.
static __always_inline void hb_fetch(const struct xd_state *st, const struct hb_head *h, void *end, __u32 link)
{
	__u32 slot = link * REASON_COUNT + REASON_HB_PROBE_ANSWERED;
	__u64 *counter = bpf_map_lookup_elem(&counters, &slot), *word = the_word(0);
	struct xd_control *ctl = the_control();
	struct xd_peer *p = (void *)(h + 1) <= end ? the_peer(h->sender) : 0;
	struct xd_path_state *path = p ? the_path(p, h->link) : 0;

	if (!counter || !word || !ctl || !path)
		return;
	(void)*(volatile __u64 *)counter;
	(void)*(volatile __u64 *)word;
	(void)*(volatile __u64 *)&ctl->flags;
	(void)*(volatile __u64 *)&st->seq;
	(void)*(volatile __u64 *)&p->my_nonce;
	(void)*(volatile __u64 *)&path->heard_ns;
}

// hb_brought: a frame of the peer has made this node the owner of what the NIC that it came by
// carries, and nobody knows yet. The identity's number and 1; 0: none. Global, as take_one.
__noinline int hb_brought(__u32 ifindex)
{
	struct xd_config *cfg = the_config();
	struct xd_state *st = the_state();

	if (!cfg || !st)
		return 0;
	for (__u32 i = 0; i < MAX_IDENTITIES && i < cfg->n_identities; i++) {
		const struct xd_identity_config *id = &cfg->identities[i];

		if (st->to_announce & 1ULL << i && id->carrier == ifindex && id->announced_be && gate_open(cfg, i))
			return i + 1;
	}
	return 0;
}

// hb_announce lets the frame leave again by the same NIC, as the announcement, which then need not
// wait for a tick. The peer has its answer by another path, or to its next probe.
static __always_inline enum xd_reason hb_announce(struct xdp_md *ctx, const struct xd_config *cfg, struct xd_state *st,
						  __u32 identity)
{
	const struct xd_identity_config *id;
	struct arp_frame *f;

	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(*f) - (int)(ctx->data_end - ctx->data)))
		return REASON_INTERNAL; // the tick will do it
	f = (void *)(long)ctx->data;
	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return REASON_INTERNAL;
	__sync_fetch_and_and(&st->to_announce, ~(1ULL << (identity & 63)));
	__builtin_memset(f, 0, sizeof(*f));
	id = identity_config(cfg, identity);
	gratuitous_arp(f, id->mac, id->announced_be, 1);
	note_announced(st, identity);
	return REASON_HB_ANNOUNCED;
}

// Ours is what is sent to the heartbeat's port at the link's own address.
static __always_inline enum xd_reason handle_heartbeat(struct xdp_md *ctx, const struct xd_config *cfg, __u32 link,
						       struct ethhdr *eth, struct cursor c)
{
	struct iphdr *ip = TAKE(c, struct iphdr, REASON_NOT_OURS);
	struct udphdr *udp = TAKE(c, struct udphdr, REASON_NOT_OURS);
	struct xd_state *st = the_state();
	struct xd_path_state *path;
	struct xd_peer *p;
	struct hb_head *h = c.at;
	enum xd_reason reason;
	int promised, brought;
	__u64 now;

	if (ip->protocol != IPPROTO_UDP || ip->version != 4 || ip->ihl != 5 ||
	    udp->dest != bpf_htons(HEARTBEAT_PORT) || link >= MAX_LINKS || ip->daddr != cfg->links[link].local_be)
		return REASON_NOT_OURS;
	if (!st || ip->frag_off & bpf_htons(0x3fff))
		return REASON_HB_BAD_SHAPE;
	hb_fetch(st, h, c.end, link);
	reason = hb_check(ctx, cfg, link, ip, udp, c.at, c.end);
	if (link == LINK_CROSSOVER &&
	    (reason == REASON_HB_BAD_VERSION || reason == REASON_HB_UNKNOWN_KEY || reason == REASON_HB_BAD_TAG) &&
	    (void *)(h + 1) <= c.end) {
		st->stranger_version = h->version;
		st->stranger_ns = bpf_ktime_get_boot_ns();
	}
	if (reason)
		return reason;
	if ((void *)(h + 1) > c.end)
		return REASON_HB_TRUNCATED;
	p = the_peer(h->sender);
	path = p ? the_path(p, h->link) : 0;
	if (!path)
		return REASON_HB_BAD_SENDER;
	now = bpf_ktime_get_boot_ns();
	reason = hb_fresh(cfg, st, p, path, h, now);
	if (reason)
		return reason;
	promised = hb_believe(ctx, cfg, st, p, path, eth, h, now);
	brought = st->to_announce ? hb_brought(ctx->ingress_ifindex) : 0;
	if (brought > 0)
		return hb_announce(ctx, cfg, st, brought - 1);
	if (h->direction == HB_REPLY)
		return REASON_HB_REPLY_ACCEPTED;
	if (hb_answer(ctx, cfg, st, p, link, eth, ip, h, promised, now))
		return REASON_INTERNAL;
	return REASON_HB_PROBE_ANSWERED;
}

#endif
