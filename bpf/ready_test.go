// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"testing"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// segment is a TCP segment from a client's port 40000 to a port of an address.
func segment(to wire.MAC, src, dst netip.Addr, port uint16, flags byte, options int) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], 40000)
	binary.BigEndian.PutUint16(tcp[2:], port)
	tcp[12], tcp[13] = 5<<4, flags
	if dst.Is6() {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
		return eth(to, client, 0x86dd, append(ip, tcp...))
	}
	ip := make([]byte, 20+options)
	ip[0], ip[8], ip[9] = 0x40|byte(len(ip)/4), 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	return eth(to, client, 0x0800, append(ip, tcp...))
}

// A port's new connections wait for its service, at the generation at which files is owned: the row's
// readiness is that of port 445.
func TestNewConnectionsWaitForTheService(t *testing.T) {
	const syn, ack, rst = 0x02, 0x10, 0x04
	n := newBench(t).newNode(t, 0)
	gen := n.atWork().words[0] & (1<<48 - 1)
	begin := segment(filesMAC, clientIP, filesIP, 445, syn, 0)
	fragment := segment(filesMAC, clientIP, filesIP, 445, syn, 0)
	fragment[14+7] = 1 // what looks like a TCP header here is somewhere in the middle
	short := begin[:14+20+13]
	for name, row := range map[string]struct {
		frame   []byte
		ready   uint64
		without bool // files has no such ports
		early   bool
	}{
		"not ready":                                   {frame: begin, early: true},
		"ready at an earlier generation":              {frame: begin, ready: gen - 2, early: true},
		"ready":                                       {frame: begin, ready: gen},
		"by IPv6":                                     {frame: segment(filesMAC, client6, filesIP6, 445, syn, 0), early: true},
		"by IPv6, ready":                              {frame: segment(filesMAC, client6, filesIP6, 445, syn, 0), ready: gen},
		"behind options of IPv4":                      {frame: segment(filesMAC, clientIP, filesIP, 445, syn, 8), early: true},
		"at the host's MAC":                           {frame: segment(nodeMAC[0][lan], clientIP, filesIP, 445, syn, 0), early: true},
		"with a window's congestion bits":             {frame: segment(filesMAC, clientIP, filesIP, 445, syn|0xc0, 0), early: true},
		"to another port":                             {frame: segment(filesMAC, clientIP, filesIP, 446, syn, 0)},
		"of a connection that is there":               {frame: segment(filesMAC, clientIP, filesIP, 445, ack, 0)},
		"an answer to a connection of ours":           {frame: segment(filesMAC, clientIP, filesIP, 445, syn|ack, 0)},
		"the end of a connection":                     {frame: segment(filesMAC, clientIP, filesIP, 445, rst, 0)},
		"not the first fragment":                      {frame: fragment},
		"a header that ends before its flags":         {frame: short},
		"of an identity without ports, whatever says": {frame: begin, without: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.atWork()
			v.config.WithPorts = 1
			if row.without {
				v.config.WithPorts = 0
			}
			n.put(v)
			n.must(n.objs.Ports.Put(bpf.XdphaXdPort{Identity: 0, PortBe: bits.ReverseBytes16(445)}, row.ready))
			before := n.counters()
			verdict, _ := n.receive(lan, row.frame)
			want, verdictWanted := "lan in-open", uint32(xdpPass)
			if row.early {
				want, verdictWanted = "lan in-not-ready", xdpDrop
			}
			if verdict != verdictWanted {
				t.Errorf("verdict %d, want %d", verdict, verdictWanted)
			}
			if moved := n.moved(before); moved != want {
				t.Errorf("counted %q, want %q", moved, want)
			}
		})
	}
}
