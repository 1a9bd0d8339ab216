// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// onWire lets f, in a namespace, send frames out of a NIC there, as they are.
func (c *cluster) onWire(nic, namespace string, f func(send func(frame []byte) error) error) error {
	return c.Do(namespace, func() error {
		i, err := net.InterfaceByName(nic)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := unix.SockaddrLinklayer{Ifindex: i.Index}
		return f(func(frame []byte) error { return unix.Sendto(fd, frame, 0, &to) })
	})
}

func (c *cluster) inject(nic, namespace string, all ...[]byte) error {
	return c.onWire(nic, namespace, func(send func([]byte) error) error {
		for _, f := range all {
			err := send(f)
			for end := time.Now().Add(patience); errors.Is(err, unix.ENOBUFS) && time.Now().Before(end); { // a queue is full
				runtime.Gosched()
				err = send(f)
			}
			if err != nil {
				return fmt.Errorf("send %d bytes: %w", len(f), err)
			}
		}
		return nil
	})
}

func (c *cluster) mac(t *testing.T, namespace, nic string) (mac wire.MAC) {
	t.Helper()
	must(t, c.Do(namespace, func() error {
		i, err := net.InterfaceByName(nic)
		if err == nil {
			mac = wire.MAC(i.HardwareAddr)
		}
		return err
	}))
	return mac
}

// silent asks for an identity by ARP, broadcast and to its MAC, and by ICMP, and
// returns an error if anybody answers. An own address that is asked last tells
// when the answers would have come.
func (c *cluster) silent(t *testing.T, id lab.Identity, mac wire.MAC) error {
	t.Helper()
	capture, err := c.Capture(lab.Client, "eth0")
	must(t, err)
	self, me := c.mac(t, lab.Client, "eth0"), mustAddr("192.0.2.100")
	must(t, c.inject("eth0", lab.Client,
		arpRequest(wire.Broadcast, self, me, id.Addr), arpRequest(mac, self, me, id.Addr),
		echoRequest(mac, self, me, id.Addr), echoRequest(wire.Broadcast, self, me, id.Addr),
		arpRequest(wire.Broadcast, self, me, mustAddr("192.0.2.11")), arpRequest(wire.Broadcast, self, me, mustAddr("192.0.2.12")),
	))
	limit := time.After(patience)
	for {
		all, more := capture.Frames()
		answered := map[netip.Addr]bool{}
		for _, f := range all {
			if f.Outgoing {
				continue
			}
			if f.ARP != nil && f.ARP.Op == 2 {
				answered[f.ARP.SenderIP] = true
			}
			if f.IPv4 != nil {
				answered[f.IPv4.Src] = true
			}
		}
		if answered[mustAddr("192.0.2.11")] && answered[mustAddr("192.0.2.12")] {
			_, err := capture.Stop()
			must(t, err)
			if answered[id.Addr] {
				return fmt.Errorf("somebody answers for %s", id.Addr)
			}
			return nil
		}
		select {
		case <-more:
		case <-limit:
			t.Fatal("the nodes' own addresses do not answer")
		}
	}
}

func arpRequest(dst, src wire.MAC, from, to netip.Addr) []byte {
	b := append(append(append([]byte{}, dst[:]...), src[:]...), 0x08, 0x06)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, src[:]...), from.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), to.AsSlice()...)
	return append(b, make([]byte, 18)...)
}

func echoRequest(dst, src wire.MAC, from, to netip.Addr) []byte {
	b := append(append(append([]byte{}, dst[:]...), src[:]...), 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, unix.IPPROTO_ICMP, 0, 0}
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	icmp := []byte{8, 0, 0, 0, 0x11, 0x22, 0, 1}
	binary.BigEndian.PutUint16(icmp[2:], sum(icmp))
	return append(append(b, ip...), icmp...)
}

// sum is the checksum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// heard returns a genuine frame of serv2 to serv1 on a cable, as it is on the wire now: of the link itself,
// and none that goes across to another NIC.
func (c *cluster) heard(t *testing.T, p lab.Port, direction wire.Direction, keys []wire.Key) []byte {
	t.Helper()
	capture, err := c.Capture(p.Switch, p.Name())
	must(t, err)
	defer func() {
		_, err := capture.Stop()
		must(t, err)
	}()
	limit := time.After(patience)
	for {
		all, more := capture.Frames()
		for _, raw := range all {
			if f, err := wire.Parse(raw.Raw, keys...); err == nil && f.Sender == 1 && f.Direction == direction && int(f.Link) < loader.Links {
				return raw.Raw
			}
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("no heartbeat on %s", p.Name())
		}
	}
}

// forgery is one frame that must come to nothing.
type forgery struct {
	name, reason string
	frame        []byte
}

// forgeries are bad frames, each made of a genuine one. Whoever makes them has no
// key; those that are signed show what else is checked.
func forgeries(t *testing.T, genuine, reply, elsewhere []byte, key wire.Key, from wire.MAC) []forgery {
	t.Helper()
	wrong := wire.Key{ID: key.ID, K0: key.K0 ^ 1, K1: key.K1}
	// Sent by the forger's own MAC: another's would mislead the switch, which is not what is asked here.
	change := func(sign *wire.Key, f func(b []byte) []byte) []byte {
		b := slices.Clone(genuine)
		copy(b[6:], from[:])
		if f != nil {
			b = f(b)
		}
		if sign != nil {
			must(t, wire.Seal(b, *sign))
		}
		return b
	}
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b[at] = v
			b[24], b[25] = 0, 0
			binary.BigEndian.PutUint16(b[24:], sum(b[14:34]))
			return b
		}
	}
	resize := func(n int) func([]byte) []byte {
		return func(b []byte) []byte {
			if n < 0 {
				b = b[:len(b)+n]
			} else {
				b = append(b, make([]byte, n)...)
			}
			binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
			b[24], b[25] = 0, 0
			binary.BigEndian.PutUint16(b[24:], sum(b[14:34]))
			binary.BigEndian.PutUint16(b[38:], uint16(len(b)-34))
			return b
		}
	}
	// The higher generation closes an owner: what a forger would want most.
	usurp := func(b []byte) []byte {
		binary.LittleEndian.PutUint64(b[wire.OffsetWords:], 1<<63|1<<40)
		return b
	}
	boot := func(b []byte) []byte {
		binary.LittleEndian.PutUint64(b[wire.OffsetMagic+16:], 0x1234567) // another boot
		binary.LittleEndian.PutUint64(b[wire.OffsetMagic+32:], 0x89abcde) // without my nonce
		return usurp(b)
	}
	noise := func(b []byte) []byte {
		r := rand.New(rand.NewPCG(1, 2))
		for i := wire.OffsetMagic; i < len(b); i++ {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	replayedReply := slices.Clone(reply)
	copy(replayedReply[6:], from[:])
	other := slices.Clone(elsewhere)
	copy(other[6:], from[:])
	copy(other, genuine[:6])
	copy(other[14:34], genuine[14:34]) // to the address of this link
	return []forgery{
		{"wrong key", "bad_tag", change(&wrong, usurp)},
		{"changed after signing", "bad_tag", change(nil, usurp)},
		{"a key that nobody has", "unknown_key", change(nil, set(wire.OffsetKeyID, key.ID^0x5a))},
		{"replayed probe", "replayed", change(nil, nil)},
		{"replayed reply", "replayed", replayedReply},
		{"truncated", "truncated", change(nil, resize(-9))},
		{"cut within the head", "truncated", change(nil, resize(-(len(genuine) - wire.OffsetMagic - 20)))},
		{"oversized", "oversized", change(&key, resize(40))},
		{"random", "bad_magic", change(nil, noise)},
		{"bad version", "bad_version", change(&key, set(wire.OffsetVersion, 9))},
		{"through a router", "bad_ttl", change(&key, set(wire.OffsetTTL, 254))},
		{"another cluster", "foreign_cluster", change(&key, set(wire.OffsetCluster, genuine[wire.OffsetCluster]^1))},
		{"from another link", "wrong_link", other},
		{"in my own name", "bad_sender", change(&key, set(wire.OffsetSender, 0))},
		{"of a third node", "bad_sender", change(&key, set(wire.OffsetSender, 2))},
		{"neither probe nor reply", "bad_shape", change(&key, set(wire.OffsetDirection, 7))},
		{"more identities than there can be", "bad_shape", change(&key, set(wire.OffsetIdentities, 200))},
		{"another boot, unproven", "unproven", change(&key, boot)},
	}
}

func forgedFramesChangeNothing(t *testing.T, c *cluster) {
	cfg, err := config.Load(c.ConfigPath(), config.Options{Node: lab.Serv1})
	must(t, err)
	key := wire.Key{ID: cfg.Keys[0].ID, K0: cfg.Keys[0].K0, K1: cfg.Keys[0].K1}
	keys := []wire.Key{key}
	lan, err := lab.FindPort(lab.Serv1, lab.LAN)
	must(t, err)
	cross, err := lab.FindPort(lab.Serv1, lab.Crossover)
	must(t, err)
	forger := wire.MAC{0x02, 0xba, 0xdb, 0xad, 0, 1}
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	for _, side := range []struct {
		name, link, namespace, nic string
		port, other                lab.Port
	}{
		{"the clients' side", "lan", lab.Client, "eth0", lan, cross},
		{"the crossover", "crossover", lab.XC, cross.Name(), cross, lan},
	} {
		bad := forgeries(t, c.heard(t, side.port, wire.Probe, keys), c.heard(t, side.port, wire.Reply, keys), c.heard(t, side.other, wire.Probe, keys), key, forger)
		capture, err := c.Capture(side.port.Switch, side.port.Name())
		must(t, err)
		before := c.mustStatus(t, lab.Serv1)
		for _, f := range bad {
			labels := []string{`link="` + side.link + `"`, `kind="heartbeat"`, `verdict="dropped"`, `reason="` + f.reason + `"`}
			was := frames(c.mustMetrics(t, lab.Serv1), labels...)
			const times = 3
			must(t, c.inject(side.nic, side.namespace, slices.Repeat([][]byte{f.frame}, times)...))
			await(t, fmt.Sprintf("from %s: %s is counted as %s", side.name, f.name, f.reason), func() error {
				m, err := c.metrics(lab.Serv1)
				if err != nil {
					return err
				}
				if n := frames(m, labels...) - was; n != times {
					return fmt.Errorf("%v were counted of %d", n, times)
				}
				return nil
			})
		}
		all, err := capture.Stop()
		must(t, err)
		for _, f := range all {
			if !f.Outgoing && bytes.Equal(f.Dst, forger[:]) {
				t.Errorf("from %s: the forger got an answer: % x", side.name, f.Raw)
			}
		}
		after := c.mustStatus(t, lab.Serv1)
		if before.Peer.State != after.Peer.State || before.Peer.BootID != after.Peer.BootID {
			t.Errorf("from %s: the peer was %+v and is %+v", side.name, before.Peer, after.Peer)
		}
		for i := range before.Identities {
			if b, a := before.Identities[i], after.Identities[i]; b.Owner != a.Owner || b.Generation != a.Generation || b.Gate != a.Gate {
				t.Errorf("from %s: the identity was %+v and is %+v", side.name, b, a)
			}
		}
	}
	must(t, c.settled(atHome))
	w.endLossless()
}
