// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster is three members in this process, on loopback.
type Cluster struct {
	t       testing.TB
	configs []*embed.Config
	members []*embed.Etcd // nil: stopped
}

// freeURLs are addresses of loopback that nobody listens at.
func freeURLs(t testing.TB, scheme string, n int) (urls []url.URL) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all are taken before the first is given back
		urls = append(urls, url.URL{Scheme: scheme, Host: l.Addr().String()})
	}
	return urls
}

// Start runs three members until the test ends; security is that of their clients, nil: none.
func Start(t testing.TB, security *transport.TLSInfo) *Cluster {
	t.Helper()
	scheme := "http"
	if security != nil {
		scheme = "https"
	}
	c := &Cluster{t: t, members: make([]*embed.Etcd, 3)}
	clients, peers := freeURLs(t, scheme, 3), freeURLs(t, "http", 3)
	var initial []string
	for i := range peers {
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i].String()))
	}
	for i := range c.members {
		cfg := embed.NewConfig()
		cfg.Name, cfg.Dir = fmt.Sprintf("m%d", i), filepath.Join(t.TempDir(), "etcd")
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = clients[i:i+1], clients[i:i+1]
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peers[i:i+1], peers[i:i+1]
		cfg.InitialCluster = strings.Join(initial, ",")
		cfg.TickMs, cfg.ElectionMs = 50, 500
		cfg.LogLevel, cfg.LogOutputs = "panic", []string{"/dev/null"}
		cfg.UnsafeNoFsync = true
		if security != nil {
			cfg.ClientTLSInfo = *security
		}
		c.configs = append(c.configs, cfg)
	}
	t.Cleanup(func() { c.Stop(0, 1, 2) })
	c.Start(0, 1, 2)
	return c
}

// Start starts members, and waits until they are ready.
func (c *Cluster) Start(which ...int) {
	c.t.Helper()
	for _, i := range which {
		m, err := embed.StartEtcd(c.configs[i])
		if err != nil {
			c.t.Fatal(err)
		}
		c.members[i] = m
		c.configs[i].ClusterState = embed.ClusterStateFlagExisting
	}
	for _, i := range which {
		select {
		case <-c.members[i].Server.ReadyNotify():
		case <-time.After(time.Minute):
			c.t.Fatalf("member %d of the cluster is not ready", i)
		}
	}
}

// Stop stops members; what they hold stays.
func (c *Cluster) Stop(which ...int) {
	for _, i := range which {
		if c.members[i] != nil {
			c.members[i].Close()
			c.members[i] = nil
		}
	}
}

// Leader is the member that leads; -1: none.
func (c *Cluster) Leader() int {
	for i, m := range c.members {
		if m != nil && m.Server.Leader() == m.Server.MemberID() {
			return i
		}
	}
	return -1
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() (all []string) {
	for _, cfg := range c.configs {
		all = append(all, cfg.ListenClientUrls[0].String())
	}
	return all
}

// Wire is one client's way to one member; cut, it keeps what is sent without a word.
type Wire struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	cond *sync.Cond
	off  bool
	open []net.Conn
}

// NewWire leads from a listener, which may be in another network namespace, to a member.
func NewWire(t testing.TB, l net.Listener, endpoint string) *Wire {
	t.Helper()
	w := &Wire{l: l, to: strings.TrimPrefix(endpoint, "http://")}
	w.cond = sync.NewCond(&w.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", w.to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, in, out)
			w.mu.Unlock()
			wg.Go(func() { w.pass(in, out) })
			wg.Go(func() { w.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.Cut(false)
		w.mu.Lock()
		for _, c := range w.open {
			c.Close()
		}
		w.mu.Unlock()
		wg.Wait()
	})
	return w
}

func (w *Wire) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		w.mu.Lock()
		for w.off {
			w.cond.Wait()
		}
		w.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Cut holds everything back, or lets it pass again: all of it late.
func (w *Wire) Cut(off bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = off
	w.cond.Broadcast()
}

// Endpoint is what the client asks.
func (w *Wire) Endpoint() string { return "http://" + w.l.Addr().String() }
