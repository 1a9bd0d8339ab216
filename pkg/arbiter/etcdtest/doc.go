// SPDX-License-Identifier: Apache-2.0

// Package etcdtest runs an etcd cluster of three members for tests, and wires to it that can be cut.
//
// It owns the members, their directories and their ports. It must not be imported by anything but
// tests: the daemon has the client alone.
package etcdtest
