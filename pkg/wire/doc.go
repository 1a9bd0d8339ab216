// SPDX-License-Identifier: Apache-2.0

// Package wire holds the heartbeat frame as it stands on the cable, from
// Ethernet to tag. It mirrors struct hb_head of bpf/abi.h without using it, so
// that tests of the datapath build their frames independently of it.
//
// The package is pure: it knows no socket, no map, no clock and no state of the
// peer. What is right only in a context (cluster, link, sender, freshness) is
// for the caller to judge.
package wire
