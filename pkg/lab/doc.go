// SPDX-License-Identifier: Apache-2.0

// Package lab builds the cluster of the article in network namespaces of this
// machine: two nodes or more, with three NICs each, two switches with a trunk, a
// crossover cable, a client and the hosts that the nodes reach for. It breaks
// it, once, in several ways at a time or in a campaign, and it measures what the client saw, by IPv4 and IPv6.
//
//	          sw1 ──────────trunk────────── sw2
//	   ┌────┬──┴──┬───────┐          ┌──────┼────────┐
//	client hosts1 serv1  serv2     serv1  serv2    hosts2
//	              lan    spare     spare  lan
//	              serv1 ══════ xc (crossover) ══════ serv2
//
// With more than two nodes, serv3 is cabled like serv1, serv4 like serv2, and so on; the crossover
// is then a switch of its own.
//
// All of it lives in unnamed namespaces that are bound below /run/xdpha-lab/ID,
// a mount of the lab's own, and what is to be frozen is put into a cgroup of its
// own; nothing else of the machine is touched, and what a crashed run left goes
// when the next lab starts. The package knows nothing of the datapath under test:
// it starts a program, cuts cables, and looks at the wire.
package lab
