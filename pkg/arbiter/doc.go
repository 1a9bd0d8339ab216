// SPDX-License-Identifier: Apache-2.0

// Package arbiter asks those outside of the pair who decide while the peer is silent: a fence
// agent, by the ClusterLabs fence agent API, that switches the peer off and says when it is off.
// (Listed hosts are asked by the datapath, in the kernel.)
//
// It owns how an agent is run: its parameters on its standard input, its exit status, its time
// limit, and that a secret stands nowhere else than in its file and on that input. It must not
// know when to switch anything off, what follows from it, or who owns what.
package arbiter
