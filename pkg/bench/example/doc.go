// SPDX-License-Identifier: Apache-2.0

// Package example puts a folder of testdata/examples onto the lab's nodes as an administrator would: over what
// the distribution has, on a disk of each node's own. A program of the node runs in a mount and IPC namespace
// with that disk's /etc, /run, /dev and whatever else is asked for, beside the node's network namespace.
//
// Its tests start each example with the real programs, have real clients use it, cut the owner's power,
// and look whether the other node serves what was there. The article's cluster is in pkg/bench/article.
//
// The package uses the lab and the distribution's programs, and must not know how the datapath works.
package example
