// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync/atomic"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
)

// carriers are the links whose NICs carry the identities here. The kernel's map says the same, as
// interface indexes: both change together, in the lane of the NICs.
type carriers [loader.MaxIdentities]atomic.Int32

func (c *carriers) of(identity int) int { return int(c[identity].Load()) }

// regularCarrier is the link whose NIC carries an identity on a node as a rule: at home the lan NIC,
// away from home the spare one.
func regularCarrier(cfg *config.Config, id config.Identity, node int) int {
	if id.Home == node || cfg.Nodes[node].Spare == "" {
		return loader.Lan
	}
	return loader.Spare
}

func (n *node) regular(identity int) int {
	return regularCarrier(n.Config, n.Config.Identities[identity], n.Config.Self)
}

// aside reports whether an identity is on the other NIC than its regular one.
func (n *node) aside(identity int) bool { return n.carriers.of(identity) != n.regular(identity) }

// findCarriers leaves each identity on the NIC where the last daemon had it. Of another configuration's
// identities that may be wrong: then it goes to its regular one, as the core decides.
func (n *node) findCarriers(at []int) {
	for i := range n.Config.Identities {
		role := n.regular(i)
		for _, other := range []int{loader.Lan, loader.Spare} {
			if index := n.places[other].Load(); i < len(at) && index != 0 && int(index) == at[i] {
				role = other
			}
		}
		n.carriers[i].Store(int32(role))
	}
}

// carry lets the other NIC carry an identity: the kernel's gate first, in one store, then its device.
func (n *node) carry(a core.Carry) {
	role := loader.Lan
	if a.Spare {
		role = loader.Spare
	}
	n.effects.nics.put(func(context.Context) {
		n.carriers[a.Identity].Store(int32(role))
		err := n.dp.Carry(a.Identity, int(n.places[role].Load()))
		n.effects.addresses[a.Identity].put(func(context.Context) {
			if err == nil {
				err = n.prepareIdentity(a.Identity)
			}
			if err == nil && a.Addresses {
				err = n.putAddresses(a.Identity)
			}
			if err == nil {
				err = n.announce.Prepare(host.DeviceName(n.Config.Identities[a.Identity].Name))
			}
			n.report(a.Op, err)
		})
	})
}
