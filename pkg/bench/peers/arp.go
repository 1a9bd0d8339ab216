// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	arpAsks  = 10
	arpEvery = 10 * time.Millisecond
	arpLast  = 200 * time.Millisecond // longer than any answer takes, and than a busy machine to show it
)

// bothAnswer asks by broadcast who has the address, as any client does whose ARP entry
// has gone, and counts the questions that both nodes answered. It listens at the
// switches' ends of the nodes' cables, for a virtual MAC does not tell who answers. Each
// question has an asker of its own, whom the answer names, however late it is seen.
func bothAnswer(ctx context.Context, l *lab.Lab, addr netip.Addr) (both int, err error) {
	ports, err := listen(l)
	defer func() { err = errors.Join(err, ports.stop()) }()
	if err != nil {
		return 0, err
	}
	askers := map[netip.Addr]bool{}
	for i := range arpAsks {
		asker, err := askARP(l, addr, i)
		if err != nil {
			return 0, err
		}
		askers[asker] = true
		if err := pair.Pause(ctx, arpEvery); err != nil {
			return 0, err
		}
	}
	if err := pair.Pause(ctx, arpLast); err != nil {
		return 0, err
	}
	for asker, who := range ports.answered(addr) {
		if askers[asker] && len(who) > 1 {
			both++
		}
	}
	return both, nil
}

// ear is a capture of the frames that come from a node by one of its cables.
type ear struct {
	node    string
	capture *lab.Capture
}

type ears []*ear

func listen(l *lab.Lab) (ears, error) {
	var all ears
	for _, p := range lab.Ports {
		if !p.Server() || p.Role == lab.Crossover {
			continue
		}
		c, err := l.Capture(p.Switch, p.Name())
		if err != nil {
			return all, err
		}
		all = append(all, &ear{node: p.Node, capture: c})
	}
	return all, nil
}

// answered names, by asker, the nodes that said that they have the address.
func (all ears) answered(addr netip.Addr) map[netip.Addr]map[string]bool {
	who := map[netip.Addr]map[string]bool{}
	for _, e := range all {
		frames, _ := e.capture.Frames()
		for _, f := range frames {
			if f.Outgoing || f.ARP == nil || f.ARP.Op != 2 || f.ARP.SenderIP != addr {
				continue
			}
			if who[f.ARP.TargetIP] == nil {
				who[f.ARP.TargetIP] = map[string]bool{}
			}
			who[f.ARP.TargetIP][e.node] = true
		}
	}
	return who
}

func (all ears) stop() error {
	var errs []error
	for _, e := range all {
		_, err := e.capture.Stop()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// askARP sends one request from the client, by the name of asker i: the i-th address after its own,
// which is nobody's.
func askARP(l *lab.Lab, addr netip.Addr, i int) (asker netip.Addr, err error) {
	err = l.Do(lab.Client, func() error {
		nic, from, err := clientNIC()
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		asker = from.Next()
		for range i {
			asker = asker.Next()
		}
		return unix.Sendto(fd, arpRequest(nic.HardwareAddr, asker, addr), 0, &unix.SockaddrLinklayer{Ifindex: nic.Index})
	})
	if err != nil {
		return asker, fmt.Errorf("ask who has %s: %w", addr, err)
	}
	return asker, nil
}

// clientNIC is the client's NIC and address; the calling thread must be in its namespace.
func clientNIC() (nic *net.Interface, from netip.Addr, err error) {
	if nic, err = net.InterfaceByName("eth0"); err != nil {
		return nil, from, err
	}
	addrs, err := nic.Addrs()
	if err != nil {
		return nil, from, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return nic, p.Addr(), nil
		}
	}
	return nil, from, errors.New("the client has no address")
}

// arpRequest is RFC 826's.
func arpRequest(mac net.HardwareAddr, from, to netip.Addr) []byte {
	b := make([]byte, 0, 42)
	b = append(append(b, 255, 255, 255, 255, 255, 255), mac...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), from.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
}
