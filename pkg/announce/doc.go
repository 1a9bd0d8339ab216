// SPDX-License-Identifier: Apache-2.0

// Package announce tells the LAN where an identity's virtual MAC is now:
// gratuitous ARP and unsolicited neighbour advertisements, from the virtual
// MAC, through the identity's own device.
//
// The kernel's own announcement (the pacer's next tick) comes first; this one
// repeats it, because a frame can be lost and a switch can be slow to wake. As
// the MAC moves with the addresses, clients' caches stay right and one frame
// moves the switches' entry for all of them; the frames for the further
// addresses help only those who learned a wrong MAC elsewhere.
//
// It must not know why an identity came here, nor when it leaves: who
// announces, stops the announcement when ownership is lost. Frames pass the
// gate on their way out like all others, so a late one does no harm.
//
// mdlayher/arp builds the packets, but its Client is not used: both Dial and
// New refuse an interface without an IPv4 address, and the device has none until its addresses have
// been added, and Dial leaves its socket open then. The socket is mdlayher/packet's,
// opened ahead with protocol 0, so that it receives nothing.
package announce
