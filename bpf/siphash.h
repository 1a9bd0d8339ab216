// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// siphash.h: SipHash-2-4 (Aumasson and Bernstein, 2012) over whole 64-bit words.
#ifndef XDPHA_SIPHASH_H
#define XDPHA_SIPHASH_H

#include "abi.h"

struct sip {
	__u64 v0, v1, v2, v3;
};

#define SIP_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

#define SIP_ROUND(s)                                   \
	do {                                           \
		(s).v0 += (s).v1;                      \
		(s).v1 = SIP_ROTL((s).v1, 13) ^ (s).v0; \
		(s).v0 = SIP_ROTL((s).v0, 32);         \
		(s).v2 += (s).v3;                      \
		(s).v3 = SIP_ROTL((s).v3, 16) ^ (s).v2; \
		(s).v0 += (s).v3;                      \
		(s).v3 = SIP_ROTL((s).v3, 21) ^ (s).v0; \
		(s).v2 += (s).v1;                      \
		(s).v1 = SIP_ROTL((s).v1, 17) ^ (s).v2; \
		(s).v2 = SIP_ROTL((s).v2, 32);         \
	} while (0)

static __always_inline struct sip sip_start(const struct xd_key *key)
{
	return (struct sip){
		.v0 = key->k0 ^ 0x736f6d6570736575ULL,
		.v1 = key->k1 ^ 0x646f72616e646f6dULL,
		.v2 = key->k0 ^ 0x6c7967656e657261ULL,
		.v3 = key->k1 ^ 0x7465646279746573ULL,
	};
}

#define SIP_ABSORB(s, word)          \
	do {                         \
		__u64 m_ = (word);   \
		(s).v3 ^= m_;        \
		SIP_ROUND(s);        \
		SIP_ROUND(s);        \
		(s).v0 ^= m_;        \
	} while (0)

static __always_inline __u64 sip_finish(struct sip s, __u64 bytes)
{
	SIP_ABSORB(s, bytes << 56);
	s.v2 ^= 0xff;
	SIP_ROUND(s);
	SIP_ROUND(s);
	SIP_ROUND(s);
	SIP_ROUND(s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
