// SPDX-License-Identifier: Apache-2.0

package line

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lanHeadStart = 300 * time.Millisecond
	dialTime     = 3 * time.Second
)

// keepAlive finds a cable that is cut while nothing is sent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 4}

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

// connected is a way that was found, or why not.
type connected struct {
	conn net.Conn
	link string
	err  error
}

// dial tries the crossover, and the lan too if the crossover does not answer soon; the first to
// answer is taken. A connection that begins later finds a crossover that is back.
func (l *Line) dial(ctx context.Context, node int) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	found := make(chan connected)
	failed := make(chan struct{})
	routes := l.routes(node)
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
			return nil, "", fmt.Errorf("reach %s: %w", l.name(node), context.Cause(ctx))
		case f := <-found:
			if f.err == nil {
				return f.conn, f.link, nil
			}
			why = append(why, f.link+": "+f.err.Error())
		}
	}
	return nil, "", fmt.Errorf("reach %s: %s", l.name(node), strings.Join(why, "; "))
}
