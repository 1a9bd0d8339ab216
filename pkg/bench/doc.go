// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the datapath costs and what it stands, section by section:
//
//   - answers: the round trip of a heartbeat, an ARP request and a neighbour solicitation
//     beside a bare reflector and the kernel's own answers, in one run and by turns, so that
//     noise hits all alike; and the time that a packet spends in the programs.
//   - gate: what the gate adds to a packet, by how many addresses there are.
//   - flip: from the detector's verdict to the change of owner, which no number of addresses
//     may delay.
//   - flood: two nodes' kernels at work while one of them is flooded with forgeries.
//
// It works in network namespaces of its own, which end with it. It knows frames (pkg/wire),
// the loader and, for the pacer, the host; it must not know the daemon. What a whole node at
// rest costs is measured by pkg/bench/cost.
package bench
