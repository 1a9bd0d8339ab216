// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/wire"
)

const (
	clusterID = 0x62656e63
	digest    = 0x68
	peerBoot  = 0x6f74686572
	peerNonce = 0x6e6f6e6365

	firstGeneration = 5
)

var (
	key     = wire.Key{ID: 1, K0: 0x0706050403020100, K1: 0x0f0e0d0c0b0a0908}
	nodeMAC = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x01}
	vipMAC  = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x21}
	// askMAC is no NIC's: the asking side's stack drops the answers at once, all of them alike.
	askMAC = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x02}
	// stackMAC is the NIC's own there.
	stackMAC  = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x03}
	nodeIP    = netip.MustParseAddr("192.168.111.1")
	peerIP    = netip.MustParseAddr("192.168.111.2")
	ownIP     = netip.MustParseAddr("192.0.2.11")
	peerOwnIP = netip.MustParseAddr("192.0.2.12")
	vip       = netip.MustParseAddr("192.0.2.21")
	otherIP   = netip.MustParseAddr("192.0.2.22")
	askIP     = netip.MustParseAddr("192.0.2.100")
	vip6      = netip.MustParseAddr("2001:db8::21")
	askIP6    = netip.MustParseAddr("2001:db8::100")
	// The kernel's own answers have a network of their own.
	kernelIP   = netip.MustParseAddr("198.51.100.1")
	kernelAsk  = netip.MustParseAddr("198.51.100.2")
	kernelIP6  = netip.MustParseAddr("2001:db8:1::1")
	kernelAsk6 = netip.MustParseAddr("2001:db8:1::2")
)

// The veth pairs between who answers and who asks.
var pairs = []string{"hb", "lan", "bare", "own"}

// The rig's namespaces.
const (
	answering = iota
	asking
)

// setup is what varies between rigs.
type setup struct {
	probe, suspect, dead time.Duration
	identities           [][]netip.Addr // the addresses of each
	standby              bool           // the node owns none of them instead of the first
}

// atRest is a node that never suspects anybody.
func atRest(identities ...[]netip.Addr) setup {
	return setup{probe: time.Millisecond, suspect: time.Minute, dead: time.Hour, identities: identities}
}

// words are the ownership words at the start: of the node, and of its peer.
func (s setup) words() (mine, theirs []uint64) {
	for i := range s.identities {
		owner := i == 0 && !s.standby
		mine, theirs = append(mine, firstWord(owner)), append(theirs, firstWord(!owner))
	}
	return mine, theirs
}

func firstWord(owner bool) uint64 {
	if owner {
		return uint64(core.MakeWord(core.Owner, firstGeneration))
	}
	return firstGeneration
}

// rig is a node's datapath, the bare reflector and the kernel's own answers in one namespace,
// and who asks them in the other, where the thread is.
type rig struct {
	*ground
	setup   setup
	answer  map[string]int // interface index by pair
	sockets map[string]*socket
	tick    *socket
	lab     *loader.Lab
	dp      *loader.Datapath
	mode    string
	peer    wire.Frame // the next probe
}

func newRig(s setup) (_ *rig, err error) {
	r := &rig{setup: s, answer: map[string]int{}, sockets: map[string]*socket{}}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.ground, err = newGround(); err != nil {
		return nil, err
	}
	if err := r.enter(answering); err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if err := r.lay(p); err != nil {
			return nil, err
		}
	}
	if r.lab, err = loader.LoadLab(); err != nil {
		return nil, err
	}
	if err := r.lab.AttachReflect(r.answer["bare"]); err != nil {
		return nil, err
	}
	if err := r.node(); err != nil {
		return nil, err
	}
	return r, r.enterAsking()
}

func (r *rig) lay(name string) (err error) {
	if err := r.join(name, [2][6]byte{nodeMAC, stackMAC}); err != nil {
		return err
	}
	if name == "own" {
		if err := speakIPv6(name); err != nil {
			return err
		}
	}
	if r.answer[name], err = setUp(name); err != nil || name != "own" {
		return err
	}
	return r.address(name)
}

// speakIPv6 turns it on for one NIC, with no address but what it is given, and no question of its own.
func speakIPv6(nic string) error {
	for _, set := range [][2]string{{"addr_gen_mode", "1"}, {"router_solicitations", "0"}, {"accept_ra", "0"}, {"disable_ipv6", "0"}} {
		if err := sysctlIPv6(nic+"/"+set[0], set[1]); err != nil {
			return err
		}
	}
	return nil
}

// address gives the kernel what it answers for by itself.
func (r *rig) address(nic string) error {
	l, err := netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("find %s: %w", nic, err)
	}
	addrs := []*netlink.Addr{{IPNet: &net.IPNet{IP: kernelIP.AsSlice(), Mask: net.CIDRMask(24, 32)}}}
	if hasIPv6() {
		addrs = append(addrs, &netlink.Addr{IPNet: &net.IPNet{IP: kernelIP6.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, nic, err)
		}
	}
	return nil
}

// node starts the datapath.
func (r *rig) node() (err error) {
	cfg := loader.Config{
		ClusterID: clusterID, Digest: digest, Nodes: 2, Probe: r.setup.probe,
		SuspectAfter: r.setup.suspect, DeadAfter: r.setup.dead, BootHold: time.Hour, ConfirmProbes: 2,
		Keys: []loader.Key{{K0: key.K0, K1: key.K1, ID: key.ID}}, OwnAddress: ownIP,
	}
	if !r.setup.standby {
		cfg.ServeFor = time.Hour // the gate asks for the right to serve: that is the dearer one
	}
	for i, addrs := range r.setup.identities {
		mac := vipMAC
		mac[5] += byte(i)
		cfg.Identities = append(cfg.Identities, loader.IdentityConfig{Candidates: 3, Carrier: r.answer["lan"], MAC: mac, Addresses: addrs})
	}
	cfg.Links[loader.Crossover] = loader.LinkConfig{Index: r.answer["hb"], MAC: nodeMAC, Local: nodeIP}
	cfg.Links[loader.Lan] = loader.LinkConfig{Index: r.answer["lan"], MAC: nodeMAC, Local: ownIP}
	cfg.Remote[1][loader.Crossover], cfg.Remote[1][loader.Lan] = peerIP, peerOwnIP
	if r.dp, err = openDatapath(cfg, r.pins("node")); err != nil {
		return err
	}
	mine, _ := r.setup.words()
	for i, w := range mine {
		r.dp.SetWord(i, core.Word(w))
	}
	if err := attach(r.dp, cfg); err != nil {
		return err
	}
	r.mode = r.dp.Mode(loader.Crossover)
	if err := r.pacer(); err != nil {
		return err
	}
	return r.dp.Start()
}

func openDatapath(cfg loader.Config, pins string) (*loader.Datapath, error) {
	d, err := loader.Open(cfg, loader.Options{PinDir: pins, Log: slog.New(slog.DiscardHandler), Anew: func() error { return nil }})
	if err != nil {
		return nil, err
	}
	d.Renew(loader.Now(), time.Hour)
	return d, nil
}

func attach(d *loader.Datapath, cfg loader.Config) error {
	for role, l := range cfg.Links {
		if l.Index == 0 {
			continue
		}
		if err := d.AttachNIC(role, l.Index); err != nil {
			return err
		}
	}
	return nil
}

// pacer makes the private pair whose frames become the node's own probes.
func (r *rig) pacer() error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tick"}, PeerName: "tock"}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add the pacer's pair: %w", err)
	}
	tock, err := setUp("tock")
	if err != nil {
		return err
	}
	tick, err := setUp("tick")
	if err != nil {
		return err
	}
	if err := r.dp.AttachTick(tock); err != nil {
		return err
	}
	r.tick, err = openSocket(tick, 0)
	return err
}

// enterAsking goes to the other namespace and opens the sockets there.
func (r *rig) enterAsking() error {
	if err := r.enter(asking); err != nil {
		return err
	}
	index := map[string]int{}
	for _, p := range pairs {
		var err error
		if index[p], err = setUp(p); err != nil {
			return err
		}
		if p != "own" { // the kernel's own answers are measured without XDP
			if err := r.lab.AttachPass(index[p]); err != nil {
				return err
			}
		}
	}
	for _, s := range []struct {
		name, pair string
		protocol   uint16
	}{
		{"hb", "hb", unix.ETH_P_IP}, {"bare", "bare", unix.ETH_P_IP},
		{"lan", "lan", unix.ETH_P_ARP}, {"bare-arp", "bare", unix.ETH_P_ARP}, {"own", "own", unix.ETH_P_ARP},
		{"lan-nd", "lan", unix.ETH_P_IPV6}, {"bare-nd", "bare", unix.ETH_P_IPV6}, {"own-nd", "own", unix.ETH_P_IPV6},
	} {
		var err error
		if r.sockets[s.name], err = openSocket(index[s.pair], s.protocol); err != nil {
			return err
		}
	}
	return nil
}

// greet proves a peer to the node, as another node would: it hears the node's nonce in a
// probe, echoes it, and takes the next nonce from the answer.
func (r *rig) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, words := r.setup.words()
	r.peer = wire.Frame{
		SrcMAC: askMAC, DstMAC: nodeMAC, SrcIP: peerIP, DstIP: nodeIP, Sender: 1, Link: loader.Crossover,
		ClusterID: clusterID, BootID: peerBoot, Nonce: peerNonce, Digest: digest, Words: words,
	}
	hear := func(want wire.Direction) bool {
		buf := make([]byte, 512)
		for {
			n := r.sockets["hb"].receive(buf)
			if n <= 0 {
				return false
			}
			if f, err := wire.Parse(buf[:n], key); err == nil && f.Direction == want {
				r.peer.Echo = f.Nonce
				return true
			}
		}
	}
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for heard, proven := false, 0; proven < 2; { // the second probe echoes the nonce after the proof
		switch {
		case !heard:
			r.tick.send(make([]byte, 60))
			heard = hear(wire.Probe)
		default:
			q, err := r.next()
			if err != nil {
				return err
			}
			r.sockets["hb"].send(q)
			if hear(wire.Reply) {
				proven++
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return fmt.Errorf("greet the node (heard its probe: %v, answers: %d): %w", heard, proven, context.Cause(ctx))
		}
	}
	return r.own()
}

// own gives the node its words again: what it owns and was not granted yet it has let go when it heard a
// peer that has booted.
func (r *rig) own() error {
	mine, _ := r.setup.words()
	for i, w := range mine {
		if now, ok := r.dp.Swap(i, r.dp.Word(i), core.Word(w)); !ok {
			return fmt.Errorf("give the node its word of identity %d: it has become %v meanwhile", i, now)
		}
	}
	return nil
}

func (r *rig) next() ([]byte, error) {
	r.peer.Seq++
	r.peer.SentNS = uint64(loader.Now())
	r.peer.GrantNS = r.peer.SentNS // both are on one clock
	return r.peer.Marshal(key)
}

func (r *rig) close() {
	for _, s := range r.sockets {
		s.close()
	}
	r.tick.close()
	shut(r.dp)
	if r.lab != nil {
		_ = r.lab.Close()
	}
	if r.ground != nil {
		r.ground.close()
	}
}

func shut(d *loader.Datapath) {
	if d != nil {
		_ = d.Remove() // all that it could leave is in namespaces that end now
		_ = d.Close()
	}
}

// inAnswering runs f where the node is: interface indices mean something there.
func (r *rig) inAnswering(f func() error) error {
	if err := r.enter(answering); err != nil {
		return err
	}
	return errors.Join(f(), r.enter(asking))
}
