// SPDX-License-Identifier: Apache-2.0

// Package ctl is the command line: what users type, what they read, and the
// exit status that scripts rely on.
//
// It owns flags, help texts, and the rendering of what the other packages
// report; renderers are pure functions from values to text. It must not decide
// anything about the cluster: it asks a daemon over its control socket, checks a
// configuration, or starts a daemon or a lab.
package ctl
