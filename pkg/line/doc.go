// SPDX-License-Identifier: Apache-2.0

// Package line is how the nodes' daemons talk to each other: by TLS 1.3 on the crossover's addresses, else on
// the lan's; both ends prove that they hold the cluster's secret, and each is known by a key of its own.
//
// It owns the port, the keys, the way that a connection takes, and the form of a message. What comes before
// the other end has proved itself is bounded in size, time and number.
//
// It must not know what is said. What a connection is for is a protocol by name, on which both ends agree
// while they prove themselves; a node that does not know the name refuses it.
package line
