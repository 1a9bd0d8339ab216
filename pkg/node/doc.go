// SPDX-License-Identifier: Apache-2.0

// Package node is a node's daemon: one inbox, one loop that steps the core, and
// the effects that carry out what it decides. It owns no policy: what to do is
// the core's, how to do it the packages' below. Only the loop touches the core.
//
// The loop's progress earns the supervisor's lease, so the loop waits for nobody: what
// it decides is done in lanes, what must be durable first comes back as an event, and
// neither a disk that hangs under the journal nor a log that nobody reads holds it up.
package node
