// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// port is the one of both identities' services: until they are ready, new connections are held back.
const port = 4450

// listen has a node greet who connects, and then say nothing more.
func (c *cluster) listen(t *testing.T, node string) {
	t.Helper()
	var l net.Listener
	must(t, c.Do(node, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := io.WriteString(conn, "!"); err != nil {
				t.Error(err)
			}
		}
	}()
}

// connect connects the client to an address, and returns when it has been greeted.
func (c *cluster) connect(t *testing.T, to netip.Addr) net.Conn {
	t.Helper()
	var conn net.Conn
	must(t, c.Do(lab.Client, func() (err error) {
		d := net.Dialer{Timeout: patience, KeepAlive: -1}
		conn, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String())
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	must(t, conn.SetReadDeadline(time.Time{}))
	return conn
}

// idle is a client that waits for its server to say something.
type idle struct {
	to    netip.Addr
	ended chan error // why it waits no longer
}

func (c *cluster) idle(t *testing.T, to netip.Addr) idle {
	t.Helper()
	conn, i := c.connect(t, to), idle{to, make(chan error, 1)}
	go func() {
		_, err := conn.Read(make([]byte, 1))
		i.ended <- err
	}()
	return i
}

// idleAtHome are idle clients of files on serv1.
func (c *cluster) idleAtHome(t *testing.T) (clients []idle) {
	t.Helper()
	c.listen(t, lab.Serv1)
	c.listen(t, lab.Serv2)
	clients = append(clients, c.idle(t, files.Addr))
	if lab.HasIPv6() {
		clients = append(clients, c.idle(t, files.Addr6))
	}
	return clients
}

func (c *cluster) tickle(t *testing.T, node string) *control.Tickle {
	t.Helper()
	id, err := identity(c.mustStatus(t, node), "files")
	must(t, err)
	return id.Tickle
}

// sinceFlip is the time since a node's kernel took files over.
func (c *cluster) sinceFlip(t *testing.T, node string) time.Duration {
	t.Helper()
	now := lab.NowNs()
	id, err := identity(c.mustStatus(t, node), "files")
	must(t, err)
	if id.Takeover == nil {
		t.Fatalf("%s took nothing over", node)
	}
	return time.Duration(now - id.Takeover.Timeline.AtNS - id.Takeover.Timeline.FlipUS*1000)
}

func TestAnIdleClientConnectsAgainAfterATakeover(t *testing.T) {
	c := running(t, lab.Scene{Service: fmt.Sprintf("ports: [%d]", port)})
	clients := c.idleAtHome(t)
	for _, node := range []string{lab.Serv1, lab.Serv2} {
		await(t, node+" knows of the connections", func() error {
			if k := c.tickle(t, node); k == nil || k.Known != len(clients) || k.Sent != 0 {
				return fmt.Errorf("%+v, there are %d", k, len(clients))
			}
			return nil
		})
	}
	since := c.lastEvent(t, lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	for _, i := range clients {
		select {
		case err := <-i.ended:
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection to %v ended with %v", i.to, err)
			}
		case <-time.After(patience):
			t.Fatalf("the client of %v notices nothing", i.to)
		}
		noticed := c.sinceFlip(t, lab.Serv2)
		c.connect(t, i.to)
		t.Logf("client of %v: has noticed the takeover after %v, is connected again after %v", i.to, noticed, c.sinceFlip(t, lab.Serv2))
	}
	await(t, "it is told", func() error { return c.hasEvent(lab.Serv2, since, "tickled", "files") })
	want := fmt.Sprintf("%d of %d clients", len(clients), len(clients))
	must(t, c.hasEvent(lab.Serv2, since, "tickled", want))
	m := c.mustMetrics(t, lab.Serv2)
	if sent := m[`xdpha_tickles_sent_total{identity="files"}`]; sent != float64(len(clients)) {
		t.Errorf("the metric says that %v were sent", sent)
	}
	await(t, "serv2 knows of its own connections", func() error {
		if k := c.tickle(t, lab.Serv2); k.Known != len(clients) {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
}

func TestWithoutATickleAnIdleClientNoticesNothing(t *testing.T) {
	c := running(t, lab.Scene{Service: fmt.Sprintf("ports: [%d]", port), NoTickle: true})
	clients := c.idleAtHome(t)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	for _, i := range clients {
		c.connect(t, i.to) // whoever asks is served
	}
	stays(t, "the idle clients wait", 3*time.Second, func() error {
		for _, i := range clients {
			select {
			case err := <-i.ended:
				return fmt.Errorf("the client of %v: %w", i.to, err)
			default:
			}
		}
		return nil
	})
	t.Logf("%v after the takeover the idle clients have noticed nothing", c.sinceFlip(t, lab.Serv2))
	if k := c.tickle(t, lab.Serv2); k != nil {
		t.Errorf("the status says %+v", k)
	}
}
