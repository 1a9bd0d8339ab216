// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"slices"
	"sync"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

// prepareServices finds out what the starts of services would miss on this host, while none waits for it.
func (n *node) prepareServices(ctx context.Context) {
	if err := n.services.Prepare(ctx); err != nil && ctx.Err() == nil {
		n.tell(loader.Now(), "services-unprepared", -1, err.Error(), nil)
	}
}

// stopServices stops an identity's services; warm ones go on in standby, unless the daemon leaves.
func (n *node) stopServices(ctx context.Context, identity int) error {
	id := n.Config.Identities[identity]
	if n.goes.Load() {
		return n.services.Stop(ctx, id.Services)
	}
	return n.services.Standby(ctx, id.Services, service.Env{Identity: id.Name, Node: n.self()})
}

// serviceChanged is called by the manager, which must not wait for the loop: see row.
func (n *node) serviceChanged(s service.State) {
	identity := slices.IndexFunc(n.Config.Identities, func(id config.Identity) bool { return id.Name == s.Env.Identity })
	n.letIn(identity, s)
	n.told.post(n, serviceEvent(identity, s))
}

// serviceEvent is what the core is told. What it need not know wakes the loop all the same: the peers
// are told which services are up.
func serviceEvent(identity int, s service.State) any {
	switch {
	case s.Refused:
		return core.ServicesEnded{Identity: identity, Refused: true}
	case s.Phase == service.Failed && !s.CalledOff:
		return core.ServiceState{Identity: identity, Service: s.Service, Err: s.Reason}
	case s.Phase == service.Up, s.Phase == service.Standby:
		return core.ServiceState{Identity: identity, Service: s.Service, Healthy: true}
	case s.Phase == service.Stopped && s.Failure == "":
		return core.ServiceState{Identity: identity, Service: s.Service, Expired: true} // if it had failed
	}
	return func() {}
}

// row passes on what is told of services, in order: what was told last must be what the core takes
// for so. Whoever tells does not wait.
type row struct {
	mu    sync.Mutex // guards what follows
	list  []any
	going bool // a goroutine passes them on
}

func (r *row) post(n *node, ev any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, ev)
	if !r.going {
		r.going = true
		go r.pass(n)
	}
}

func (r *row) pass(n *node) {
	for {
		r.mu.Lock()
		list := r.list
		r.list, r.going = nil, len(list) > 0
		r.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, ev := range list {
			n.post(ev)
		}
	}
}

// letIn tells the kernel whether the service behind an identity's ports is ready, at the generation
// that it was started for: a new owner's clients wait for its own.
func (n *node) letIn(identity int, s service.State) {
	if identity < 0 {
		return
	}
	generation := uint64(0)
	if s.Ready() {
		generation = s.Env.Generation
	}
	for _, port := range s.Ports {
		if err := n.dp.SetReady(identity, port, generation); err != nil {
			n.tell(loader.Now(), "port-failed", identity, err.Error(), nil)
		}
	}
	if now, owned := n.ownedAt(identity); owned && generation == now {
		go n.tickle(identity, func(port uint16) bool { return slices.Contains(s.Ports, port) })
	}
}
