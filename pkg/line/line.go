// SPDX-License-Identifier: Apache-2.0

package line

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// Port is where the daemons listen, on the crossover's and the lan's address of their node.
const Port = 9641

// The links, the better one first.
const (
	Crossover = "crossover"
	Lan       = "lan"
)

// GreetTime is for the handshake and the first word after it.
const GreetTime = 5 * time.Second

// Serve takes what another node says. The deadline for its first word runs; the connection is closed afterwards.
type Serve func(ctx context.Context, c *Conn) error

// Line is one node's end of all connections.
type Line struct {
	config *config.Config
	log    *slog.Logger
	keys   atomic.Pointer[credentials]
	serve  map[string]Serve
}

// New returns a line that nothing is served on yet.
func New(cfg *config.Config, log *slog.Logger) (*Line, error) {
	l := &Line{config: cfg, log: log, serve: map[string]Serve{}}
	return l, l.UseKeys(cfg)
}

// Handle has a protocol served; before Run.
func (l *Line) Handle(protocol string, f Serve) { l.serve[protocol] = f }

// UseKeys takes the secrets of a configuration that differs in nothing else. Connections that are there stay.
func (l *Line) UseKeys(cfg *config.Config) error {
	c, err := newCredentials(cfg)
	if err != nil {
		return err
	}
	l.keys.Store(c)
	return nil
}

// Conn is a connection to another node, which has proved itself, or will have done so with its first word.
type Conn struct {
	*tls.Conn
	Node int    // the other one: an index into Config.Nodes
	Link string // Crossover or Lan
	name string // of Node
}

// Call connects to a node for a protocol. There is no deadline yet.
func (l *Line) Call(ctx context.Context, node int, protocol string) (*Conn, error) {
	raw, link, err := l.dial(ctx, node)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tls.Client(raw, l.keys.Load().tls(node, protocol)), Node: node, Link: link, name: l.name(node)}
	greeting, cancel := context.WithTimeout(ctx, GreetTime)
	defer cancel()
	if err := c.HandshakeContext(greeting); err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, c.Explain(err)
	}
	return c, nil
}

// Explain says where an error comes from, and what an alert of the other end means: it may come as late as with
// the first answer.
func (c *Conn) Explain(err error) error {
	var remote *net.OpError
	switch {
	case !errors.As(err, &remote) || remote.Op != "remote error":
		return fmt.Errorf("talk to %s over the %s: %w", c.name, c.Link, err)
	case strings.Contains(err.Error(), "no application protocol"): // crypto/tls does not export its alerts
		return fmt.Errorf("%s knows nothing of this (%w): install the same xdpha on all nodes", c.name, err)
	}
	return fmt.Errorf("%s does not take this node's word (%w): the nodes' secrets differ: copy the secret file", c.name, err)
}

func (l *Line) name(node int) string { return l.config.Nodes[node].Name }

// route is one way to another node.
type route struct {
	name     string
	own, its netip.Addr
}

func (l *Line) routes(node int) []route {
	self, other := l.config.Nodes[l.config.Self], l.config.Nodes[node]
	return []route{{Crossover, self.CrossAddr.Addr(), other.CrossAddr.Addr()}, {Lan, self.LanAddr.Addr(), other.LanAddr.Addr()}}
}
