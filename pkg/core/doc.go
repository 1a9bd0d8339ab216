// SPDX-License-Identifier: Apache-2.0

// Package core is a node's policy, as a pure state machine: what to arm, when
// to claim, hand over, give back or hold, and what to tell the administrator.
//
// It owns every decision that user space takes and the order of their effects.
// It must not know the clock, files, sockets, goroutines, randomness, logs or
// any other package: time comes with each event, effects leave as actions and
// come back as events, so that any journal replays to the same actions.
//
// # The words
//
// The kernels decide in the packet; see [Word]. The core changes a word by
// compare-and-swap only and believes what it observes, not what it asked for.
// Three rules make two owners impossible while frames pass:
//
//   - At one generation only one node may claim without the peer's death: the
//     home node, or the other one if its word shows Want and the home node's
//     does not. Without being home, a node gains such a Want only together with
//     a new generation, so the peer cannot have seen that generation without it.
//   - A node whose word shows Yield never claims at that generation: a frame that
//     released it may still be on its way, and the peer's kernel would follow it.
//     It burns the generation (see burn) and starts again at the next.
//   - Ownership at a generation needs that generation on disk first, and after a
//     boot a node owns only what is above all that its disk promises.
//
// Generations are even on the first node and odd on the second. So none is ever
// owned by both, nor by one node two times, whatever a partition let happen and a
// loss of power let be forgotten: a generation names one time of one owner.
package core
