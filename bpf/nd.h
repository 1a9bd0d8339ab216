#ifndef XDPHA_ND_H
#define XDPHA_ND_H
#include "gate.h"
#define ND_OVERRIDE 0x20
struct na_frame { __u8 b[86]; };
#define all_nodes ((__u8[16]){0xff,2,[15]=1})
static __always_inline void na_build(struct na_frame *f, const __u8 *mac, const __u8 *dm, const __u8 *t, const __u8 *d, __u32 fl){ __builtin_memset(f,0,86); __builtin_memcpy(f,dm,6);}
#endif
