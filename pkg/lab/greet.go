// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// Greeter is a server that greets who connects, and then says nothing more.
type Greeter struct {
	l     net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

const greeting = "!"

// Greet starts a server on all addresses of a node.
func (l *Lab) Greet(node string, port uint16) (*Greeter, error) {
	g := &Greeter{}
	err := l.Do(node, func() (err error) {
		g.l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("greet on %s: %w", node, err)
	}
	go func() {
		for {
			c, err := g.l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, greeting) // who does not get it has a complaint
			g.mu.Lock()
			g.conns = append(g.conns, c)
			g.mu.Unlock()
		}
	}()
	return g, nil
}

// Close ends the server and its connections.
func (g *Greeter) Close() error {
	err := g.l.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	return err
}

// Connect connects the client to a greeter, and returns when it has been greeted. The connection says nothing by
// itself, not even that it lives.
func (l *Lab) Connect(ctx context.Context, to netip.AddrPort) (c net.Conn, err error) {
	err = l.Do(Client, func() (err error) {
		d := net.Dialer{KeepAlive: -1}
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", to, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	_, err = io.ReadFull(c, make([]byte, len(greeting)))
	if !stop() || err != nil {
		c.Close()
		return nil, fmt.Errorf("be greeted by %v: %w", to, err)
	}
	return c, nil
}
