// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/wire"
)

// duo is two nodes' datapaths on the ends of three cables, with the kernel's own pacers: a pair
// at work, but for the daemons. Each owns one identity, and is armed for the other's.
type duo struct {
	*ground
	nodes  [2]*half
	attack [loader.Links]*socket // each sends to a NIC of the first node
	stop   context.CancelFunc
	seeds  sync.WaitGroup
}

type half struct {
	host *host.Host
	dp   *loader.Datapath
	ring *socket
}

// deadlines are a pair's; its probes are those of the profile "balanced".
type deadlines struct{ suspect, dead time.Duration }

const duoProbe = time.Millisecond

var (
	peerMAC = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x04}
	vips    = [2]netip.Addr{vip, otherIP}
	ends    = [2]struct {
		mac wire.MAC
		on  [loader.Links]netip.Addr
	}{
		{nodeMAC, [...]netip.Addr{loader.Crossover: nodeIP, loader.Lan: ownIP, loader.Spare: netip.MustParseAddr("169.254.1.0")}},
		{peerMAC, [...]netip.Addr{loader.Crossover: peerIP, loader.Lan: peerOwnIP, loader.Spare: netip.MustParseAddr("169.254.1.1")}},
	}
	cables = [loader.Links]string{loader.Crossover: "hb", loader.Lan: "lan", loader.Spare: "spare"}
)

func newDuo(ctx context.Context, after deadlines) (_ *duo, err error) {
	d := &duo{stop: func() {}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.ground, err = newGround(); err != nil {
		return nil, err
	}
	if err := d.enter(0); err != nil {
		return nil, err
	}
	for _, cable := range cables {
		if err := d.join(cable, [2][6]byte{nodeMAC, peerMAC}); err != nil {
			return nil, err
		}
	}
	for self := range d.nodes {
		if err := d.enter(self); err != nil {
			return nil, err
		}
		d.nodes[self] = new(half)
		if err := d.nodes[self].build(self, after, d.pins(fmt.Sprint("node", self))); err != nil {
			return nil, err
		}
	}
	for role, cable := range cables {
		far, err := setUp(cable) // the second node's: what comes in at the first one
		if err != nil {
			return nil, err
		}
		if d.attack[role], err = openSocket(far, 0); err != nil {
			return nil, err
		}
	}
	ctx, d.stop = context.WithCancel(ctx)
	for _, n := range d.nodes {
		d.seeds.Go(func() { n.keepPacing(ctx) })
	}
	return d, d.meet(ctx)
}

func (h *half) build(self int, after deadlines, pins string) (err error) {
	cfg := loader.Config{
		ClusterID: clusterID, Digest: digest, Nodes: 2, Self: self, Probe: duoProbe,
		SuspectAfter: after.suspect, DeadAfter: after.dead, BootHold: time.Hour, ConfirmProbes: 3,
		Keys: []loader.Key{{K0: key.K0, K1: key.K1, ID: key.ID}}, OwnAddress: ends[self].on[loader.Lan],
	}
	var index [loader.Links]int
	mine, theirs := ends[self], ends[1-self]
	for role, name := range cables {
		if index[role], err = setUp(name); err != nil {
			return err
		}
		cfg.Links[role] = loader.LinkConfig{Index: index[role], MAC: mine.mac, Local: mine.on[role]}
		cfg.Remote[1-self][role] = theirs.on[role]
	}
	for i, a := range vips {
		mac := vipMAC
		mac[5] += byte(i)
		cfg.Identities = append(cfg.Identities, loader.IdentityConfig{Candidates: 3, Carrier: index[loader.Lan], MAC: mac, Addresses: []netip.Addr{a}})
	}
	if h.dp, err = openDatapath(cfg, pins); err != nil {
		return err
	}
	for i := range vips {
		flag := core.Ready
		if i == self {
			flag = core.Owner
		}
		h.dp.SetWord(i, core.MakeWord(flag, firstGeneration))
	}
	if err := attach(h.dp, cfg); err != nil {
		return err
	}
	if err := h.pace(self); err != nil {
		return err
	}
	return h.dp.Start()
}

// pace makes the ring, as the daemon does.
func (h *half) pace(self int) (err error) {
	if h.host, err = host.New(slog.New(slog.DiscardHandler), host.Mark("bench", fmt.Sprint(self))); err != nil {
		return err
	}
	start, end, err := h.host.EnsureTickPair("xdtick")
	if err != nil {
		return err
	}
	if err := h.dp.AttachTick(end); err != nil {
		return err
	}
	mode, err := h.host.SetPace(start, loader.TokenBytes, duoProbe)
	if err != nil {
		return err
	}
	h.dp.SetPace(map[string]loader.Pace{host.PaceTbf: loader.PaceTBF, host.PaceFq: loader.PaceFQ}[mode], start, duoProbe)
	h.ring, err = openQueued(start)
	return err
}

// keepPacing sends a token round whenever none has come by for a while, as the daemon does.
func (h *half) keepPacing(ctx context.Context) {
	const lost = 20 * time.Millisecond
	token := make([]byte, loader.TokenBytes)
	token[5] = loader.TokenMark
	token[12] = 8 // IPv4: what the clones will be
	look := time.NewTicker(lost)
	defer look.Stop()
	for {
		if at := h.dp.TokenNS(); at == 0 || loader.Now()-at > int64(lost) {
			h.ring.send(token)
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// meet returns when both nodes have seen each other up and heard on every cable.
func (d *duo) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		up := true
		for i, n := range d.nodes {
			p := n.dp.State(len(vips)).Peers[1-i]
			up = up && p.State == core.PeerUp
			for _, l := range p.Links {
				up = up && l.RTTNS != 0
			}
		}
		if up {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await that two nodes meet: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *duo) close() {
	d.stop()
	d.seeds.Wait()
	for _, s := range d.attack {
		s.close()
	}
	for _, n := range d.nodes {
		if n == nil {
			continue
		}
		n.ring.close()
		shut(n.dp)
		if n.host != nil {
			_ = n.host.Close() // its sockets only
		}
	}
	if d.ground != nil {
		d.ground.close()
	}
}

// openQueued opens a socket that sends through the NIC's queueing discipline.
func openQueued(index int) (*socket, error) {
	s, err := openSocket(index, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("send through the queue: %w", err), unix.Close(s.fd))
	}
	return s, nil
}
