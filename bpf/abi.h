// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// abi.h: what kernel and user space share: map values, events, reasons, frames.
#ifndef XDPHA_ABI_H
#define XDPHA_ABI_H

#include <linux/types.h>
#include "limits.h"

// Raised whenever a struct below changes its shape or meaning.
enum xd_abi { XDPHA_ABI = 11 };

enum xd_link { LINK_CROSSOVER, LINK_LAN, LINK_SPARE };

// A path is a NIC at each end. The first paths are the links, by their numbers: the same NIC at both
// ends. The cross paths join a lan NIC with a spare one; which is whose depends on which of the two
// nodes has the lower number, so that both name a path alike. A frame bears its path's number, and
// its version is still 2: a node from before the cross paths drops their frames as of a wrong link,
// and hears its peer on the links, as ever.
enum xd_path { PATH_LOWER_LAN = MAX_LINKS, PATH_LOWER_SPARE };

// Whose word it takes, beside the detector's, to own what a dead peer owned; see take_over.
enum xd_verdict { VERDICT_KERNEL, VERDICT_FENCE, VERDICT_ETCD };

// How the token of the kernel pacer is paced; see pacer.h.
enum xd_pace { PACE_THREAD, PACE_TBF, PACE_FQ };

enum xd_peer_state { PEER_UNKNOWN, PEER_UP, PEER_SUSPECT, PEER_DEAD };

// Ownership word: flags above, generation below. See ownership.h for its life. In between, bits 51 to
// 55 are the daemons' own: which node a word that yields is meant for (its number and 1; 0: nobody
// in particular). Bits 48 to 50 are 0; but in frames, and so in what is kept of a peer, bit 50 says
// that services of the identity which must run once may still run on the sender.
#define WORD_OWNER (1ULL << 63)
#define WORD_YIELD (1ULL << 62)
#define WORD_READY (1ULL << 61)
#define WORD_WANT (1ULL << 60)
#define WORD_STAGED (1ULL << 59)
#define WORD_DEMAND (1ULL << 58)
#define WORD_RUNS (1ULL << 50)
#define WORD_GEN ((1ULL << 48) - 1)

#define RUNNING_ENDED (1ULL << 63)

struct xd_key {
	__u64 k0, k1;
};

// Which keys are in force, by their numbers: the one that signs, and the other one that is
// accepted (the same, if there is but one). A single word, so that both change at once.
#define KEYS_SIGNING(keys) ((keys) & 0xff)
#define KEYS_OTHER(keys) ((keys) >> 8 & 0xff)
#define KEYS_SET (1ULL << 16)

struct xd_link_config {
	__u32 ifindex; // 0: the node has no such link, or its NIC is gone
	__u32 local_be; // IPv4, network order
	__u8 mac[6];
	__u8 pad[2];
};

struct xd_identity_config {
	__u32 carrier; // ifindex of the NIC that carries it here
	__u32 announced_be; // the IPv4 address that the kernel announces; 0: none
	__u8 announced6[16]; // the IPv6 address that it announces; all 0: none
	__u8 mac[6];
	__u16 candidates; // a bit for each node that may ever own it
};

// Written by user space before the programs are attached; afterwards only what names a NIC, field by field.
struct xd_config {
	enum xd_abi abi;
	__u32 cluster_id;
	__u32 digest; // of what all nodes must agree on
	__u8 self; // this node's number
	__u8 n_identities;
	__u8 n_reach; // 0: no majority is asked for
	__u8 n_nodes; // 2: a pair; more: see ownership.h for what is different among many
	enum xd_verdict verdict;
	__u8 solo_keep;
	__u8 pad0;
	__u16 with_ports; // a bit for each identity that has some in the map ports
	__u32 confirm_probes;
	__u32 own_be; // the node's own LAN address
	__u64 probe_ns;
	__u64 suspect_ns;
	__u64 dead_ns;
	__u64 hold_ns;
	__u64 serve_ns; // how long the right to serve lasts; 0: it is not asked for, what is owned is kept
	struct xd_link_config links[MAX_LINKS];
	struct xd_identity_config identities[MAX_IDENTITIES];
	__u32 remote_be[MAX_NODES][MAX_LINKS]; // 0: the node has no such link
	__u32 reach_be[MAX_REACH];
};

// Written by user space all the time, read by the kernel.
struct xd_control {
	__u64 renewed_ns; // CLOCK_BOOTTIME of the supervisor's last renewal
	__u64 lease_until_ns;
	__u64 flags; // goes into every frame: FLAG_*
	enum xd_pace pace;
	__u32 ring_ifindex; // where the token goes round
	__u64 keys; // KEYS_*
	__u64 lap_ns; // how long a lap takes: an interval of probes, or half of one
	__u64 floor[MAX_IDENTITIES]; // this node may have owned up to here before it booted
	__u64 fenced_ns; // when a fence agent was asked last that said the peer is off; 0: never
	__u64 leave_ns[MAX_IDENTITIES]; // until when this node surely holds the identity's key in etcd
	__u64 leave_gen[MAX_IDENTITIES]; // the generation that it holds it at
	// Not 0: services of the identity that must run once may run here. The daemon sets it before it
	// starts any, each time to another value; when they have ended, the daemon or its guard sets it
	// to 0. RUNNING_ENDED, beside it or beside 0, is for the daemon: the guard has ended some.
	__u64 running[MAX_IDENTITIES];
};

#define FLAG_STANDBY (1U << 0)
#define FLAG_FROZEN (1U << 1)
#define FLAG_SOLO (1U << 2) // set by the kernel: the sender serves by the arbiter's leave, for up to SOLO_NS
#define FLAG_PART (1U << 3) // to a peer of another configuration: bits 16-31 digest a part of the sender's
#define FLAG_TWO_KEYS (1U << 14) // set by the kernel: the sender accepts a second key
// Bits 4-7 and 8-11: hosts reached by the lan and by the spare NIC; 12, 13: their carrier;
// 16-31: a bit for each identity whose services are up on the sender.

struct xd_path_state {
	__u64 heard_ns; // last accepted frame
	__u64 probe_seq; // highest accepted probe of the peer
	__u64 reply_seq; // highest own probe that was answered
	__u64 unproven; // nonce of somebody with the key, in the peer's name, who is not proven yet
	__u64 rtt_ns; // last
	__u64 rtt_max_ns;
	__u64 gap_max_ns; // of a link: a cross path is silent as a rule
	__u64 rtt_hist[HIST_BUCKETS];
	__u64 gap_hist[HIST_BUCKETS];
};

// The longest silences of a minute: how near they came to a takeover.
struct xd_minute {
	__u64 minute; // of CLOCK_BOOTTIME
	__u64 gap_ns[MAX_LINKS + 1]; // by link; the last: on all paths at once
	__u64 stall_ns; // the detector's own lateness
};

// An address of an identity that somebody else claims, as it stands in the map addresses.
struct xd_claim {
	__u64 mark; // the claim's number, and below it CLAIM_IDENTITY_BITS with the identity's number and 1; 0: being written, or done with
	__u64 first, second;
};

// What this node knows of another one. Written by the kernel; user space maps it and reads.
struct xd_peer {
	__u64 my_nonce; // what the peer must echo
	__u64 my_nonce_before; // what it may echo still: frames of both nodes cross
	__u64 boot;
	__u64 nonce; // what is echoed to it
	__u64 state; // PEER_*
	__u64 since_ns;
	__u64 age_us; // age of its supervisor, as it said
	__u64 age_at_ns;
	__u64 flags;
	__u64 digest;
	__u64 key; // the number of the key that signed its last accepted frame
	__u64 granted_ns; // the latest of my frames that it says it counted; 0: none of this boot of it
	__u64 sent_ns; // on its clock: the latest frame that I promised to count as life
	__u64 solo_ns; // last frame of it that said FLAG_SOLO; 0: a later one did not
	__u64 solo_sent_ns; // when that left, on its clock
	__u64 heard_ns; // last accepted frame on any path
	__u64 words[MAX_IDENTITIES];
	__u64 knocked_ns; // last frame of somebody with the key, in its name, who is not proven yet
	__u64 crossed_ns; // when it was last sent probes on the cross paths
	__u64 macs[MAX_LINKS]; // of its NICs, learned on whichever path; 0: not yet
	__u64 suspect_ns;
	__u64 dead_ns;
	__u64 suspects;
	__u64 refuted;
	__u64 reverted; // deaths taken back, because a frame came while they were declared
	__u64 gap_max_ns; // longest silence on all paths that was no death
	__u64 gap_hist[HIST_BUCKETS]; // silences on all paths
	struct xd_path_state paths[MAX_PATHS];
};

// What is this node's own. Written by the kernel; user space maps it and reads.
struct xd_state {
	__u64 boot_id; // set by user space at load
	__u64 started_ns;
	__u64 seq; // last own probe
	__u64 ticks[TICKS_KEPT]; // send time of probe seq, at seq % TICKS_KEPT
	__u64 tick_gap_max_ns;
	__u64 token_ns; // when the pacer's token came by last
	__u64 token_strikes; // how many tokens in a row came early
	__u64 token_due_ns; // CLOCK_MONOTONIC: when it should come next, with PACE_FQ
	__u64 hurry; // the next tick may come early: there is something to say
	__u64 serve_until_ns; // a pair's right to serve; among many it follows from each peer's granted_ns
	__u64 taken_ns[MAX_IDENTITIES]; // among many: grants for frames of before do not count
	__u64 reach_sent_ns;
	__u64 reach_wait_ns; // how long an answer is waited for, while the peer is suspected
	__u64 reach_mac[MAX_REACH]; // who answered; 0: not yet
	__u64 reach_ns[MAX_REACH][MAX_LINKS]; // last answer of each host, by link
	__u64 reach_ok_ns; // when the last round was sent that a majority answered
	__u64 majority_since_ns;
	__u64 isolated_since_ns; // not 0: cut off, the right to serve has run out
	__u64 stranger_ns; // last frame on the crossover of another version, or signed with another secret
	__u64 stranger_version; // of that frame
	__u64 self_stalls;
	__u64 conflicts[MAX_IDENTITIES]; // claims of others
	__u64 conflict_told_ns[MAX_IDENTITIES];
	__u64 claimed; // how many claims there were to deny, at n % CLAIMS_KEPT
	__u64 denied; // how many of them are done with
	__u64 denials_since_ns;
	__u64 denials; // since then
	struct xd_claim claims[CLAIMS_KEPT];
	__u64 to_announce; // a bit for each identity that came here and is not announced; ANNOUNCE_REST higher: that is not in all forms
	struct xd_minute minutes[MINUTES_KEPT]; // at minute % MINUTES_KEPT
};

// The last change of owner to this node of one identity, by the kernel's clock; 0: not yet.
struct xd_timeline {
	__u64 word; // what it became
	__u64 evidence_ns; // last sign of the former owner's life; 0: it was no death
	__u64 suspect_ns;
	__u64 dead_ns;
	__u64 flip_ns;
	__u64 announced_ns; // the first gratuitous ARP or unsolicited NA left
	__u64 answered_ns; // the first ARP or ND question was answered
	__u64 in_ns; // the first packet came in by the open gate
	__u64 out_ns; // and the first went out
};

enum xd_event_kind {
	EVENT_PEER_UP = 1,
	EVENT_PEER_SUSPECT,
	EVENT_PEER_REFUTED,
	EVENT_PEER_DEAD, // a: last evidence
	EVENT_PEER_BOOT, // a: new boot id
	EVENT_PEER_WORD, // a: the peer's word, as it changed
	EVENT_TAKEOVER, // a: new word, b: last evidence
	EVENT_TAKEN, // a: new word, b: the word before; the peer had released it
	EVENT_LAPSED, // a: new word; the supervisor's lease ran out
	EVENT_CLOSED, // a: new word; the peer had a higher generation
	EVENT_ISOLATED,
	EVENT_REJOINED,
	EVENT_ADDRESS_CONFLICT, // a: MAC of the offender, first, second: the address
	EVENT_SELF_STALL, // a: lateness in ns
	EVENT_ANNOUNCED, // by the kernel
	EVENT_STOOD_DOWN, // a: new word; the peer demanded it
};

struct xd_event {
	__u64 at_ns;
	enum xd_event_kind kind;
	__u16 identity; // or ~0
	__u16 node; // whose doing it is; ~0: nobody's
	__u64 a;
	__u64 b;
	__u64 first, second; // halves of an address, as it stands in the map addresses
};

// Every exit of every program. Order is part of the ABI; names are in loader/reason.go.
enum xd_reason {
	REASON_NOT_OURS,
	REASON_HB_PROBE_ANSWERED,
	REASON_HB_REPLY_ACCEPTED,
	REASON_HB_ANNOUNCED,
	REASON_HB_TRUNCATED,
	REASON_HB_OVERSIZED,
	REASON_HB_BAD_MAGIC,
	REASON_HB_BAD_VERSION,
	REASON_HB_BAD_TTL,
	REASON_HB_FOREIGN_CLUSTER,
	REASON_HB_WRONG_LINK,
	REASON_HB_BAD_SENDER,
	REASON_HB_BAD_SHAPE,
	REASON_HB_UNKNOWN_KEY,
	REASON_HB_BAD_TAG,
	REASON_HB_UNPROVEN,
	REASON_HB_REPLAYED,
	REASON_ARP_ANSWERED,
	REASON_ARP_GATE_CLOSED,
	REASON_ARP_WRONG_NIC,
	REASON_ARP_OWN_ON_SPARE,
	REASON_ARP_CONFLICT,
	REASON_ND_ANSWERED,
	REASON_ND_GATE_CLOSED,
	REASON_ND_WRONG_NIC,
	REASON_ND_CONFLICT,
	REASON_ND_BAD,
	REASON_IN_OPEN,
	REASON_IN_GATE_CLOSED,
	REASON_IN_WRONG_NIC,
	REASON_IN_NOT_READY,
	REASON_OUT_OPEN,
	REASON_OUT_GATE_CLOSED,
	REASON_OUT_WRONG_NIC,
	REASON_OUT_WRONG_MAC,
	REASON_OUT_FOREIGN_SOURCE,
	REASON_TICK_SENT,
	REASON_TICK_EARLY,
	REASON_TICK_BETWEEN,
	REASON_TOKEN_UNPACED,
	REASON_TICK_FAILED,
	REASON_INTERNAL,
	REASON_COUNT,
};

// Heartbeat frame behind Ethernet, IPv4 (no options, TTL 255) and UDP (no checksum:
// RFC 768; the tag covers more). Little endian. n_identities words and the tag follow.
#define HB_MAGIC 0x4458 // "XD"
#define HB_VERSION 2
#define HB_REPLY 1 // direction: a reply is never answered

struct hb_head {
	__u16 magic;
	__u8 version;
	__u8 direction;
	__u8 sender;
	__u8 link; // the path's number
	__u8 key_id;
	__u8 n_identities;
	__u32 cluster_id;
	__u32 age_us; // of the sender's supervisor lease, saturating
	__u64 boot_id;
	__u64 nonce; // the sender's: to be echoed to it
	__u64 echo; // the receiver's nonce, as the sender heard it
	__u64 seq; // of the probe
	__u64 sent_ns; // of this frame, on its sender's clock
	__u64 grant_ns; // when the receiver's frame left, on its clock, that the sender counts as life; 0: none
	__u32 flags;
	__u32 digest;
};

#define HB_WORDS(n) (sizeof(struct hb_head) / 8 + (n)) // under the tag
#define HB_BYTES(n) (8 * (HB_WORDS(n) + 1))
#define HB_OFFSET 42 // Ethernet 14, IPv4 20, UDP 8

_Static_assert(sizeof(struct hb_head) == 72, "heartbeat head");
_Static_assert(sizeof(struct xd_event) == 48, "event");
_Static_assert(sizeof(struct xd_key) == 16, "key");
_Static_assert(sizeof(struct xd_link_config) == 16, "link config");
_Static_assert(sizeof(struct xd_identity_config) == 32, "identity config");
_Static_assert(sizeof(struct xd_timeline) == 72, "timeline");
_Static_assert(sizeof(struct xd_minute) == 48, "minute");
_Static_assert(sizeof(struct xd_config) % 8 == 0, "config has no tail padding");
_Static_assert(sizeof(struct xd_path_state) == 8 * (7 + 2 * HIST_BUCKETS), "path state");
_Static_assert(PATH_LOWER_SPARE == MAX_PATHS - 1, "paths");

#endif
