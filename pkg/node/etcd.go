// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/arbiter/etcd"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/metrics"
)

// etcdPrefix is that of all keys.
const etcdPrefix = "/xdpha"

// prepareEtcd makes the keeper of the identities' keys. What an earlier daemon told the kernel of
// them ends first: this one would not know that it must take it back.
func (n *node) prepareEtcd() (err error) {
	e, timing := n.Config.Arbiter.Etcd, n.Config.Timing
	if e == nil {
		return nil
	}
	o := etcd.Options{
		Endpoints: e.Endpoints, Prefix: etcdPrefix, Cluster: n.Config.Cluster, Node: n.self(), Boot: fmt.Sprintf("%016x", n.dp.State(0).BootID),
		TTL: e.TTL, ClockError: config.ClockError, Linger: timing.Linger, Now: loader.Now, Leave: n.dp.SetLeave, Changed: n.hint,
	}
	for i, id := range n.Config.Identities {
		o.Identities = append(o.Identities, id.Name)
		n.dp.SetLeave(i, 0, 0)
	}
	if o.TLS, err = etcd.TLS(e.CA, e.Cert, e.Key); err != nil {
		return err
	}
	n.keeper, err = etcd.New(o)
	return err
}

// hint makes the loop read everything, if it is not about to anyway.
func (n *node) hint() {
	select {
	case n.inbox <- hint{}:
	default:
	}
}

// closeEtcd lets go of the keys, or leaves them to whoever comes after this daemon.
func (n *node) closeEtcd() error {
	if n.keeper == nil {
		return nil
	}
	var err error
	if n.clean {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = n.keeper.Release(ctx)
	}
	return errors.Join(err, n.keeper.Close())
}

// seeEtcd puts what is known of the keys into a reading, and tells when etcd is lost or back.
func (n *node) seeEtcd(o *core.Observed, s *loader.State) {
	if n.keeper == nil {
		return
	}
	for _, c := range n.keeper.Claims() {
		o.Keys = append(o.Keys, core.Key{Held: c.Generation, Stored: c.Stored, Elsewhere: c.Holder != "" && c.Holder != n.self()})
	}
	now, was := n.keeper.State(), n.loop.etcd
	n.loop.etcd = now
	switch {
	case now.Reached && !was.Reached:
		n.tell(s.AtNS, "etcd-reached", -1, "etcd answers", nil)
	case now.Error != "" && (was.Reached || was.Error == ""):
		n.tell(s.AtNS, "etcd-lost", -1, now.Error, nil)
	}
}

// etcdStatus is what status shows of it.
func (n *node) etcdStatus(s *loader.State) *control.Etcd {
	if n.keeper == nil {
		return nil
	}
	state := n.keeper.State()
	out := &control.Etcd{Endpoints: n.Config.Arbiter.Etcd.Endpoints, Reached: state.Reached, Error: state.Error}
	for i, c := range n.keeper.Claims() {
		k := control.EtcdKey{Identity: n.Config.Identities[i].Name, Holder: c.Holder, Generation: c.Stored}
		if c.Generation != 0 {
			k.LeftUS = max(0, c.UntilNS-s.AtNS) / 1000
		}
		out.Keys = append(out.Keys, k)
	}
	return out
}

// etcdMetrics is what Prometheus sees of it.
func (n *node) etcdMetrics() *metrics.Etcd {
	if n.keeper == nil {
		return nil
	}
	m := &metrics.Etcd{Reached: n.keeper.State().Reached, Held: map[string]bool{}}
	for i, c := range n.keeper.Claims() {
		m.Held[n.Config.Identities[i].Name] = c.Generation != 0
	}
	return m
}
