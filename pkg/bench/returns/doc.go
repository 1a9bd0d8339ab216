// SPDX-License-Identifier: Apache-2.0

// Package returns breaks the return of a node and its services, over and over, in the lab (pkg/lab): the
// home of an identity with mirrored data fails, the other node serves and writes, the home comes back, its
// services are given back, and at a drawn moment of that something else fails.
//
// The service writes as long as it runs. Each of its starts and stops is written down in a directory that
// both nodes see, with the data that it found or left there. That is the judge:
//
//   - Handed over, it starts with exactly what its stop on the other node has left.
//   - Taken over from a node that failed, it starts with a complete copy of that owner's data: with what it had
//     when it started there, or has written there since. What was written after the last copy is lost by the
//     nature of an asynchronous mirror.
//   - Nowhere does it start from older data, such as a returning node has before its peer's data is back.
//
// In the end of each round there must be one owner, on which the service runs, and the same data on both nodes.
//
// The package uses the lab and the control API, and must not know how mirrors or the datapath work.
package returns
