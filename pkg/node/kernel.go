// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
)

// readEvents passes the kernel's hints on. What they say is shown; what holds is read from the maps.
func (n *node) readEvents(ctx context.Context, events *loader.Events) error {
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	for {
		e, err := events.Next()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Kind == loader.TakenOver || e.Kind == loader.Taken || e.Kind == loader.PeerSuspect {
			n.pacer.pulse() // the next tick announces, or confirms: let it be now
		}
		n.post(func() { n.kernelEvent(e) })
	}
}

func (n *node) kernelEvent(e loader.Event) {
	n.look() // first what must be done, then what is told
	if e.Identity >= len(n.Config.Identities) {
		return
	}
	if e.Kind == loader.PeerWord {
		return // too many to tell
	}
	n.tell(e.AtNS, e.Kind.String(), e.Identity, describe(e), nil)
}

func describe(e loader.Event) string {
	switch e.Kind {
	case loader.TakenOver:
		return fmt.Sprintf("generation %d, %v after the last evidence of the peer", core.Word(e.A).Gen(), time.Duration(e.AtNS-int64(e.B)))
	case loader.Taken, loader.Lapsed, loader.StoodDown:
		return fmt.Sprintf("generation %d", core.Word(e.A).Gen())
	case loader.Closed:
		return fmt.Sprintf("generation %d, the peer knows %d", core.Word(e.B).Gen(), core.Word(e.A).Gen())
	case loader.PeerDead, loader.PeerSuspect:
		return fmt.Sprintf("silent for %v", time.Duration(e.AtNS-int64(e.A)))
	case loader.SelfStall:
		return fmt.Sprintf("the detector ran %v late", time.Duration(e.A))
	case loader.AddressConflict:
		mac := net.HardwareAddr{byte(e.A), byte(e.A >> 8), byte(e.A >> 16), byte(e.A >> 24), byte(e.A >> 32), byte(e.A >> 40)}
		return fmt.Sprintf("%v claims %v", mac, e.Address)
	}
	return ""
}

// watchHost follows the NICs and repairs what was taken away.
func (n *node) watchHost(ctx context.Context) error {
	self := n.Config.Nodes[n.Config.Self]
	names := []string{self.Lan, self.Crossover}
	if self.Spare != "" {
		names = append(names, self.Spare)
	}
	return n.host.Watch(ctx, names, func(e host.Event) {
		n.post(func() { n.hostEvent(e) })
	})
}

func (n *node) hostEvent(e host.Event) {
	switch e.Kind {
	case host.EventLink, host.EventLinkGone:
		for role := range loader.Links {
			if nic(n.Config.Nodes[n.Config.Self], role) != e.Link.Name {
				continue
			}
			up := e.Kind == host.EventLink && e.Link.Up && e.Link.Carrier
			if up != n.loop.linkUp[role] {
				n.loop.linkUp[role] = up
				n.tell(loader.Now(), map[bool]string{true: "carrier-back", false: "carrier-lost"}[up], -1, loader.LinkNames[role]+" ("+e.Link.Name+")", nil)
			}
		}
		n.look()
	case host.EventRoutes:
		n.followRoutes()
	case host.EventAddrGone, host.EventResync:
		n.repairAddresses()
	}
}

// followRoutes gives the identities' tables what the lan NIC's routes have become.
func (n *node) followRoutes() {
	for i := range n.Config.Identities {
		n.repair(i, false)
	}
}

// repairAddresses puts back what somebody else took off an identity that is owned here.
func (n *node) repairAddresses() {
	for i, id := range n.loop.machine.Snapshot().Identities {
		n.repair(i, id.Addresses == "on")
	}
}

// repair brings an identity's routes, and its addresses if they are to be there, back
// to what they should be. However much changes, one repair waits at a time.
func (n *node) repair(i int, addresses bool) {
	if !n.effects.repairing[i].CompareAndSwap(false, true) {
		return
	}
	n.do(n.effects.addresses[i], func(ctx context.Context) {
		n.effects.repairing[i].Store(false)
		id := hostIdentities(n.Config)[i]
		err := n.host.Prepare(id)
		var missing []netip.Addr
		if err == nil && addresses {
			missing, err = n.host.Verify(id.Name)
		}
		if err == nil && len(missing) > 0 {
			err = n.putAddresses(i)
			n.tell(loader.Now(), "address-repaired", i, fmt.Sprintf("%d addresses were gone, %v first", len(missing), missing[0]), nil)
		}
		if err != nil && ctx.Err() == nil {
			n.tell(loader.Now(), "repair-failed", i, err.Error(), nil)
		}
	})
}
