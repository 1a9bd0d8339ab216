// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/xdpha/xdpha/pkg/wire"
)

// The cross paths' numbers, by the NIC of the node with the lower number.
const (
	lowerLan = iota + 3
	lowerSpare
	paths
)

// ends are a path's NICs: of the node with the lower number of both, and of the other.
func ends(path int) [2]int {
	return [paths][2]int{{crossover, crossover}, {lan, lan}, {spare, spare}, lowerLan: {lan, spare}, lowerSpare: {spare, lan}}[path]
}

// probeOn is a probe of the peer (node 1) to node 0 on a path, as it comes in a quiet hour.
func probeOn(path int) wire.Frame {
	to, from := ends(path)[0], ends(path)[1]
	return wire.Frame{
		SrcMAC: nodeMAC[1][from], DstMAC: nodeMAC[0][to], SrcIP: nodeIP[1][from], DstIP: nodeIP[0][to],
		Sender: 1, Link: uint8(path), KeyID: signing.ID, ClusterID: cluster, AgeUS: 4321,
		BootID: peerBoot, Nonce: peerNonce, Echo: selfNonce, Seq: 44, SentNS: 55, Flags: 66, Digest: digest,
		Words: []uint64{5, owner | 5},
	}
}

// replyOn is the peer's reply to node 0's probe 99 on a path.
func replyOn(path int) wire.Frame {
	f := probeOn(path)
	f.Direction, f.Seq, f.SentNS, f.GrantNS = wire.Reply, 99, 66, 77
	return f
}

// selfSays is what node 0 says of itself in the quiet hour.
func selfSays() wire.Frame {
	return wire.Frame{
		KeyID: signing.ID, BootID: selfBoot, Nonce: selfNonce, Flags: 0x5b | twoKeys, Digest: digest, Words: []uint64{owner | 5, 5},
	}
}

func with(f wire.Frame, change func(*wire.Frame)) wire.Frame {
	f.Words = slices.Clone(f.Words)
	change(&f)
	return f
}

func signed(t *testing.T, f wire.Frame, k wire.Key) []byte {
	t.Helper()
	b, err := f.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// spoiled is a signed frame with one byte changed and signed again.
func spoiled(t *testing.T, f wire.Frame, at int, v byte) []byte {
	t.Helper()
	b := signed(t, f, signing)
	b[at] = v
	if err := wire.Seal(b, signing); err != nil {
		t.Fatal(err)
	}
	return b
}

func eth(to, from wire.MAC, ethertype uint16, payload []byte) []byte {
	b := append(append(make([]byte, 0, 14+len(payload)), to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(b, ethertype), payload...)
}

// arp is an ARP frame in its 42 bytes (RFC 826).
func arp(to, from wire.MAC, operation byte, senderMAC wire.MAC, sender netip.Addr, targetMAC wire.MAC, target netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	p = append(append(p, senderMAC[:]...), sender.AsSlice()...)
	p = append(append(p, targetMAC[:]...), target.AsSlice()...)
	return eth(to, from, 0x0806, p)
}

func whoHas(target, tell netip.Addr, from wire.MAC) []byte {
	return arp(wire.Broadcast, from, 1, from, tell, wire.MAC{}, target)
}

func isAt(ip netip.Addr, mac wire.MAC, to wire.MAC, asker netip.Addr) []byte {
	return arp(to, mac, 2, mac, ip, to, asker)
}

func announcement(ip netip.Addr, mac wire.MAC, operation byte) []byte {
	return arp(wire.Broadcast, mac, operation, mac, ip, wire.MAC{}, ip)
}

// ping is an ICMP or ICMPv6 echo request.
func ping(to, from wire.MAC, src, dst netip.Addr) []byte {
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1, 'x', 'd', 'p', 'h', 'a', 0, 0, 0, 0, 0, 0, 0}
	if src.Is6() {
		echo[0] = 128
		p := append([]byte{0x60, 0, 0, 0, 0, byte(len(echo)), 58, 64}, src.AsSlice()...)
		return eth(to, from, 0x86dd, append(append(p, dst.AsSlice()...), echo...))
	}
	p := append([]byte{0x45, 0, 0, byte(20 + len(echo)), 0, 0, 0, 0, 64, 1, 0, 0}, src.AsSlice()...)
	return eth(to, from, 0x0800, append(append(p, dst.AsSlice()...), echo...))
}

// tagged is a frame in a VLAN.
func tagged(b []byte) []byte { return inVLAN(b, 7) }

// inVLAN puts an IEEE 802.1Q tag into a frame; VLAN 0 is none, the tag gives a priority only.
func inVLAN(b []byte, vlan byte) []byte {
	return slices.Insert(slices.Clone(b), 12, 0x81, 0x00, 0xe0, vlan)
}

// ieee802 is an ARP frame with another type of hardware, which Linux heeds on Ethernet.
func ieee802(b []byte) []byte {
	b = slices.Clone(b)
	b[15] = 6
	return b
}
