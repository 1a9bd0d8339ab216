// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
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
)

var (
	key     = wire.Key{ID: 1, K0: 0x0706050403020100, K1: 0x0f0e0d0c0b0a0908}
	nodeMAC = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x01}
	vipMAC  = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x21}
	// askMAC is no NIC's: the asking side's stack drops the answers at once, all of them alike.
	askMAC  = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x02}
	nodeIP  = netip.MustParseAddr("192.168.111.1")
	peerIP  = netip.MustParseAddr("192.168.111.2")
	ownIP   = netip.MustParseAddr("192.0.2.11")
	vip     = netip.MustParseAddr("192.0.2.21")
	otherIP = netip.MustParseAddr("192.0.2.22")
	askIP   = netip.MustParseAddr("192.0.2.100")
	// The kernel's own ARP has a network of its own.
	kernelIP  = netip.MustParseAddr("198.51.100.1")
	kernelAsk = netip.MustParseAddr("198.51.100.2")
)

// The veth pairs: q asks in one namespace, a answers in the other.
var pairs = []string{"hb", "lan", "bare", "own"}

// rig is two namespaces joined by veth pairs: one that asks, and one with a node's
// datapath, the bare reflector and the kernel's own ARP. All its work is done on one thread.
type rig struct {
	asking, answering netns.NsHandle
	answer            map[string]int // interface index by pair
	sockets           map[string]*socket
	tick              *socket
	lab               *loader.Lab
	dp                *loader.Datapath
	mode              string
	peer              wire.Frame // the next probe
	dir               string
}

func newRig() (_ *rig, err error) {
	r := &rig{asking: netns.None(), answering: netns.None(), answer: map[string]int{}, sockets: map[string]*socket{}}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if err := r.private(); err != nil {
		return nil, err
	}
	if r.asking, err = quietNamespace(); err != nil {
		return nil, err
	}
	if r.answering, err = quietNamespace(); err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if err := r.join(p); err != nil {
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

// private gives the thread a mount namespace with a bpffs of its own.
func (r *rig) private() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w (the benchmark needs root)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if r.dir, err = os.MkdirTemp("", "xdpha-bench-"); err != nil {
		return fmt.Errorf("make a directory for pins: %w", err)
	}
	if err := unix.Mount("xdpha-bench", r.dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs: %w", err)
	}
	return nil
}

// quietNamespace makes a network namespace without IPv6, and enters it.
func quietNamespace() (netns.NsHandle, error) {
	h, err := netns.New()
	if err != nil {
		return netns.None(), fmt.Errorf("make a network namespace: %w", err)
	}
	err = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 is quiet enough
		err = nil
	}
	if err != nil {
		return h, fmt.Errorf("turn IPv6 off: %w", err)
	}
	return h, nil
}

// join lays a pair between the namespaces; the thread is in the answering one.
func (r *rig) join(name string) error {
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr(nodeMAC[:])},
		PeerName:  name, PeerNamespace: netlink.NsFd(int(r.asking)),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth pair %s: %w", name, err)
	}
	index, err := setUp(name)
	if err != nil {
		return err
	}
	r.answer[name] = index
	if name != "own" {
		return nil
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: kernelIP.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", kernelIP, name, err)
	}
	return nil
}

func setUp(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, fmt.Errorf("set %s up: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// node starts the datapath of a node that owns the first of two identities.
func (r *rig) node() (err error) {
	cfg := loader.Config{
		ClusterID: clusterID, Digest: digest, Probe: time.Millisecond,
		SuspectAfter: time.Minute, DeadAfter: time.Hour, BootHold: time.Hour, ConfirmProbes: 2, ServeFor: time.Hour,
		Keys: []loader.Key{{K0: key.K0, K1: key.K1, ID: key.ID}}, OwnAddress: ownIP,
		Identities: []loader.IdentityConfig{
			{Carrier: r.answer["lan"], MAC: vipMAC, Addresses: []netip.Addr{vip}},
			{Carrier: r.answer["lan"], MAC: [6]byte{0x02, 0xbe, 0, 0, 0, 0x22}, Addresses: []netip.Addr{otherIP}},
		},
	}
	cfg.Links[loader.Crossover] = loader.LinkConfig{Index: r.answer["hb"], MAC: nodeMAC, Local: nodeIP, Remote: peerIP}
	cfg.Links[loader.Lan] = loader.LinkConfig{Index: r.answer["lan"], MAC: nodeMAC, Local: ownIP, Remote: netip.MustParseAddr("192.0.2.12")}
	r.dp, err = loader.Open(cfg, loader.Options{PinDir: r.pins(), Log: slog.New(slog.DiscardHandler), Anew: func() error { return nil }})
	if err != nil {
		return err
	}
	r.dp.SetWord(0, core.Owner|5)
	r.dp.SetWord(1, 5)
	r.dp.Renew(loader.Now(), time.Hour)
	for _, role := range []int{loader.Crossover, loader.Lan} {
		if err := r.dp.AttachNIC(role, int(cfg.Links[role].Index)); err != nil {
			return err
		}
	}
	r.mode = r.dp.Mode(loader.Crossover)
	if err := r.pacer(); err != nil {
		return err
	}
	return r.dp.Start()
}

func (r *rig) pins() string { return filepath.Join(r.dir, "node") }

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
	r.tick, err = openSocket(tick, unix.ETH_P_IP)
	return err
}

// enterAsking goes to the other namespace for good and opens its sockets.
func (r *rig) enterAsking() error {
	if err := netns.Set(r.asking); err != nil {
		return fmt.Errorf("enter the asking namespace: %w", err)
	}
	for _, p := range pairs {
		index, err := setUp(p)
		if err != nil {
			return err
		}
		if p != "own" { // the kernel's own ARP is measured without XDP
			if err := r.lab.AttachPass(index); err != nil {
				return err
			}
		}
		if err := r.listen(p, index); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) listen(pair string, index int) (err error) {
	protocols := map[string]uint16{"hb": unix.ETH_P_IP, "lan": unix.ETH_P_ARP, "own": unix.ETH_P_ARP, "bare": unix.ETH_P_IP}
	if r.sockets[pair], err = openSocket(index, protocols[pair]); err != nil || pair != "bare" {
		return err
	}
	r.sockets["bare-arp"], err = openSocket(index, unix.ETH_P_ARP)
	return err
}

// greet proves a peer to the node, as another node would: it hears the node's nonce in a
// probe, echoes it, and takes the next nonce from the answer.
func (r *rig) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.peer = wire.Frame{
		SrcMAC: askMAC, DstMAC: nodeMAC, SrcIP: peerIP, DstIP: nodeIP, Sender: 1, Link: loader.Crossover,
		ClusterID: clusterID, BootID: peerBoot, Nonce: peerNonce, Digest: digest, Words: []uint64{5, uint64(core.Owner | 5)},
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
	return nil
}

func (r *rig) next() ([]byte, error) {
	r.peer.Seq++
	r.peer.SentNS = uint64(loader.Now())
	r.peer.GrantNS = r.peer.SentNS // both are on one clock
	return r.peer.Marshal(key)
}

// close ends what would outlive the thread: descriptors and an empty directory.
func (r *rig) close() {
	for _, s := range r.sockets {
		s.close()
	}
	r.tick.close()
	if r.dp != nil {
		_ = r.dp.Remove() // all that it could leave is in namespaces that end now
		_ = r.dp.Close()
	}
	if r.lab != nil {
		_ = r.lab.Close()
	}
	for _, h := range []netns.NsHandle{r.asking, r.answering} {
		if h.IsOpen() {
			_ = h.Close()
		}
	}
	if r.dir != "" {
		_ = unix.Unmount(r.dir, unix.MNT_DETACH)
		_ = os.Remove(r.dir)
	}
}

// inAnswering runs f where the node is: interface indices mean something there.
func (r *rig) inAnswering(f func() error) error {
	if err := netns.Set(r.answering); err != nil {
		return fmt.Errorf("enter the answering namespace: %w", err)
	}
	return errors.Join(f(), netns.Set(r.asking))
}
