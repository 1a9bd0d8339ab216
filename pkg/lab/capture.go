// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Frame is a captured frame, parsed as far as tests ask.
type Frame struct {
	TNs      int64 // CLOCK_BOOTTIME when it was read
	Outgoing bool  // sent by the interface, not received
	Dst, Src net.HardwareAddr
	Type     uint16 // EtherType
	ARP      *ARPFrame
	IPv4     *IPv4Frame
	Raw      []byte
}

// ARPFrame is an ARP packet for IPv4.
type ARPFrame struct {
	Op                   uint16 // 1 request, 2 reply
	SenderMAC, TargetMAC net.HardwareAddr
	SenderIP, TargetIP   netip.Addr
}

// IPv4Frame is an IPv4 packet.
type IPv4Frame struct {
	Src, Dst         netip.Addr
	TTL, Protocol    uint8
	SrcPort, DstPort uint16 // of UDP and TCP
	ICMPType         uint8
	Payload          []byte // after the IP header
}

// Capture collects the frames of one interface. Frames that a native XDP
// program takes never show up on its own interface; listen at the other end.
type Capture struct {
	f    *os.File
	done chan struct{}

	mu      sync.Mutex
	frames  []Frame
	more    chan struct{} // closed and replaced at every frame
	err     error
	stopped bool
}

// Capture listens on an interface of a namespace, in both directions.
func (l *Lab) Capture(namespace, nic string) (*Capture, error) {
	n := l.space(namespace)
	if n == nil {
		return nil, fmt.Errorf("capture: the lab has no namespace %q", namespace)
	}
	link, err := n.nl.LinkByName(nic)
	if err != nil {
		return nil, fmt.Errorf("capture on %s in %s: %w", nic, namespace, err)
	}
	c := &Capture{done: make(chan struct{}), more: make(chan struct{})}
	err = n.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		c.f = os.NewFile(uintptr(fd), "capture")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: htons(unix.ETH_P_ALL)})
	})
	if err != nil {
		if c.f != nil {
			err = errors.Join(err, c.f.Close())
		}
		return nil, fmt.Errorf("capture on %s in %s: %w", nic, namespace, err)
	}
	conn, err := c.f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture on %s in %s: %w", nic, namespace, err), c.f.Close())
	}
	go c.read(conn)
	return c, nil
}

func (c *Capture) read(conn syscall.RawConn) {
	defer close(c.done)
	buf := make([]byte, 1<<16)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		pollErr := conn.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if pollErr != nil {
			err = pollErr // closed while it waited
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) { // the interface's fate is the test's business
			continue
		}
		if err != nil {
			c.mu.Lock()
			if !c.stopped { // closing the file under a reader is how it ends
				c.err = err
			}
			c.mu.Unlock()
			return
		}
		f := ParseFrame(append([]byte(nil), buf[:n]...))
		f.TNs = NowNs()
		if a, ok := from.(*unix.SockaddrLinklayer); ok {
			f.Outgoing = a.Pkttype == unix.PACKET_OUTGOING
		}
		c.mu.Lock()
		c.frames = append(c.frames, f)
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
	}
}

// Frames returns what was captured so far and a channel that is closed at the next frame.
func (c *Capture) Frames() ([]Frame, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[:len(c.frames):len(c.frames)], c.more
}

// Stop ends the capture and returns all of it.
func (c *Capture) Stop() ([]Frame, error) {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	err := c.f.Close()
	<-c.done
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return c.frames, errors.Join(err, c.err)
}

// ParseFrame parses an Ethernet frame, which it keeps.
func ParseFrame(b []byte) Frame {
	f := Frame{Raw: b}
	if len(b) < ethLen {
		return f
	}
	f.Dst, f.Src, f.Type = b[0:6], b[6:12], binary.BigEndian.Uint16(b[12:])
	p := b[ethLen:]
	switch {
	case f.Type == unix.ETH_P_ARP && len(p) >= 28 && p[4] == 6 && p[5] == 4:
		f.ARP = &ARPFrame{
			Op: binary.BigEndian.Uint16(p[6:]), SenderMAC: p[8:14], TargetMAC: p[18:24],
			SenderIP: netip.AddrFrom4([4]byte(p[14:18])), TargetIP: netip.AddrFrom4([4]byte(p[24:28])),
		}
	case f.Type == unix.ETH_P_IP && len(p) >= ipLen && len(p) >= int(p[0]&15)*4:
		ip := &IPv4Frame{
			TTL: p[8], Protocol: p[9], Payload: p[int(p[0]&15)*4:],
			Src: netip.AddrFrom4([4]byte(p[12:16])), Dst: netip.AddrFrom4([4]byte(p[16:20])),
		}
		if len(ip.Payload) >= 4 {
			ip.SrcPort, ip.DstPort = binary.BigEndian.Uint16(ip.Payload), binary.BigEndian.Uint16(ip.Payload[2:])
			ip.ICMPType = ip.Payload[0]
		}
		if ip.Protocol != unix.IPPROTO_TCP && ip.Protocol != unix.IPPROTO_UDP {
			ip.SrcPort, ip.DstPort = 0, 0
		}
		f.IPv4 = ip
	}
	return f
}
