// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// flood sends a frame out of a NIC of a namespace for a time, as fast as one thread can. It returns
// how many left, and how many of those the NIC then lost because its ring was full.
func (c *cluster) flood(t *testing.T, p lab.Port, frame []byte, d time.Duration) (sent, lost uint64) {
	t.Helper()
	must(t, c.onWire(p.Name(), p.Switch, func(send func([]byte) error) error {
		nic, err := netlink.LinkByName(p.Name())
		if err != nil {
			return err
		}
		for end := time.Now().Add(d); time.Now().Before(end); {
			switch err := send(frame); {
			case err == nil:
				sent++
			case !errors.Is(err, unix.ENOBUFS):
				return err
			}
		}
		after, err := netlink.LinkByName(p.Name())
		if err == nil {
			lost = after.Attrs().Statistics.TxDropped - nic.Attrs().Statistics.TxDropped
		}
		return err
	}))
	return sent, lost
}

// neighbour is an ICMPv6 message of neighbour discovery with the MAC of its sender in an option.
func neighbour(kind, flags, option byte, dstMAC, src wire.MAC, from, to, target netip.Addr) []byte {
	m := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	m = append(append(m, option, 1), src[:]...)
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(m)), 0, 0, 0, unix.IPPROTO_ICMPV6}, m)
	binary.BigEndian.PutUint16(m[2:], sum(pseudo))
	b := append(append(append([]byte{}, dstMAC[:]...), src[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(m)), unix.IPPROTO_ICMPV6, 255)
	return append(append(append(b, from.AsSlice()...), to.AsSlice()...), m...)
}

func solicitation(src wire.MAC, from, target netip.Addr) []byte {
	group := mustAddr("ff02::1:ff00:0").As16()
	copy(group[13:], target.AsSlice()[13:])
	return neighbour(135, 0, 1, wire.MAC{0x33, 0x33, 0xff, group[13], group[14], group[15]}, src, from, netip.AddrFrom16(group), target)
}

func advertisement(src wire.MAC, target netip.Addr) []byte {
	return neighbour(136, 0x20, 2, wire.MAC{0x33, 0x33, 0, 0, 0, 1}, src, target, mustAddr("ff02::1"), target)
}

// gratuitous is an ARP packet in which a host says that an address is its own.
func gratuitous(operation byte, src wire.MAC, addr netip.Addr) []byte {
	b := arpRequest(wire.Broadcast, src, addr, addr)
	b[21] = operation
	return b
}

// TestAFloodOfForgedFramesMovesNobody floods each link in turn with whatever can be forged without a key.
func TestAFloodOfForgedFramesMovesNobody(t *testing.T) {
	c := running(t, lab.Scene{})
	forger, me := wire.MAC{0x02, 0xba, 0xdb, 0xad, 0, 2}, mustAddr("192.0.2.99")
	keys := c.keys(t)
	since, gen := c.lastEvents(t), c.generation(t, lab.Serv1, "files")
	roles := [loader.Links]lab.Role{loader.Crossover: lab.Crossover, loader.Lan: lab.LAN, loader.Spare: lab.Spare}
	for link, name := range loader.LinkNames {
		p, err := lab.FindPort(lab.Serv1, roles[link])
		must(t, err)
		genuine := c.heard(t, p, wire.Probe, keys)
		copy(genuine[6:], forger[:]) // another's MAC would mislead the switch
		forged := func(change func(b []byte)) []byte {
			b := slices.Clone(genuine)
			change(b)
			return b
		}
		here := func(lan, elsewhere string) string { // files is carried by the lan NIC
			if link == loader.Lan {
				return lan
			}
			return elsewhere
		}
		for _, kind := range []struct {
			name, counted string
			frame         []byte
		}{
			{"heartbeats with a wrong tag", "heartbeat dropped bad_tag", forged(func(b []byte) { b[len(b)-1] ^= 1 })},
			{"heartbeats of another key", "heartbeat dropped unknown_key", forged(func(b []byte) { b[wire.OffsetKeyID] ^= 0x5a })},
			{"heartbeats that were heard before", "heartbeat dropped replayed", genuine},
			{"ARP questions", here("arp answered ok", "arp dropped wrong_nic"), arpRequest(wire.Broadcast, forger, me, files.Addr)},
			{"questions of neighbour discovery", here("nd answered ok", "nd dropped wrong_nic"), solicitation(forger, mustAddr("2001:db8::99"), files.Addr6)},
			{"noise to the virtual MAC", here("in pass gate_open", "in dropped wrong_nic"), append(append(append([]byte{}, files.MAC[:]...), forger[:]...), make([]byte, 60)...)},
		} {
			t.Run(kind.name+" on "+name, func(t *testing.T) {
				labels := []string{`link="` + name + `"`}
				for i, v := range strings.Fields(kind.counted) {
					labels = append(labels, []string{"kind", "verdict", "reason"}[i]+`="`+v+`"`)
				}
				was := map[string]beats{lab.Serv1: c.beats(t, lab.Serv1), lab.Serv2: c.beats(t, lab.Serv2)}
				counted := frames(c.mustMetrics(t, lab.Serv1), labels...)
				sent, lost := c.flood(t, p, kind.frame, 300*time.Millisecond)
				await(t, "all are counted as "+kind.counted, func() error {
					m, err := c.metrics(lab.Serv1)
					if err != nil {
						return err
					}
					// Each frame has one reason: what is counted as dropped was not answered.
					if n := frames(m, labels...) - counted; n < float64(sent)-float64(lost) || n > float64(sent)+10 {
						return fmt.Errorf("%v were counted, %d sent, %d of them lost in the NIC", n, sent, lost)
					}
					return nil
				})
				c.awaitBeats(t, lab.Serv1, 10) // a machine that is busy sends few in the flood
				// On the flooded link the NIC's ring may be full; lan and spare are one network.
				others := []int{loader.Crossover}
				if link == loader.Crossover {
					others = []int{loader.Lan, loader.Spare}
				}
				for node, b := range was {
					c.noneMissed(t, node, b, others...)
				}
				t.Logf("%d sent, %d lost in the NIC", sent, lost)
			})
		}
	}
	c.nothingMoved(t, since)
	must(t, c.settled(atHome))
	if now := c.generation(t, lab.Serv1, "files"); now != gen {
		t.Errorf("the generation was %d and is %d", gen, now)
	}
}

// TestAForeignClaimOfAnAddressIsRepairedAtOnce has a host of the clients' network say that an
// identity's address is its own, while the lan NIC and while the spare NIC carries the identity.
func TestAForeignClaimOfAnAddressIsRepairedAtOnce(t *testing.T) {
	c := running(t, lab.Scene{})
	offender := c.mac(t, lab.Hosts1, "eth0")
	for owner, carrier := range map[string]string{lab.Serv1: "lan", lab.Serv2: "spare"} {
		t.Run("carried by the "+carrier+" NIC", func(t *testing.T) {
			c.handOver(t, lab.Serv1, "files", owner)
			await(t, owner+" owns it", func() error {
				id, err := identity(c.mustStatus(t, owner), "files")
				if err == nil && id.Owner != owner {
					err = fmt.Errorf("%s does", id.Owner)
				}
				return err
			})
			for _, claim := range []struct {
				name  string
				addr  netip.Addr
				frame []byte
				wish  bool // the clients heed it not, so that there is nothing to repair
			}{
				{"a gratuitous ARP request", files.Addr, gratuitous(1, offender, files.Addr), false},
				{"a gratuitous ARP answer", files.Addr, gratuitous(2, offender, files.Addr), false},
				{"an ARP probe", files.Addr, arpRequest(wire.Broadcast, offender, mustAddr("0.0.0.0"), files.Addr), true},
				{"an unsolicited neighbour advertisement", files.Addr6, advertisement(offender, files.Addr6), false},
			} {
				if claim.addr.Is6() && !lab.HasIPv6() {
					t.Log("no IPv6 on this kernel:", claim.name)
					continue
				}
				t.Run(claim.name, func(t *testing.T) { c.claimIsRepaired(t, owner, offender, claim.addr, claim.frame, claim.wish) })
			}
			t.Run("a flood of claims", func(t *testing.T) { c.claimsMakeNoStorm(t, owner, offender) })
		})
	}
}

func (c *cluster) conflicts(t *testing.T, node string) float64 {
	t.Helper()
	return c.mustMetrics(t, node)[`xdpha_address_conflicts_total{identity="files"}`]
}

// says tells whether a frame says that an address is at a MAC, to all.
func says(f lab.Frame, addr netip.Addr, mac wire.MAC) bool {
	if f.ARP != nil {
		return f.ARP.SenderIP == addr && f.ARP.TargetIP == addr && bytes.Equal(f.ARP.SenderMAC, mac[:])
	}
	return addr.Is6() && len(f.Raw) == 86 && f.Raw[54] == 136 && netip.AddrFrom16([16]byte(f.Raw[62:])) == addr && bytes.Equal(f.Raw[80:86], mac[:])
}

func (c *cluster) claimIsRepaired(t *testing.T, owner string, offender wire.MAC, addr netip.Addr, frame []byte, wish bool) {
	t.Helper()
	await(t, "the client has it at the identity's MAC before the claim", func() error {
		mac, err := c.Resolve(t.Context(), addr)
		if err == nil && mac != files.MAC {
			err = fmt.Errorf("it has it at %x", mac)
		}
		return err
	})
	since, was := c.lastEvent(t, owner), c.conflicts(t, owner)
	capture, err := c.Capture(lab.Client, "eth0")
	must(t, err)
	defer func() { _, _ = capture.Stop() }()
	must(t, c.inject("eth0", lab.Hosts1, frame))
	if !wish {
		await(t, "the owner has the last word", func() error {
			all, _ := capture.Frames()
			claimed := slices.IndexFunc(all, func(f lab.Frame) bool { return says(f, addr, offender) })
			if claimed < 0 {
				return errors.New("the client has not heard the claim")
			}
			if !slices.ContainsFunc(all[claimed:], func(f lab.Frame) bool { return says(f, addr, files.MAC) }) {
				return errors.New("it was not denied")
			}
			return nil
		})
	}
	await(t, "the client has it at the identity's MAC", func() error {
		if e, err := c.ARP(addr); err != nil || !bytes.Equal(e.MAC, files.MAC[:]) {
			return fmt.Errorf("it has it at %v (%v)", e.MAC, err)
		}
		return nil
	})
	await(t, "it is counted", func() error {
		if n := c.conflicts(t, owner) - was; n < 1 || n > 2 { // the other NIC hears it too
			return fmt.Errorf("%v times", n)
		}
		return nil
	})
	await(t, "it is told, if not so soon after another one", func() error {
		must(t, c.inject("eth0", lab.Hosts1, frame))
		return c.hasEvent(owner, since, "address-conflict", fmt.Sprintf("%v claims %v", net.HardwareAddr(offender[:]), addr))
	})
}

// claimsMakeNoStorm: whoever goes on and on claiming is denied a number of times in a while, and at the end.
func (c *cluster) claimsMakeNoStorm(t *testing.T, owner string, offender wire.MAC) {
	t.Helper()
	const claims, perSecond = 3000, 2 * 16 * 10 // in both forms
	was := c.conflicts(t, owner)
	capture, err := c.Capture(lab.Client, "eth0")
	must(t, err)
	defer func() { _, _ = capture.Stop() }()
	start := time.Now()
	must(t, c.inject("eth0", lab.Hosts1, slices.Repeat([][]byte{gratuitous(2, offender, files.Addr)}, claims)...))
	var denied int
	last := func() (claimed, answered int) {
		all, _ := capture.Frames()
		denied = 0
		for i, f := range all {
			switch {
			case says(f, files.Addr, offender):
				claimed = i
			case says(f, files.Addr, files.MAC):
				denied, answered = denied+1, i
			}
		}
		return claimed, answered
	}
	await(t, "the owner has the last word", func() error {
		claimed, answered := last()
		if claimed == 0 || answered < claimed {
			return fmt.Errorf("a claim came at %d, the last denial at %d", claimed, answered)
		}
		if e, err := c.ARP(files.Addr); err != nil || !bytes.Equal(e.MAC, files.MAC[:]) {
			return fmt.Errorf("the client has it at %v (%v)", e.MAC, err)
		}
		return nil
	})
	took := time.Since(start)
	if most := int(took.Seconds()*perSecond) + 2*perSecond/10; denied > most {
		t.Errorf("%d announcements in %v, at most %d are right", denied, took, most)
	}
	if n := c.conflicts(t, owner) - was; n < claims/2 { // what a NIC's full ring lost is not there to count
		t.Errorf("%v claims were counted of %d", n, claims)
	}
	t.Logf("%d claims, %d announcements in %v", claims, denied, took)
}
