// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// maps.h: the maps, all pinned. Truth lives here; events are hints.
#ifndef XDPHA_MAPS_H
#define XDPHA_MAPS_H

#include "abi.h"

// Mapped by user space for single stores, when a NIC has come in the place of another.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xd_config);
} config SEC(".maps");

// The keys, by their numbers. A slot is written once, before its number is in force: however long
// a program has held on to the numbers that it read, it never sees half of a key.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KEY_SLOTS);
	__type(key, __u32);
	__type(value, struct xd_key);
} keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xd_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xd_state);
} state SEC(".maps");

// By the nodes' numbers; this node's own entry is unused.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_NODES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xd_peer);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDENTITIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDENTITIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xd_timeline);
} timelines SEC(".maps");

// IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so that one lookup serves both families.
struct xd_address {
	__u8 bytes[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, struct xd_address);
	__type(value, __u32); // identity
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IDENTITIES);
	__type(key, __u64); // MAC in the low six bytes, first byte lowest
	__type(value, __u32);
} macs SEC(".maps");

// A TCP port of an identity behind which a service must be ready: the generation at which it is. An
// identity that changes its owner is not ready anywhere, without anybody's doing.
struct xd_port {
	__u32 identity;
	__be16 port_be;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, struct xd_port);
	__type(value, __u64);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, (MAX_LINKS + 1) * REASON_COUNT); // the last row: no link
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_BYTES);
	__type(value, struct xd_event);
} events SEC(".maps");

struct detector {
	struct bpf_timer timer;
	__u64 due_ns; // when the callback should run
	__u64 not_before_ns; // no verdict of death before: our own stall is no evidence
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct detector);
} detectors SEC(".maps");

// WITHIN repeats a bound that has been checked where the verifier sees it: up to Linux 6.1 it
// forgets what it knows of a 32-bit value on the stack. n is a power of two.
#define WITHIN(i, n) asm volatile("%0 &= %1" : "+r"(i) : "i"((n)-1))

static __always_inline struct xd_config *the_config(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline const struct xd_key *the_key(__u32 number)
{
	return bpf_map_lookup_elem(&keys, &number);
}

static __always_inline struct xd_control *the_control(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline struct xd_state *the_state(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&state, &zero);
}

static __always_inline struct xd_peer *the_peer(__u32 node)
{
	return bpf_map_lookup_elem(&peers, &node);
}

// The other node of a pair.
static __always_inline struct xd_peer *the_other(const struct xd_config *cfg)
{
	return the_peer(cfg->self ^ 1);
}

#define PATH_SLOTS 8 // a power of two, as WITHIN wants

// What is known of one path to a peer; NULL: there is none of that number.
static __always_inline struct xd_path_state *the_path(struct xd_peer *p, __u32 path)
{
	if (path >= MAX_PATHS)
		return 0;
	WITHIN(path, PATH_SLOTS); // after the check: the compiler would multiply before it
	return &p->paths[path];
}

// The link whose NIC a path has at the end of the node with the lower number of both, or at the other.
static __always_inline __u32 path_end(__u32 path, int lower)
{
	if (path < MAX_LINKS)
		return path;
	return (path == PATH_LOWER_LAN) == !!lower ? LINK_LAN : LINK_SPARE;
}

static __always_inline __u64 *the_word(__u32 identity)
{
	return bpf_map_lookup_elem(&words, &identity);
}

static __always_inline struct xd_timeline *the_timeline(__u32 identity)
{
	return bpf_map_lookup_elem(&timelines, &identity);
}

#endif
