// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
)

// places are the interface indexes at which the programs are, by link; 0: the link's NIC is gone. The
// configuration names NICs: one that is renamed is gone, one that comes under the name is taken.
type places [loader.Links]atomic.Int32

// errNoNIC says that an identity's carrier is not there: nothing can be repaired until it is.
var errNoNIC = errors.New("the NIC is gone")

// carried are the identities that a link's NIC carries here.
func (n *node) carried(role int) (list []int) {
	for i := range n.Config.Identities {
		if n.carriers.of(i) == role {
			list = append(list, i)
		}
	}
	return list
}

// carrierStands tells whether an identity's device may be put on its carrier: not before the gate is there.
func (n *node) carrierStands(identity int) error {
	role := n.carriers.of(identity)
	at := n.places[role].Load()
	if at == 0 {
		return errNoNIC
	}
	l, err := n.host.LinkInfo(nic(n.Config.Nodes[n.Config.Self], role))
	if err == nil && l.Index != int(at) {
		err = errNoNIC
	}
	if host.IsGone(err) {
		return errNoNIC
	}
	return err
}

// prepareIdentity puts an identity's device, rules and routes in place, if its carrier stands.
func (n *node) prepareIdentity(identity int) error {
	if err := n.carrierStands(identity); err != nil {
		return err
	}
	return n.orNoNIC(identity, n.host.Prepare(n.hostIdentity(identity)))
}

// orNoNIC is what went wrong with an identity's device, or that its NIC went meanwhile: no failure then.
func (n *node) orNoNIC(identity int, err error) error {
	if err != nil && errors.Is(n.carrierStands(identity), errNoNIC) {
		return errNoNIC
	}
	return err
}

// pathTries bounds how often in a row an identity's paths are followed that change while they are put in place.
const pathTries = 5

// preparePaths is prepareIdentity, seen to be done. What the lan NIC's routes become while this goes on
// is no failure: it is followed. missing are the addresses that are not on the device.
func (n *node) preparePaths(identity int) (missing []netip.Addr, err error) {
	for range pathTries {
		if err = n.prepareIdentity(identity); err != nil {
			return nil, err
		}
		if missing, err = n.host.Verify(n.Config.Identities[identity].Name); !errors.Is(err, host.ErrNotPrepared) {
			break
		}
	}
	return missing, n.orNoNIC(identity, err)
}

// findNICs notes which NICs there are at the start. One that is missing may come later; with none
// there is nothing to do.
func (n *node) findNICs() error {
	self, present := n.Config.Nodes[n.Config.Self], 0
	for role := range loader.Links {
		name := nic(self, role)
		if name == "" {
			continue
		}
		l, err := n.host.LinkInfo(name)
		switch {
		case host.IsGone(err):
			n.trouble(troubleNIC, role, nicGoneText(role, name))
			n.Log.Warn("a NIC is missing", "link", loader.LinkNames[role], "interface", name)
		case err != nil:
			return err
		case len(l.MAC) != 6:
			return fmt.Errorf("prepare link %s: %s is no Ethernet NIC", loader.LinkNames[role], name)
		default:
			present++
			n.places[role].Store(int32(l.Index))
			n.loop.linkUp[role] = l.Up && l.Carrier
		}
	}
	if present == 0 {
		return fmt.Errorf("find the NICs of %s: there is none of %s, %s, %s: correct their names in the configuration, or plug them in", self.Name, self.Crossover, self.Lan, self.Spare)
	}
	return nil
}

func nicGoneText(role int, name string) string {
	return fmt.Sprintf("%s: there is no %s: it was removed or renamed; when a NIC of that name comes, it is used", loader.LinkNames[role], name)
}

// nicGone: the loop's part ends at once, the kernel's as soon as it is told.
func (n *node) nicGone(role int) {
	n.places[role].Store(0)
	n.tellTrouble(troubleNIC, role, nicGoneText(role, nic(n.Config.Nodes[n.Config.Self], role)), "")
	n.effects.nics.put(func(context.Context) {
		if err := n.dp.DropNIC(role, n.carried(role)); err != nil {
			n.tell(loader.Now(), "nic-failed", -1, err.Error(), nil)
		}
	})
}

// nicChanged follows a link's NIC. One that is switched off carries no device: it is taken when it is on.
func (n *node) nicChanged(role int, e host.Event) {
	at := int(n.places[role].Load())
	switch {
	case e.Kind == host.EventLinkGone:
		if at != 0 && (e.Link.Index == 0 || e.Link.Index == at) {
			n.nicGone(role)
		}
	case e.Link.Index == at:
	case !e.Link.Up:
		n.trouble(troubleNIC, role, fmt.Sprintf("%s: %s is back, but switched off: ip link set %s up", loader.LinkNames[role], e.Link.Name, e.Link.Name))
	case len(e.Link.MAC) == 6:
		n.effects.nics.put(func(ctx context.Context) { n.takeNIC(ctx, role, e.Link) })
	}
}

// takeNIC puts the programs on a NIC, and then what it carries.
func (n *node) takeNIC(ctx context.Context, role int, l host.Link) {
	if n.places[role].Load() == int32(l.Index) {
		return
	}
	if err := n.dp.MoveNIC(role, l.Index, [6]byte(l.MAC), n.carried(role)); err != nil {
		if ctx.Err() == nil {
			n.tellTrouble(troublePrograms, role, err.Error(), "")
			time.AfterFunc(followAgain, func() { n.post(func() { n.lookForNIC(role) }) })
		}
		return
	}
	n.places[role].Store(int32(l.Index))
	n.trouble(troublePrograms, role, "")
	n.tellTrouble(troubleNIC, role, "", fmt.Sprintf("%s: %s is there and is used", loader.LinkNames[role], l.Name))
	n.post(func() {
		for _, i := range n.carried(role) {
			n.restage(i)
		}
		n.repairAddresses() // whose routes follow it
	})
}

// lookForNIC tries again what failed.
func (n *node) lookForNIC(role int) {
	l, err := n.host.LinkInfo(nic(n.Config.Nodes[n.Config.Self], role))
	if host.IsGone(err) {
		n.trouble(troublePrograms, role, "")
	}
	if err == nil {
		n.nicChanged(role, host.Event{Kind: host.EventLink, Link: l})
	}
}

// restage puts back what went with an identity's carrier, and lets everybody know where it is.
func (n *node) restage(i int) {
	wanted := n.loop.machine.Snapshot().Identities[i].Addresses == "on"
	n.effects.addresses[i].put(func(ctx context.Context) {
		wanted := wanted || n.dp.Word(i).Has(core.Owner)
		_, err := n.preparePaths(i)
		if err == nil && wanted {
			err = n.putAddresses(i)
		}
		if err == nil {
			err = n.announce.Prepare(host.DeviceName(n.Config.Identities[i].Name))
		}
		err = n.orNoNIC(i, err)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errNoNIC) {
			n.tell(loader.Now(), "repair-failed", i, err.Error(), nil)
			return
		}
		if word := n.dp.Word(i); err == nil && wanted && word.Has(core.Owner) {
			n.announceIdentity(core.Announce{Identity: i, Generation: word.Gen()})
		}
	})
}

const (
	guardEvery  = time.Second
	verifyEvery = 10 // of these: rules, for one, are taken away without a message
)

// watchPrograms sees that nobody has detached the programs, or taken away what no message tells of.
func (n *node) watchPrograms(ctx context.Context) error {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n.effects.nics.put(func(context.Context) {
			for role := range loader.Links {
				if at := int(n.places[role].Load()); at != 0 {
					n.guardNIC(role, at)
				}
			}
		})
		if turn%verifyEvery == 0 {
			n.post(n.repairAddresses)
		}
	}
}

// guardNIC puts the programs back where they are missing, if the NIC still is the same.
func (n *node) guardNIC(role, at int) {
	on, err := n.dp.Attached(role, at)
	if on || err != nil {
		return
	}
	l, err := n.host.LinkInfo(nic(n.Config.Nodes[n.Config.Self], role))
	switch {
	case host.IsGone(err):
		n.post(func() { n.nicGone(role) }) // as the watch tells, unless it was taken in that very moment
		return
	case err != nil || len(l.MAC) != 6:
		return
	case l.Index != at:
		n.post(func() { n.lookForNIC(role) })
		return
	}
	if err := n.dp.MoveNIC(role, at, [6]byte(l.MAC), n.carried(role)); err != nil {
		n.tellTrouble(troublePrograms, role, fmt.Sprintf("the programs were taken off %s, and cannot be put back: %v", l.Name, err), "")
		return
	}
	if !n.trouble(troublePrograms, role, "") {
		n.tell(loader.Now(), troublePrograms, -1, fmt.Sprintf("somebody took the programs off %s: they are back", l.Name), nil)
		return
	}
	n.tell(loader.Now(), troublePrograms, -1, fmt.Sprintf("the programs are back on %s", l.Name), nil)
}
