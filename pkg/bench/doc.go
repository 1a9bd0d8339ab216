// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the kernel's answers cost: the round trip of a heartbeat
// and of an ARP request beside a bare reflector and the kernel's own ARP, in one run
// and by turns, so that noise hits all alike; and the time that a packet spends in the
// programs. It works in network namespaces of its own, which end with it.
//
// It knows frames (pkg/wire) and the loader; it must not know the daemon.
package bench
