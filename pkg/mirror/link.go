// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Port is where the daemons listen, on the crossover's and the lan's address of their node.
const Port = 9641

// The links, the better one first.
const (
	linkCrossover = "crossover"
	linkLan       = "lan"
)

// Limits of what may come before the peer has proved itself, and of what it may keep waiting for.
const (
	greetTime    = 5 * time.Second  // for the handshake and the first word
	answerTime   = 30 * time.Second // the receiver ends an older run first, and writes to its disk
	diskTime     = 10 * time.Minute // for all of a copy to be on disk
	lanHeadStart = 300 * time.Millisecond
	dialTime     = 3 * time.Second
	unackedTime  = 5 * time.Second // for bytes to be acknowledged: longer, and the cable is cut
)

// keepAlive finds a cable that is cut while nothing is sent.

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 4}

// route is one way to the peer.
type route struct {
	name     string
	own, its netip.Addr
}

func (m *Manager) routes() []route {
	self, peer := m.Config.Nodes[m.Config.Self], m.Config.Nodes[m.Config.Peer()]
	return []route{{linkCrossover, self.CrossAddr.Addr(), peer.CrossAddr.Addr()}, {linkLan, self.LanAddr.Addr(), peer.LanAddr.Addr()}}
}

// onSocket sets what net cannot: that an address may be bound before its NIC is there.
func onSocket(_, _ string, c syscall.RawConn) error {
	var err error
	if ctrl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}); ctrl != nil {
		return ctrl
	}
	return err
}

// watchLine closes a connection whose bytes nobody acknowledges, until stop is called. (TCP_USER_TIMEOUT
// would end one as well whose other end is alive and waits for its disk.)
func watchLine(conn *tls.Conn) (stop func()) {
	c, ok := conn.NetConn().(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return func() {} // it is closed
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(unackedTime / 5)
		defer tick.Stop()
		for times := 0; times < 2; { // the last answer before a pause may be old, too
			select {
			case <-done:
				return
			case <-tick.C:
			}
			times++
			if !unanswered(raw) {
				times = 0
			}
		}
		conn.NetConn().Close()
	}()
	return sync.OnceFunc(func() { close(done) })
}

// unanswered reports bytes on the way, or questions whether there is room for some, and no answer for
// unackedTime. (Without a route bytes are not on the way, they wait to be sent.)
func unanswered(raw syscall.RawConn) (yes bool) {
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && (info.Unacked > 0 || info.Probes > 1) && info.Last_ack_recv > uint32(unackedTime/time.Millisecond)
	})
	return yes && err == nil
}

// connected is a way that was found, or why not.
type connected struct {
	conn net.Conn
	link string
	err  error
}

// dial tries the crossover, and the lan too if the crossover does not answer soon; the first to
// answer is taken. A run that begins later finds a crossover that is back.
func (m *Manager) dial(ctx context.Context) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	found := make(chan connected)
	failed := make(chan struct{})
	routes := m.routes()
	for i, r := range routes {
		go func() {
			if i > 0 {
				select {
				case <-ctx.Done():
				case <-failed:
				case <-time.After(lanHeadStart):
				}
			}
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: r.own.AsSlice()}, Control: onSocket, KeepAliveConfig: keepAlive}
			c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(r.its, Port).String())
			if i == 0 && err != nil {
				close(failed)
			}
			select {
			case found <- connected{c, r.name, err}:
			case <-ctx.Done():
				if c != nil {
					c.Close() // too late, or the second
				}
			}
		}()
	}
	var why []string
	for range routes {
		select {
		case <-ctx.Done():
			return nil, "", fmt.Errorf("reach %s: %w", m.peer(), context.Cause(ctx))
		case f := <-found:
			if f.err == nil {
				return f.conn, f.link, nil
			}
			why = append(why, f.link+": "+f.err.Error())
		}
	}
	return nil, "", fmt.Errorf("reach %s: %s", m.peer(), strings.Join(why, "; "))
}

// call connects to the peer, says what for, and returns the connection if it agrees.
func (m *Manager) call(ctx context.Context, h hello) (*tls.Conn, string, error) {
	raw, link, err := m.dial(ctx)
	if err != nil {
		return nil, "", err
	}
	conn := tls.Client(raw, m.keys.Load().tls())
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := greet(conn, h); err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, "", m.explain(link, err)
	}
	return conn, link, nil
}

func greet(conn *tls.Conn, h hello) error {
	deadline := time.Now().Add(greetTime)
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if err := conn.Handshake(); err != nil {
		return err
	}
	wait := answerTime
	if h.Kind == kindComplete {
		wait = diskTime
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if err := writeMessage(conn, h); err != nil {
		return err
	}
	var a answer
	if err := readMessage(conn, &a); err != nil {
		return err
	}
	if !a.OK {
		return refusal{a}
	}
	return conn.SetDeadline(time.Time{})
}

// explain says who refused, and what an alert of the other end means.
func (m *Manager) explain(link string, err error) error {
	var r refusal
	if errors.As(err, &r) {
		r.Text = m.peer() + " refuses: " + r.Text
		return r
	}
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		return fmt.Errorf("%s does not take this node's word (%w): the nodes' secrets differ: copy the secret file", m.peer(), err)
	}
	return fmt.Errorf("talk to %s over the %s: %w", m.peer(), link, err)
}
