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
// It must not know who owns an identity, or why: it is told. Prepare sends
// nothing. Adding an IPv6 address makes the kernel report its multicast group
// (MLD, from the virtual MAC): a standby that keeps addresses ahead is silent only
// behind the gate in the carrier NIC's tc egress.
//
// Addresses are put on the device at a takeover ([Host.AddAddresses]), or kept there
// ahead and made the node's own at a takeover by a few routes ([Host.StageAddresses],
// [Host.Own]); stage.go tells how a standby does not reach itself then.
//
// A Host works in the network namespace of the thread that called [New]: its
// sockets stay there. Sysctls and subscriptions are reached through the calling
// thread, so calls from a thread in another namespace are refused.
//
// systemd-networkd, where it runs, must be told ManageForeignRoutingPolicyRules=no
// and ManageForeignRoutes=no, or it removes the rules when it restarts;
// [Host.Verify] notices, and Prepare puts them back.
package host
