// SPDX-License-Identifier: Apache-2.0

// Package node is a node's daemon: one inbox, one loop that steps the core, and
// the effects that carry out what it decides. It owns no policy: what to do is
// the core's, how to do it the packages' below. Only the loop touches the core.
package node
