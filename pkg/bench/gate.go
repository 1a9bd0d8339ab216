// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/wire"
)

// Gate is what the gate adds to a packet, with so many addresses in the map: the packet of an
// identity beside one that is nobody's.
type Gate struct {
	Family       string  `json:"family"`
	Addresses    int     `json:"addresses"`
	NotOursInNS  float64 `json:"not_ours_in_ns"` // the programs with a packet that is nobody's
	NotOursOutNS float64 `json:"not_ours_out_ns"`
	ByMACNS      float64 `json:"by_mac_ns"`     // in, to a virtual MAC: as clients send
	ByAddressNS  float64 `json:"by_address_ns"` // in, to a virtual address with another MAC
	OutNS        float64 `json:"out_ns"`
	InPlaceNS    float64 `json:"in_place_ns"` // in, by address, all addresses by turns, in the kernel's own time
}

const (
	ipv4 = "IPv4"
	ipv6 = "IPv6"
)

// manyAddresses are n of a family, and of what is nobody's.
func manyAddresses(family string, n int) (list []netip.Addr) {
	for i := range n {
		list = append(list, numbered(family, 21, i))
	}
	return list
}

// numbered is an address of one of 256 networks.
func numbered(family string, network byte, i int) netip.Addr {
	if family == ipv4 {
		return netip.AddrFrom4([4]byte{10, network, byte(i >> 8), byte(i)})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 5: network, 14: byte(i >> 8), 15: byte(i)})
}

func gate(ctx context.Context, s size, res *Result) error {
	for _, family := range []string{ipv4, ipv6} {
		for _, n := range s.tables {
			g, err := gateOf(ctx, s, family, n)
			if err != nil {
				return fmt.Errorf("%d addresses of %s: %w", n, family, err)
			}
			res.Gates = append(res.Gates, g)
		}
	}
	return nil
}

func gateOf(ctx context.Context, s size, family string, n int) (g Gate, err error) {
	r, err := newRig(atRest(manyAddresses(family, n)))
	if err != nil {
		return g, err
	}
	defer r.close()
	if err := r.greet(ctx); err != nil { // who is not told that the peer counts him may not serve
		return g, err
	}
	g = Gate{Family: family, Addresses: n}
	if err := r.inAnswering(func() error { return r.gateRepeated(s, &g) }); err != nil {
		return g, err
	}
	g.InPlaceNS, err = r.gateInPlace(s, g)
	return g, err
}

func (r *rig) gateRepeated(s size, g *Gate) error {
	ours, nobodys := numbered(g.Family, 21, g.Addresses/2), numbered(g.Family, 22, 0)
	open := func(kind string) loader.Reason { return passed(kind, "gate_open") }
	var byMAC, byAddress, out float64
	for _, c := range []struct {
		to      *float64
		program loader.Program
		frame   []byte
		exit    loader.Reason
	}{
		{&g.NotOursInNS, r.dp.In(), packet(askMAC, nodeMAC, nobodys, nobodys), passed("other", "not_ours")},
		{&g.NotOursOutNS, r.dp.Out(), packet(nodeMAC, askMAC, nobodys, nobodys), passed("other", "not_ours")},
		{&byMAC, r.dp.In(), packet(askMAC, vipMAC, nobodys, ours), open("in")},
		{&byAddress, r.dp.In(), packet(askMAC, nodeMAC, nobodys, ours), open("in")},
		{&out, r.dp.Out(), packet(vipMAC, askMAC, ours, nobodys), open("out")},
	} {
		ns, err := r.repeated(s, c.program, r.answer["lan"], c.frame, c.exit)
		if err != nil {
			return err
		}
		*c.to = ns
	}
	g.ByMACNS, g.ByAddressNS, g.OutNS = byMAC-g.NotOursInNS, byAddress-g.NotOursInNS, out-g.NotOursOutNS
	return nil
}

// gateInPlace has real frames go through the NIC, to one address after the other: each finds
// the map as cold as the kernel's other work has left it.
func (r *rig) gateInPlace(s size, g Gate) (ns float64, err error) {
	counting, err := loader.CountRuns()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	var each [2]float64
	for i, network := range []byte{21, 22} {
		next := 0
		send := func(n int) {
			for range n {
				next = (next + 4999) % g.Addresses // a step that shares no factor with the number: in no order
				r.sockets["lan"].send(packet(askMAC, wire.MAC(nodeMAC), numbered(g.Family, 23, 0), numbered(g.Family, network, next)))
			}
		}
		if each[i], err = timed(r.dp.In(), send, max(s.batches*s.perBatch/5/tries, 1)); err != nil {
			return 0, err
		}
	}
	return each[0] - each[1], nil
}

func printGates(w io.Writer, r Result) {
	fmt.Fprintf(w, "\nthe gate\tnot ours in, out\tgate in, by MAC\tby address\tout\tin, all by turns\n")
	for _, g := range r.Gates {
		fmt.Fprintf(w, "%s, %d addresses\t%.0f, %.0f ns\t%+.0f ns\t%+.0f ns\t%+.0f ns\t%+.0f ns\n",
			g.Family, g.Addresses, g.NotOursInNS, g.NotOursOutNS, g.ByMACNS, g.ByAddressNS, g.OutNS, g.InPlaceNS)
	}
}
