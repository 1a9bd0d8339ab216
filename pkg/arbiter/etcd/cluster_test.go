// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/arbiter/etcdtest"
)

// rig is a cluster and keepers on it, by true time.
type rig struct {
	*etcdtest.Cluster
	t     *testing.T
	g     *gates
	wires map[string][]*etcdtest.Wire
}

func newRig(t *testing.T) *rig {
	return &rig{Cluster: etcdtest.Start(t, nil), t: t, g: newGates(t), wires: map[string][]*etcdtest.Wire{}}
}

// keeper runs one with wires of its own; stop ends it.
func (r *rig) keeper(node string) *Keeper {
	r.t.Helper()
	var endpoints []string
	for _, e := range r.Endpoints() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.t.Fatal(err)
		}
		w := etcdtest.NewWire(r.t, l, e)
		r.wires[node] = append(r.wires[node], w)
		endpoints = append(endpoints, w.Endpoint())
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
