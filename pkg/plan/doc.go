// SPDX-License-Identifier: Apache-2.0

// Package plan splits identities between nodes by what their services use, and tells
// whether one node can carry all.
//
// It owns the arithmetic only. It must not know where the figures come from, the
// configuration, or the daemon: it is given uses, capacities and today's homes.
//
// An identity moves as a whole, so it is what is split: its exclusive services together.
// A concurrent service runs on every node and weighs on each. A node's load is the
// largest share of any of its resources that is in use; the best split is the one whose
// most loaded node is loaded least, of several the one that moves fewest identities.
package plan
