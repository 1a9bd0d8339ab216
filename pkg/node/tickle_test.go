// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
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

// greets has nodes greet who connects to that port.
func (c *cluster) greets(t *testing.T, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		g, err := c.Greet(node, port)
		must(t, err)
		t.Cleanup(func() { g.Close() })
	}
}

func (c *cluster) connect(t *testing.T, to netip.Addr) (conn net.Conn) {
	t.Helper()
	within(t, func(ctx context.Context) (err error) {
		conn, err = c.Connect(ctx, netip.AddrPortFrom(to, port))
		return err
	})
	t.Cleanup(func() { conn.Close() })
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

// knowClients waits until nodes know of so many connections.
func (c *cluster) knowClients(t *testing.T, count int, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		await(t, node+" knows of the connections", func() error {
			s, err := c.status(node)
			if err != nil {
				return err
			}
			id, err := identity(s, "files")
			if err == nil && (id.Tickle == nil || id.Tickle.Known != count) {
				err = fmt.Errorf("%+v, there are %d", id.Tickle, count)
			}
			return err
		})
	}
}

func TestAnIdleClientConnectsAgainAfterATakeover(t *testing.T) {
	for _, staging := range []string{"on-takeover", "ahead"} {
		t.Run(staging, func(t *testing.T) {
			c := running(t, lab.Scene{Service: fmt.Sprintf("ports: [%d]", port), Staging: staging})
			c.greets(t, lab.Serv1, lab.Serv2)
			clients := c.idleAtHome(t)
			c.knowClients(t, len(clients), lab.Serv1, lab.Serv2)
			since := c.lastEvent(t, lab.Serv2)
			within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
			c.noticed(t, lab.Serv2, clients)
			c.toldOfClients(t, lab.Serv2, since, len(clients))
			if early := frames(c.mustMetrics(t, lab.Serv2), `reason="not_ready"`); early != 0 {
				t.Errorf("clients were told before the service was ready: %v attempts to connect were dropped", early)
			}
			c.knowClients(t, len(clients), lab.Serv2) // its own, by now
		})
	}
}

// noticed waits until each client has noticed that a node took over, and is connected again.
func (c *cluster) noticed(t *testing.T, node string, clients []idle) {
	t.Helper()
	for _, i := range clients {
		select {
		case err := <-i.ended:
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection to %v ended with %v", i.to, err)
			}
		case <-time.After(patience):
			t.Fatalf("the client of %v notices nothing", i.to)
		}
		noticed := c.sinceFlip(t, node)
		c.connect(t, i.to)
		t.Logf("client of %v: has noticed the change of owner after %v, is connected again after %v", i.to, noticed, c.sinceFlip(t, node))
	}
}

// toldOfClients waits until a node has told, and counted, how many clients it has sent a segment.
func (c *cluster) toldOfClients(t *testing.T, node string, since uint64, count int) {
	t.Helper()
	await(t, "it is told", func() error { return c.hasEvent(node, since, "tickled", fmt.Sprintf("%d of %d clients", count, count)) })
	if sent := c.mustMetrics(t, node)[`xdpha_tickles_sent_total{identity="files"}`]; sent != float64(count) {
		t.Errorf("the metric says that %v were sent", sent)
	}
}

// What ends by itself in a hand-over is closed by its server. This one's is concurrent, as it were: it goes on, behind a closed gate.
func TestAnIdleClientConnectsAgainAfterAHandOver(t *testing.T) {
	c := running(t, lab.Scene{})
	c.greets(t, lab.Serv1, lab.Serv2)
	clients := c.idleAtHome(t)
	c.knowClients(t, len(clients), lab.Serv1, lab.Serv2)
	c.handOver(t, lab.Serv1, "files", lab.Serv2)
	c.noticed(t, lab.Serv2, clients)
}

// A node that boots knows of no connection until it is told.
func TestADaemonThatIsStartedAgainIsToldOfConnections(t *testing.T) {
	c := running(t, lab.Scene{})
	c.greets(t, lab.Serv1)
	clients := c.idleAtHome(t)
	c.knowClients(t, len(clients), lab.Serv2)
	must(t, c.Node(lab.Serv2).Kill())
	must(t, c.Node(lab.Serv2).Restart())
	await(t, "serv2 answers again", func() error { _, err := c.status(lab.Serv2); return err })
	c.knowClients(t, len(clients), lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultCrossover, files); return err })
	more := c.idle(t, files.Addr) // over the lan
	c.knowClients(t, len(clients)+1, lab.Serv2)
	select {
	case err := <-more.ended:
		t.Errorf("the last connection ended: %v", err)
	default:
	}
}

func TestWithoutATickleAnIdleClientNoticesNothing(t *testing.T) {
	c := running(t, lab.Scene{Service: fmt.Sprintf("ports: [%d]", port), NoTickle: true})
	c.greets(t, lab.Serv1, lab.Serv2)
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
