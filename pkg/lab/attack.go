// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

// What an attacker sends, on the node's LAN and crossover each.
const (
	attackEvery = 5 * time.Millisecond
	forgedEach  = 10  // spoiled frames every time
	floodedEach = 100 // makes 40,000 a second
	claimEvery  = 20 * time.Millisecond
	recordFor   = 50 * time.Millisecond
	recordMost  = 200 // frames that are kept of a cable; a newer one takes the place of the oldest
)

// attack sends a node what its peer has sent before, as it was or spoiled. It needs no knowledge
// of what the frames mean, and goes on until the fault ends.
func (l *Lab) attack(ctx context.Context, b *breakage, n *Node) error {
	var sends []func() error
	var closers []int
	for _, role := range []Role{LAN, Crossover} {
		p, err := l.FindPort(n.Name, role)
		if err != nil {
			return err
		}
		frames, err := l.record(ctx, p)
		if err != nil {
			return err
		}
		if len(frames) == 0 {
			continue
		}
		fd, to, err := l.rawSocket(p.Switch, p.Number, loader.LabForgedMark)
		if err != nil {
			return err
		}
		closers = append(closers, fd)
		sends = append(sends, func() error { return sendAll(fd, to, harmful(b.kind, frames)) })
	}
	if len(sends) == 0 {
		return fmt.Errorf("%w: its peer has sent nothing yet", ErrNothingToBreak)
	}
	b.again(attackEvery, func() error {
		var errs []error
		for _, send := range sends {
			errs = append(errs, send())
		}
		return errors.Join(errs...)
	})
	b.closing(closers)
	return nil
}

// closing has sockets closed when the fault has ended.
func (b *breakage) closing(fds []int) {
	end := b.end
	b.end = func() error {
		err := end()
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	}
}

// harmful makes of recorded frames what is sent at a time.
func harmful(kind Fault, recorded [][]byte) [][]byte {
	n := map[Fault]int{FaultForge: forgedEach, FaultFlood: floodedEach}[kind]
	if n == 0 {
		return recorded
	}
	all := make([][]byte, n)
	for i := range all {
		f := append([]byte(nil), recorded[rand.IntN(len(recorded))]...)
		f[ethLen+rand.IntN(len(f)-ethLen)] ^= 1 << rand.IntN(8)
		all[i] = f
	}
	return all
}

// record listens at a node's cable for what its peer sends it, and returns that and what was
// recorded there before.
func (l *Lab) record(ctx context.Context, p Port) ([][]byte, error) {
	c, err := l.Capture(p.Switch, p.Name())
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(recordFor):
	case <-ctx.Done():
	}
	frames, err := c.Stop()
	if err != nil {
		return nil, err
	}
	peer := nicMAC(Port{Node: l.Peer(p.Node).Name})
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.recorded[p.Number]
	for _, f := range frames {
		if f.Outgoing && sameMAC(f.Dst, [6]byte(nicMAC(p))) && string(f.Src[:5]) == string(peer[:5]) {
			kept = append(kept, f.Raw)
		}
	}
	kept = kept[max(0, len(kept)-recordMost):]
	l.recorded[p.Number] = kept
	return kept, ctx.Err()
}

// claim has a foreign host say over and over that an identity's address is at its MAC.
func (l *Lab) claim(b *breakage, id Identity) error {
	p, err := l.FindPort(Hosts1, LAN)
	if err != nil {
		return err
	}
	link, err := l.space(Hosts1).nl.LinkByName(p.NIC)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", p.NIC, Hosts1, err)
	}
	fd, to, err := l.rawSocket(Hosts1, link.Attrs().Index, 0)
	if err != nil {
		return err
	}
	frames := [][]byte{announcement(1, [6]byte(nicMAC(p)), id.Addr), announcement(2, [6]byte(nicMAC(p)), id.Addr)}
	b.again(claimEvery, func() error { return sendAll(fd, to, frames) })
	b.closing([]int{fd})
	return nil
}

// announcement is a gratuitous ARP packet in the form of a request (1) or a reply (2): RFC 5944, 4.6.
func announcement(op byte, mac [6]byte, ip netip.Addr) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, mac[:]...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, mac[:]...), ip.AsSlice()...)
	f = append(append(f, mac[:]...), ip.AsSlice()...)
	return append(f, make([]byte, 60-len(f))...)
}

// rawSocket sends out of an interface of a namespace.
func (l *Lab) rawSocket(namespace string, ifindex, mark int) (fd int, to *unix.SockaddrLinklayer, err error) {
	err = l.Do(namespace, func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open raw socket in %s: %w", namespace, err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return errors.Join(fmt.Errorf("mark raw socket in %s: %w", namespace, err), unix.Close(fd))
		}
		return nil
	})
	return fd, &unix.SockaddrLinklayer{Ifindex: ifindex}, err
}

// sendAll sends frames; a cable that is pulled, or new since, takes none.
func sendAll(fd int, to *unix.SockaddrLinklayer, frames [][]byte) error {
	for _, f := range frames {
		switch err := unix.Sendto(fd, f, 0, to); {
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOBUFS):
			return nil
		case err != nil:
			return fmt.Errorf("send %d bytes: %w", len(f), err)
		}
	}
	return nil
}
