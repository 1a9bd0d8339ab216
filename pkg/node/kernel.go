// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
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
	text := describe(e)
	if n.Config.Many() && e.Node >= 0 && e.Node < len(n.Config.Nodes) {
		text = strings.TrimSuffix(n.Config.Nodes[e.Node].Name+": "+text, ": ")
	}
	n.tell(e.AtNS, e.Kind.String(), e.Identity, text, nil)
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
		n.linkEvent(e)
		n.look()
	case host.EventRoutes:
		n.followRoutes()
	case host.EventResync:
		if e.Err != nil {
			n.tell(loader.Now(), "host-read-again", -1, fmt.Sprintf("messages of the kernel about links and addresses were lost (%v): all was read again", e.Err), nil)
		}
		n.repairAddresses()
	case host.EventAddrGone, host.EventRouteGone:
		n.repairAddresses()
	}
}

func (n *node) linkEvent(e host.Event) {
	for role := range loader.Links {
		if nic(n.Config.Nodes[n.Config.Self], role) != e.Link.Name {
			continue
		}
		n.nicChanged(role, e)
		up := e.Kind == host.EventLink && e.Link.Up && e.Link.Carrier
		if up != n.loop.linkUp[role] {
			n.loop.linkUp[role] = up
			n.tell(loader.Now(), map[bool]string{true: "carrier-back", false: "carrier-lost"}[up], -1, loader.LinkNames[role]+" ("+e.Link.Name+")", nil)
		}
		return
	}
	if e.Kind == host.EventLinkGone || !e.Link.Up { // a device of ours
		n.repairAddresses()
	}
}

// followRoutes gives the identities' tables what the lan NIC's routes have become.
func (n *node) followRoutes() {
	for i := range n.Config.Identities {
		n.repair(i, false, false)
	}
}

// repairAddresses puts back what somebody else took off an identity that is owned here.
func (n *node) repairAddresses() {
	for i, id := range n.loop.machine.Snapshot().Identities {
		n.repair(i, id.Addresses == "on", true)
	}
}

// repair brings an identity's routes, and its addresses if they are to be there, back
// to what they should be. However much changes, one repair waits at a time. What was
// taken away from us counts, what follows the lan NIC's routes does not.
func (n *node) repair(i int, addresses, taken bool) {
	r := &n.effects.repairing[i]
	if addresses {
		r.addresses.Store(true)
	}
	if taken {
		r.taken.Store(true)
	}
	if !r.waits.CompareAndSwap(false, true) {
		return
	}
	n.effects.addresses[i].put(func(ctx context.Context) {
		r.waits.Store(false)
		err := n.putBack(i, r.addresses.Swap(false), r.taken.Swap(false))
		if err != nil && ctx.Err() == nil && !errors.Is(err, errNoNIC) {
			n.tell(loader.Now(), "repair-failed", i, err.Error(), nil)
		}
	})
}

func (n *node) putBack(i int, addresses, taken bool) error {
	name := n.Config.Identities[i].Name
	var broken error
	if taken {
		_, broken = n.host.Verify(name)
	}
	missing, err := n.preparePaths(i)
	if err != nil {
		return err
	}
	if errors.Is(broken, host.ErrNotPrepared) {
		n.repaired(i, repairPaths)
		n.tell(loader.Now(), "path-repaired", i, broken.Error(), nil)
	}
	if !addresses || len(missing) == 0 {
		return nil
	}
	if err := n.putAddresses(i); err != nil {
		return n.orNoNIC(i, err)
	}
	n.repaired(i, repairAddresses)
	n.tell(loader.Now(), "address-repaired", i, fmt.Sprintf("%d addresses were gone, %v first", len(missing), missing[0]), nil)
	return nil
}
