// SPDX-License-Identifier: Apache-2.0

package line

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	MostGreeting = 16 // connections of a link from whom has not proved itself
	listenAgain  = time.Second
	acceptAgain  = 100 * time.Millisecond // after an error, which may last
)

// Run takes connections of the other nodes on each link until ctx ends; then all have ended.
func (l *Line) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	for i, r := range l.routes(l.config.Others()[0]) {
		from := map[netip.Addr]int{} // who may come on this link
		for _, node := range l.config.Others() {
			from[l.routes(node)[i].its] = node
		}
		serving.Go(func() {
			s := l.listener(ctx, r)
			if s == nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { s.Close() })
			defer stop()
			l.accept(ctx, s, r.name, from, &serving)
		})
	}
	serving.Wait()
}

// listener listens on a link, as soon as it can: that another program has the port must not keep a
// node from serving. It is nil when ctx ends first.
func (l *Line) listener(ctx context.Context, r route) net.Listener {
	lc := net.ListenConfig{Control: onSocket, KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false)
	for told := false; ; told = true {
		s, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(r.own, Port).String())
		if err == nil {
			return s
		}
		if !told {
			l.log.Error("cannot hear the other nodes' daemons yet", "link", r.name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

func (l *Line) accept(ctx context.Context, s net.Listener, link string, known map[netip.Addr]int, serving *sync.WaitGroup) {
	greeting := make(chan struct{}, MostGreeting) // a link's own: a flood on the lan leaves the crossover alone
	for ctx.Err() == nil {
		c, err := s.Accept()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(acceptAgain):
			}
			continue
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		node, ours := known[from.Addr().Unmap()]
		if err != nil || !ours {
			c.Close() // none of the nodes, whoever it is
			continue
		}
		select {
		case greeting <- struct{}{}:
		default:
			c.Close() // more than a node has use for
			continue
		}
		serving.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			conn, err := l.hear(c, node, link)
			<-greeting
			if err == nil {
				err = l.serve[conn.ConnectionState().NegotiatedProtocol](ctx, conn)
			}
			if err != nil && ctx.Err() == nil {
				l.log.Warn("connection of another node's daemon", "node", l.name(node), "from", from, "err", err)
			}
		})
	}
}

// hear takes the other end's proof.
func (l *Line) hear(c net.Conn, node int, link string) (*Conn, error) {
	protocols := slices.Sorted(maps.Keys(l.serve))
	conn := &Conn{Conn: tls.Server(c, l.keys.Load().tls(node, protocols...)), Node: node, Link: link, name: l.name(node)}
	if err := conn.SetDeadline(time.Now().Add(GreetTime)); err != nil {
		return nil, err
	}
	return conn, conn.Handshake()
}
