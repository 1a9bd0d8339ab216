// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

func TestFramesAreParsedAsFarAsTheyGo(t *testing.T) {
	arp := "ffffffffffff024c4a0000210806" + "0001080006040001" + "024c4a000021c0000215" + "000000000000c0000215"
	f := ParseFrame(unhex(t, arp))
	vip := netip.MustParseAddr("192.0.2.21")
	if f.ARP == nil || f.ARP.Op != 1 || f.ARP.SenderIP != vip || f.ARP.TargetIP != vip || !sameMAC(f.ARP.SenderMAC, Identities[0].MAC) {
		t.Errorf("ARP: %+v", f.ARP)
	}
	udp := "024c4a000021021ab0000226" + "0800" + "45c0001c00000000ff110000c0000264c0000215" + "303904d200080000"
	f = ParseFrame(unhex(t, udp))
	if f.IPv4 == nil || f.IPv4.Dst != vip || f.IPv4.TTL != 255 || f.IPv4.SrcPort != 12345 || f.IPv4.DstPort != 1234 || len(f.IPv4.Payload) != 8 {
		t.Errorf("UDP: %+v", f.IPv4)
	}
	for _, whole := range []string{arp, udp} {
		b := unhex(t, whole)
		for n := range b {
			if f := ParseFrame(b[:n]); n < 34 && (f.ARP != nil || f.IPv4 != nil) {
				t.Errorf("%d bytes made a packet: %+v", n, f)
			}
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	must(t, err)
	return b
}
