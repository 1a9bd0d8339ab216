// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// csum.h: the Internet checksum (RFC 1071).
#ifndef XDPHA_CSUM_H
#define XDPHA_CSUM_H

#include <linux/types.h>

// Words of other types are read as 16-bit words.
typedef __u16 __attribute__((may_alias)) csum_word;

// csum_add adds a constant, even number of bytes. Neither the byte order nor the moment at
// which carries are added changes the sum (RFC 1071, 2 (B) and (C)): words are taken as they
// stand in memory, and 32 bits hold the carries of 65,536 of them until csum_fold.
static __always_inline __u32 csum_add(__u32 sum, const void *data, __u32 bytes)
{
	const csum_word *w = data;

#pragma unroll
	for (__u32 i = 0; i < bytes / 2; i++)
		sum += w[i];
	return sum;
}

// The checksum of what was added. Of words that carry their right checksum it is 0.
static __always_inline __u16 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	return ~sum;
}

#endif
