// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"crypto/tls"
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

// realCluster is three members in this process, on loopback.
type realCluster struct {
	t       *testing.T
	configs []*embed.Config
	members []*embed.Etcd // nil: stopped
}

// freeURLs are addresses of loopback that nobody listens at.
func freeURLs(t *testing.T, scheme string, n int) (urls []url.URL) {
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

func startCluster(t *testing.T, security *transport.TLSInfo) *realCluster {
	t.Helper()
	scheme := "http"
	if security != nil {
		scheme = "https"
	}
	c := &realCluster{t: t, members: make([]*embed.Etcd, 3)}
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
	t.Cleanup(func() { c.stop(0, 1, 2) })
	c.start(0, 1, 2)
	return c
}

func (c *realCluster) start(which ...int) {
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

func (c *realCluster) stop(which ...int) {
	for _, i := range which {
		if c.members[i] != nil {
			c.members[i].Close()
			c.members[i] = nil
		}
	}
}

func (c *realCluster) leader() int {
	for i, m := range c.members {
		if m != nil && m.Server.Leader() == m.Server.MemberID() {
			return i
		}
	}
	return -1
}

func (c *realCluster) endpoints() (all []string) {
	for _, cfg := range c.configs {
		all = append(all, cfg.ListenClientUrls[0].String())
	}
	return all
}

// wire is one keeper's way to one member; cut, it drops what is sent without a word.
type wire struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	cond *sync.Cond
	off  bool
	open []net.Conn
}

func newWire(t *testing.T, endpoint string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l, to: strings.TrimPrefix(endpoint, "http://")}
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
		w.cut(false)
		w.mu.Lock()
		for _, c := range w.open {
			c.Close()
		}
		w.mu.Unlock()
		wg.Wait()
	})
	return w
}

func (w *wire) pass(from, to net.Conn) {
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

// cut holds everything back, or lets it pass again: all of it late.
func (w *wire) cut(off bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = off
	w.cond.Broadcast()
}

func (w *wire) endpoint() string { return "http://" + w.l.Addr().String() }

// rig is a cluster and keepers on it, by true time.
type rig struct {
	*realCluster
	g     *gates
	wires map[string][]*wire
}

func newRig(t *testing.T) *rig {
	return &rig{realCluster: startCluster(t, nil), g: newGates(t), wires: map[string][]*wire{}}
}

// keeper runs one with wires of its own; stop ends it.
func (r *rig) keeper(node string) *Keeper {
	r.t.Helper()
	var endpoints []string
	for _, e := range r.endpoints() {
		w := newWire(r.t, e)
		r.wires[node] = append(r.wires[node], w)
		endpoints = append(endpoints, w.endpoint())
	}
	return r.g.dialed(node, endpoints, nil)
}

func (g *gates) dialed(node string, endpoints []string, security *tls.Config) *Keeper {
	k := g.keep(node, node, 1, nil)
	k.Endpoints, k.TLS, k.Prefix = endpoints, security, "/xdpha"
	k, err := New(k.Options)
	if err != nil {
		g.t.Fatal(err)
	}
	return k
}

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in a minute it did not come true that %s", what)
		}
	}
}
