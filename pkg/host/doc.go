// SPDX-License-Identifier: Apache-2.0

// Package host puts an identity's virtual MAC, addresses, rules and routes on
// this node, over netlink, and watches the links it stands on.
//
// It owns what it makes and nothing else: devices that bear its mark (the
// ifalias "xdpha:<cluster>:<node>"), rules and routes of protocol [Protocol].
// It never changes a sysctl, an address or a route of the host's own; its
// per-device sysctls vanish with its devices. After a kill -9 it finds its
// leftovers by the same marks, adopts them ([Host.Prepare]) or clears them away
// ([Host.RemoveAll]).
//
// It must not know who owns an identity, or why: it is told. The gate in the
// carrier NIC's XDP ingress and tc egress should be in place before Prepare: an
// IPv6 stack announces its multicast groups (MLD, from the virtual MAC) when
// a device comes up, and only the gate keeps a standby quiet then.
//
// A Host works in the network namespace of the thread that called [New]: its
// sockets stay there. Sysctls and subscriptions are reached through the calling
// thread, so calls from a thread in another namespace are refused.
//
// systemd-networkd, where it runs, must be told ManageForeignRoutingPolicyRules=no
// and ManageForeignRoutes=no, or it removes the rules when it restarts;
// [Host.Verify] notices, and Prepare puts them back.
package host
