// SPDX-License-Identifier: Apache-2.0

// Package sim runs two nodes, or up to five, in one thread, by virtual time: the real core of pkg/core
// on each, over a model of the kernel's part, whose methods have the names of the C functions that they
// stand for, and over a network, clocks, disks, power and etcd that fail as a seed has it.
//
// A run is a function of its seed and its options: the same faults at the same times, the
// same transcript. At every instant a checker looks for what must not be:
//
//   - two gates that are open for one identity, but for the case that arbiter reach documents:
//     both nodes reach the majority of the listed hosts, and not one frame has passed between
//     them for dead_after; and that case ends with the first frame. With etcd there is no such case;
//   - with etcd: two nodes that count on one key, something taken by its key that was not won there,
//     or a gate that opens at a lower generation than one that was open before, but for one case: see rises;
//   - a generation that is owned two times, or one that is lower than the one before;
//   - a word that is armed without a promise on the disk, or released while services run, unless
//     that was forced;
//   - services of one identity on two nodes, unless the arbiter is none: they start when they are
//     permitted, restart in place, stop late or not, outlive their daemon, and a guard ends them. A node
//     that stood still may be late by as much as its guard takes;
//   - a mirror that writes under services that run, or what is of an older generation.
//
// When everything has been healed, within a bounded time each identity must have one owner,
// with its addresses and services, and peers that are armed; and with one node in standby the
// others own everything.
//
// Beside the seeds, all orders of what may happen in smaller worlds are looked at, to a depth: [Races]
// are two kernels, whose processors may be held up between two steps, [Pairs] are two kernels with
// their cores, and [Crowds] three kernels whose user space does as it likes. Bugs that are put into the
// model on purpose ([Mutations], [ServiceMutations], [FenceMutations], [EtcdMutations], [ManyMutations])
// must be found by one of them.
//
// Times are nanoseconds. The model leaves out authentication but for boot ids and nonces; the seeds and
// the crowds leave out the steps of two processors inside one kernel; and no world has two processors
// with frames of one node. etcd is a store that is linearizable by itself, and its keeper a model of
// what pkg/arbiter/etcd promises: that it keeps that is tested there. Of a service's start the last
// question whether it may, and the birth of its process, are one instant; a guard is not killed.
// Of mirrors there is who writes where, at which generation; whose data is whole, and what is copied before a
// planned move, is left to the random histories of pkg/mirror and to make returns.
package sim
