// SPDX-License-Identifier: Apache-2.0

// Package outage measures what a client of xdpha sees when something breaks, in the lab
// (pkg/lab) and with the product's own program on both nodes:
//
//   - kinds: every kind of fault, many times, in both directions and by IPv4 and IPv6, in
//     one lab that lives through all of them.
//   - pairs: faults of all kinds, drawn at random and two at a time; in the end there must be one
//     owner of each identity and a served client. Of two owners the switches must confirm the one
//     case that the arbiter reach documents: nobody asks them what was broken.
//   - starved: the survivor's daemon is stopped and every CPU full of real-time programs
//     while the owner dies; with the pacer in the kernel, and in a thread.
//   - addresses: whether an outage grows with the number of addresses.
//   - tickle: when an idle client is connected again after a takeover, with a tickle and without.
//   - ladder: nothing breaks, the machine is only busy, rung by rung: nobody may move.
//
// The client is a thread above everything else on the machine, and its own stalls are
// subtracted. Beside it stands a judge at the switches, who sees two nodes use one MAC even
// if no answer came of it. Both must have seen one owner at most at any time, or the
// measurement has failed. What the daemons told around a round that went wrong is kept.
//
// The package uses the lab, the control API and metrics, and must not know how the datapath works.
package outage
