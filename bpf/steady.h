// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// steady.h: one source gives one object, whatever the headers' version is.
#ifndef XDPHA_STEADY_H
#define XDPHA_STEADY_H

// struct __sk_buff points at these two. Of a type that nothing uses clang-19's BTF has a forward
// declaration only, and several of them stand in the order of addresses in the compiler: it
// changes with a comment in a system header. A type used by a function is there as a whole. No
// program calls this function, so none is loaded with it.
static __attribute__((used)) int steady(const struct bpf_flow_keys *keys, const struct bpf_sock *sk)
{
	return 0;
}

#endif
