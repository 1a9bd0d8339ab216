// SPDX-License-Identifier: Apache-2.0

// Package peers measures xdpha and keepalived side by side: the same two nodes,
// switches and client (pkg/lab), the same faults, one contender after the other
// and by turns in one run, so that what else the machine does hits all alike.
//
// What makes it fair:
//
//   - The client pings through its own kernel and so follows its ARP table as any
//     program does. One client measures all contenders, whether or not the MAC of
//     the address moves.
//   - keepalived gets VRRPv3 with its shortest interval (10 ms), the priorities that
//     make its skew shortest, real-time scheduling above the client's, locked memory,
//     and no detailed log. It runs with and without a virtual MAC, and also with a
//     deadline of two adverts, which is shorter than the RFC's; a deadline of one flaps
//     at rest. BFD would not help: a backup that is told of its peer's death still waits
//     for its three adverts.
//   - It gets one address; xdpha has two identities, services and their addresses.
//   - A fault comes at a random moment between two heartbeats.
//   - Every contender begins each turn in a new lab: nothing of another's is left.
//
// Only this package knows keepalived. It uses the lab and the control API, and must
// not know how either contender works inside.
package peers
