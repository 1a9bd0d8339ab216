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
// Two nodes are a pair, and three rules make two owners impossible while frames pass:
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
// Generations are even on the first node and odd on the second; of n nodes each has
// those that leave its number when they are divided by n. So none is ever owned by
// two, nor by one node two times, whatever a partition let happen and a loss of
// power let be forgotten: a generation names one time of one owner.
//
// # Many
//
// Of more than two nodes those that an identity prefers are its candidates: only they
// ever own it. What the policy says of the peer holds of the identity's counterpart:
// the owner, or who owned it last, or whom this node hands it over to. There are not
// two owners, because
//
//   - only a kernel makes an owner, and only with the identity's key in etcd, won at
//     the very generation that it takes. The core never swaps Owner in: there are no
//     claims, no burning, and no release that is followed without the key. etcd takes
//     no generation below one that it has had, so the candidates come one after the
//     other, whatever each of them thinks of the rest.
//   - a kernel takes only when every other candidate is dead there, or has said at this
//     generation that it is not the owner. A word that is not an owner's never becomes
//     one at its own generation; so one that was released may go back to Ready.
//   - an owner serves by the grants of all other candidates, each of whom has heard its
//     word, or by the key. When a candidate is suspected or a grant is missing the owner
//     wins the key at its own generation, and gives it up when all grant again. So who
//     thinks the owner dead wins no key that the owner has, and whoever's grant is out
//     gives none.
//
// Who takes what is policy, and two who differ about it race for the key: who comes
// first in the order of preference of those that are up, supervised, armed and not in
// standby or frozen; before them whom a yielded word names, or who is staged or
// demands it. Turns last for Limits.Release and go round. For a hand-over the target
// wins the key before it shows Staged, so that the release is followed at once; but an
// owner that holds the key itself gives it up with the release. If the hand-over is
// called off then, etcd knows a generation above the owner's. The owner goes on by its
// grants; who takes it from there, or the owner when a grant is missing, begins above
// what etcd knows.
package core
