// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// limits.h: every size, and why it has that number.
#ifndef XDPHA_LIMITS_H
#define XDPHA_LIMITS_H

#define MAX_IDENTITIES 16  // keeps a frame of all of them under 256 bytes
#define ANNOUNCE_REST 16   // the second half of a word of bits for identities
#define MAX_NODES 16       // a mask of them is a half word; more would ask each other all the time
#define MAX_LINKS 3        // crossover, lan, spare
#define MAX_PATHS 5        // the links, and lan to spare both ways
#define KEY_SLOTS 256      // one for each number that a frame can name
#define MAX_REACH 8        // more hosts than that add latency, not judgement
#define MAX_ADDRESSES 16384 // looked up by hash: the number costs memory only
#define MAX_PORTS 1024     // of services: 16 identities with 64 each
#define TICKS_KEPT 8       // send times of the last own probes; a power of two above any confirm_probes
#define MINUTES_KEPT 64    // an hour of near misses, a power of two
#define SEQ_WINDOW 64 // a frame this many probes behind is old: somebody may have held it back
#define HIST_BUCKETS 32    // powers of two of nanoseconds: 1 ns to 2 s and beyond
#define EVENT_BYTES 65536  // ring buffer: 1,170 events, hints only
#define CLAIMS_KEPT 64     // foreign claims to be denied: a host that comes with many addresses; a power of two
#define DENIALS 16         // of them at most in DENIALS_NS: two that claim the same must not storm (RFC 5227, 2.4)
#define DENIALS_NS 100000000LL
#define DENIALS_A_TICK 4   // a flood of them would be in the way of the clients' own frames

#define HEARTBEAT_PORT 7364 // UDP; of the unassigned range

#endif
