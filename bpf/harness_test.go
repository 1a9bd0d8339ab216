// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// The two nodes' NICs are the ends of three veth pairs in a namespace of the test's own.
const (
	crossover = iota
	lan
	spare
	none
)

const (
	xdpDrop    = 1
	xdpPass    = 2
	xdpTX      = 3
	tcUnspec   = 0xffffffff
	tcShot     = 2
	hour       = uint64(time.Hour)
	patience   = 20 * time.Second
	owner      = uint64(1) << 63
	yield      = uint64(1) << 62
	ready      = uint64(1) << 61
	staged     = uint64(1) << 59
	demand     = uint64(1) << 58
	cluster    = 0x1234abcd
	digest     = 0xd1d2d3d4
	selfBoot   = 0xb0
	selfNonce  = 0xa0
	peerBoot   = 0xb1
	peerNonce  = 0xa1
	identities = 2
	twoKeys    = 1 << 14 // of the flags
)

var (
	signing  = wire.Key{ID: 2, K0: 0x1111, K1: 0x2222}
	retiring = wire.Key{ID: 1, K0: 0x3333, K1: 0x4444}

	nodeMAC  = [2][3]wire.MAC{{{2, 0, 0, 0, 1, 1}, {2, 0, 0, 0, 1, 2}, {2, 0, 0, 0, 1, 3}}, {{2, 0, 0, 0, 2, 1}, {2, 0, 0, 0, 2, 2}, {2, 0, 0, 0, 2, 3}}}
	nodeIP   = [2][3]netip.Addr{{addr("192.168.111.1"), addr("192.0.2.11"), addr("192.0.2.11")}, {addr("192.168.111.2"), addr("192.0.2.12"), addr("192.0.2.12")}}
	filesMAC = wire.MAC{2, 0xf1}
	mailMAC  = wire.MAC{2, 0xf2}
	filesIP  = addr("192.0.2.21")
	filesIP6 = addr("2001:db8::21")
	mailIP   = addr("192.0.2.22")
	client   = wire.MAC{2, 0xc}
	clientIP = addr("192.0.2.99")
	client6  = addr("2001:db8::99")
	hosts    = [3]netip.Addr{addr("192.0.2.1"), addr("192.0.2.53"), addr("192.0.2.54")}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
		t.Fatal("root is needed to load programs, and XDPHA_REQUIRE_ROOT=1 forbids to skip")
	}
	t.Skip("root is needed to load programs")
}

// bench is a namespace with the NICs of both nodes. Its work is done on one thread.
type bench struct {
	nic  [2][4]int // by node and link; none is a NIC without a role
	work chan func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	requireRoot(t)
	b := &bench{work: make(chan func())}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
		failed <- b.build()
		for f := range b.work {
			f()
		}
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(b.work) })
	return b
}

func (b *bench) build() error {
	ns, err := netns.New()
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	defer ns.Close()
	for i, name := range []string{"crossover", "lan", "spare", "other"} {
		near, far := name+"0", name+"1"
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth pair %s: %w", name, err)
		}
		for node, end := range []string{near, far} {
			l, err := netlink.LinkByName(end)
			if err != nil {
				return fmt.Errorf("find %s: %w", end, err)
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return fmt.Errorf("set %s up: %w", end, err)
			}
			b.nic[node][i] = l.Attrs().Index
		}
	}
	return nil
}

// in runs f in the namespace.
func (b *bench) in(f func()) {
	done := make(chan struct{})
	b.work <- func() { defer close(done); f() }
	<-done
}

// node is one node's programs and maps.
type node struct {
	*bench
	t      *testing.T
	self   int
	objs   bpf.XdphaObjects
	events *ringbuf.Reader
}

func (b *bench) newNode(t *testing.T, self int) *node {
	t.Helper()
	spec, err := bpf.LoadXdpha()
	if err != nil {
		t.Fatal(err)
	}
	return b.nodeOf(t, self, spec)
}

func (b *bench) nodeOf(t *testing.T, self int, spec *ebpf.CollectionSpec) *node {
	t.Helper()
	n := &node{bench: b, t: t, self: self}
	if err := spec.LoadAndAssign(&n.objs, nil); err != nil {
		if refused := (*ebpf.VerifierError)(nil); errors.As(err, &refused) {
			t.Fatalf("load the programs: %+v", refused)
		}
		t.Fatalf("load the programs: %v", err)
	}
	t.Cleanup(func() { n.objs.Close() })
	var err error
	if n.events, err = ringbuf.NewReader(n.objs.Events); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.events.Close() })
	for ip, id := range map[netip.Addr]uint32{filesIP: 0, filesIP6: 0, mailIP: 1} {
		n.must(n.objs.Addresses.Put(bpf.XdphaXdAddress{Bytes: ip.As16()}, id))
	}
	for mac, id := range map[wire.MAC]uint32{filesMAC: 0, mailMAC: 1} {
		n.must(n.objs.Macs.Put(mac64(mac), id))
	}
	for _, k := range []wire.Key{signing, retiring} {
		n.must(n.objs.Keys.Put(uint32(k.ID), bpf.XdphaXdKey{K0: k.K0, K1: k.K1}))
	}
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// truth is what the maps hold.
type truth struct {
	config  bpf.XdphaXdConfig
	control bpf.XdphaXdControl
	state   bpf.XdphaXdState
	peer    bpf.XdphaXdPeer // see others
	third   bpf.XdphaXdPeer
	words   [identities]uint64
}

// others are the other nodes of three; in a pair there is the first one only.
func others(self int) (peer, third int) {
	return [3]int{1, 0, 0}[self], [3]int{2, 2, 1}[self]
}

// view is what the kernel has written of its node and of the others.
type view struct {
	bpf.XdphaXdState
	Peer, Third bpf.XdphaXdPeer
}

// atWork is a node at work: its peer is up and proven, each owns its own identity.
func (n *node) atWork() *truth {
	v := &truth{config: n.config(), words: [identities]uint64{owner | 5, 5}}
	v.control.LeaseUntilNs, v.control.Keys = now()+hour, inForce(signing, retiring)
	v.control.RenewedNs = now() + hour // in the future: its age is 0 whenever it is asked for
	v.control.Flags = 0x5b
	v.state.BootId, v.state.Seq, v.state.StartedNs = selfBoot, 100, 1
	p := &v.peer
	p.MyNonce, p.Boot, p.Nonce, p.State, p.Digest = selfNonce, peerBoot, peerNonce, 1, digest
	p.Words[0], p.Words[1] = 5, owner|5
	return v
}

// heardStraight makes the peer one that is heard on all links, and was probed crosswise just now.
func (v *truth) heardStraight() {
	for link := range none {
		v.peer.Paths[link].HeardNs = now() + hour // whenever it is looked at
	}
	v.peer.CrossedNs = now() + hour
}

// fresh is a node that has just started and knows nobody.
func (n *node) fresh() *truth {
	v := &truth{config: n.config(), words: [identities]uint64{5, 5}}
	v.control.LeaseUntilNs, v.control.Keys = now()+hour, inForce(signing, retiring)
	v.state.BootId, v.peer.MyNonce = uint64(selfBoot+n.self), uint64(selfNonce+n.self)
	return v
}

// halves are an address as the kernel keeps it.
func halves(a netip.Addr) (first, second uint64) {
	b := a.As16()
	return binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])
}

func addressOf(first, second uint64) netip.Addr {
	b := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, first), second)
	return netip.AddrFrom16([16]byte(b)).Unmap()
}

// inForce is the kernel's word for keys.
func inForce(first, other wire.Key) uint64 { return 1<<16 | uint64(other.ID)<<8 | uint64(first.ID) }

func (n *node) config() bpf.XdphaXdConfig {
	c := bpf.XdphaXdConfig{
		Abi: bpf.XdphaXdAbiXDPHA_ABI, ClusterId: cluster, Digest: digest, Self: uint8(n.self), N_identities: identities, N_nodes: 2,
		SoloKeep: 1, ConfirmProbes: 2, OwnBe: be(nodeIP[n.self][lan]),
		ProbeNs: 1e6, SuspectNs: 3e6, DeadNs: 5e6, HoldNs: 20e6,
	}
	for i := range 3 {
		l := &c.Links[i]
		l.Ifindex, l.Mac = uint32(n.nic[n.self][i]), nodeMAC[n.self][i]
		l.LocalBe, c.RemoteBe[1-n.self][i] = be(nodeIP[n.self][i]), be(nodeIP[1-n.self][i])
	}
	c.Identities[0].Carrier, c.Identities[0].Mac = uint32(n.nic[n.self][lan]), filesMAC
	c.Identities[0].AnnouncedBe, c.Identities[0].Announced6 = be(filesIP), filesIP6.As16()
	c.Identities[1].Carrier, c.Identities[1].Mac = uint32(n.nic[n.self][spare]), mailMAC
	for i, h := range hosts {
		c.ReachBe[i] = be(h)
	}
	return c
}

func (n *node) put(v *truth) {
	n.t.Helper()
	n.must(n.objs.Config.Put(uint32(0), &v.config))
	n.must(n.objs.Control.Put(uint32(0), &v.control))
	n.must(n.objs.State.Put(uint32(0), &v.state))
	peer, third := others(int(v.config.Self))
	n.must(n.objs.Peers.Put(uint32(peer), &v.peer))
	n.must(n.objs.Peers.Put(uint32(third), &v.third))
	for i, w := range v.words {
		n.must(n.objs.Words.Put(uint32(i), w))
	}
}

func (n *node) state() (s view) {
	n.t.Helper()
	n.must(n.objs.State.Lookup(uint32(0), &s.XdphaXdState))
	peer, third := others(n.self)
	n.must(n.objs.Peers.Lookup(uint32(peer), &s.Peer))
	n.must(n.objs.Peers.Lookup(uint32(third), &s.Third))
	return s
}

func (n *node) words() (w [identities]uint64) {
	n.t.Helper()
	for i := range w {
		n.must(n.objs.Words.Lookup(uint32(i), &w[i]))
	}
	return w
}

// poke writes one field of the state while the kernel uses the others.
func (n *node) poke(offset uintptr, v uint64) {
	n.t.Helper()
	m, err := n.objs.State.Memory()
	n.must(err)
	_, err = m.WriteAt(binary.NativeEndian.AppendUint64(nil, v), int64(offset))
	n.must(err)
}

// pokePeer does the same with what is known of another node.
func (n *node) pokePeer(node int, offset uintptr, v uint64) {
	n.t.Helper()
	m, err := n.objs.Peers.Memory()
	n.must(err)
	_, err = m.WriteAt(binary.NativeEndian.AppendUint64(nil, v), int64(node)*int64(unsafe.Sizeof(bpf.XdphaXdPeer{}))+int64(offset))
	n.must(err)
}

// counters returns every counter that is not zero, as "link reason".
func (n *node) counters() map[string]uint64 {
	n.t.Helper()
	links := [...]string{"crossover", "lan", "spare", "-"}
	reasons := uint32(bpf.XdphaXdReasonREASON_COUNT)
	all := map[string]uint64{}
	for slot := range uint32(len(links)) * reasons {
		var perCPU []uint64
		n.must(n.objs.Counters.Lookup(slot, &perCPU))
		for _, c := range perCPU {
			if c != 0 {
				all[links[slot/reasons]+" "+reasonNames[slot%reasons]] += c
			}
		}
	}
	return all
}

// moved tells which counters moved since before, in words.
func (n *node) moved(before map[string]uint64) string {
	n.t.Helper()
	var lines []string
	for name, c := range n.counters() {
		if d := c - before[name]; d == 1 {
			lines = append(lines, name)
		} else if d != 0 {
			lines = append(lines, fmt.Sprintf("%s ×%d", name, d))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

// told drains the events so far.
func (n *node) told() (kinds []bpf.XdphaXdEventKind) {
	n.t.Helper()
	n.must(n.events.Flush())
	var raw ringbuf.Record
	for {
		err := n.events.ReadInto(&raw)
		if errors.Is(err, ringbuf.ErrFlushed) {
			return kinds
		}
		n.must(err)
		kinds = append(kinds, event(raw).Kind)
	}
}

func event(r ringbuf.Record) (e bpf.XdphaXdEvent) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)), r.RawSample)
	return e
}

// receive runs the ingress program on a frame that comes in by a NIC.
func (n *node) receive(nic int, frame []byte) (verdict uint32, out []byte) {
	n.t.Helper()
	md := struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
		DataEnd: uint32(len(frame)), IngressIfindex: uint32(n.nic[n.self][nic]),
	}
	return n.run(n.objs.XdphaIn, frame, &md)
}

// send runs the egress program on a frame that leaves by a NIC.
func (n *node) send(nic int, frame []byte) (verdict uint32, out []byte) {
	n.t.Helper()
	skb := [44 / 4]uint32{10: uint32(n.nic[n.self][nic])} // __sk_buff up to ifindex
	return n.run(n.objs.XdphaOut, frame, &skb)
}

// tick runs the pacer's program once.
func (n *node) tick() {
	n.t.Helper()
	n.run(n.objs.XdphaTick, make([]byte, 60), nil)
}

func (n *node) run(p *ebpf.Program, frame []byte, ctx any) (verdict uint32, out []byte) {
	n.t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: ctx}
	var err error
	n.in(func() { verdict, err = p.Run(&opts) })
	n.must(err)
	return verdict, opts.DataOut
}

// start starts the detector.
func (n *node) start() {
	n.t.Helper()
	var code uint32
	var err error
	n.in(func() { code, err = n.objs.XdphaStart.Run(&ebpf.RunOptions{}) })
	if err != nil || code != 0 {
		n.t.Fatalf("start the detector: code %d, %v", code, err)
	}
}

func now() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return uint64(ts.Nano())
}

func be(ip netip.Addr) uint32 { return binary.NativeEndian.Uint32(ip.AsSlice()) }

func mac64(m wire.MAC) uint64 {
	var b [8]byte
	copy(b[:], m[:])
	return binary.LittleEndian.Uint64(b[:])
}

// reasonNames are the reasons in the ABI's order.
var reasonNames = [...]string{
	"not-ours", "hb-probe-answered", "hb-reply-accepted", "hb-announced", "hb-truncated", "hb-oversized", "hb-bad-magic", "hb-bad-version",
	"hb-bad-ttl", "hb-foreign-cluster", "hb-wrong-link", "hb-bad-sender", "hb-bad-shape", "hb-unknown-key", "hb-bad-tag",
	"hb-unproven", "hb-replayed", "arp-answered", "arp-gate-closed", "arp-wrong-nic", "arp-own-on-spare", "arp-conflict",
	"nd-answered", "nd-gate-closed", "nd-wrong-nic", "nd-conflict", "nd-bad",
	"in-open", "in-gate-closed", "in-wrong-nic", "in-not-ready", "out-open", "out-gate-closed", "out-wrong-nic", "out-wrong-mac",
	"out-foreign-source", "tick-sent", "tick-early", "tick-between", "token-unpaced", "tick-failed", "internal",
}
