// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"net"
	"slices"
	"time"
)

// carrierName is how much of an identity's name its device's name can hold
// (xd-NAME, 15 characters in all).
const carrierName = 12

func (c *checker) identities() {
	raw := c.raw.identities
	if len(raw) == 0 {
		c.add(cmp.Or(c.raw.identitiesAt, top), "no identities; write at least one, as in identities: {files: {home: serv1, addresses: [192.0.2.21/24]}}")
		return
	}
	if len(raw) > MaxIdentities {
		c.add(raw[MaxIdentities].name.at, "%d identities, the limit is %d; join some, an identity can have many addresses", len(raw), MaxIdentities)
		return
	}
	slices.SortFunc(raw, byName(func(r *rawIdentity) string { return r.name.v }))
	macs, devices := map[[6]byte]string{}, map[string]string{}
	for i := range raw {
		id := c.identity(&raw[i])
		if other, ok := macs[id.MAC]; ok {
			c.add(place(raw[i].mac, raw[i].name.at), "identity %s has the MAC of %s, %s; write another one or auto", id.Name, other, net.HardwareAddr(id.MAC[:]))
		}
		macs[id.MAC] = id.Name
		device := id.Name[:min(len(id.Name), carrierName)]
		if other, ok := devices[device]; ok {
			c.add(raw[i].name.at, "identity %s begins like %s, their devices would both be xd-%s; differ in the first %d characters", id.Name, other, device, carrierName)
		}
		devices[device] = id.Name
		c.cfg.Identities = append(c.cfg.Identities, id)
	}
}

func (c *checker) identity(r *rawIdentity) Identity {
	id := Identity{
		Name:          r.name.v,
		MAC:           c.mac(r),
		StagingAhead:  r.staging.v == "ahead",
		NoTickle:      !or(r.tickle, true),
		Failback:      or(r.failback, "manual"),
		FailbackAfter: or(r.failbackAfter, time.Duration(0)),
	}
	id.Home = c.home(r)
	id.Prefer = c.prefer(r, id.Home)
	c.identityAddresses(r, &id)
	switch auto := id.Failback == "auto"; {
	case auto && !r.failbackAfter.set:
		id.FailbackAfter = defaultFailbackAfter
	case !auto && r.failbackAfter.set:
		c.add(r.failbackAfter.at, "failback_after without failback: auto has no effect; write failback: auto or leave it out")
	}
	for _, s := range r.services.items {
		id.Services = append(id.Services, s.v)
	}
	for _, m := range r.mirror.items {
		id.Mirror = append(id.Mirror, m.v)
	}
	return id
}

func (c *checker) home(r *rawIdentity) int {
	names := c.nodeNames()
	switch i := slices.Index(names, r.home.v); {
	case !r.home.set:
		c.add(r.name.at, "identity %s has no home; write home: NODE", r.name.v)
	case len(names) == 0: // said already that there are too few or too many
	case i < 0:
		c.add(r.home.at, "home %s is not a node; write %s", r.home.v, either(names))
	default:
		return i
	}
	return 0
}

// prefer are the candidates: home, then as listed, or all others in their order.
func (c *checker) prefer(r *rawIdentity, home int) []int {
	names, candidates := c.nodeNames(), []int{home}
	if len(names) == 0 {
		return nil
	}
	var others []int
	for i := range names {
		if i != home {
			others = append(others, i)
		}
	}
	switch {
	case !r.prefer.set:
		return append(candidates, others...)
	case len(r.prefer.items) == 0:
		c.add(r.prefer.at, "prefer is empty, nobody would take %s when its home cannot; write prefer: [%s], or leave it out for all others in the order of their names", r.name.v, names[others[0]])
	}
	for _, v := range r.prefer.items {
		switch i := slices.Index(names, v.v); {
		case i < 0:
			c.add(v.at, "prefer %s is not a node; write %s", v.v, either(names))
		case i == home:
			c.add(v.at, "prefer names %s, which is home to %s and comes first anyway; remove it", v.v, r.name.v)
		case slices.Contains(candidates, i):
			c.add(v.at, "prefer names %s twice; remove one of them", v.v)
		default:
			candidates = append(candidates, i)
		}
	}
	return candidates
}

func (c *checker) mac(r *rawIdentity) [6]byte {
	if !r.mac.set || r.mac.v == "auto" {
		return autoMAC(c.cfg.Cluster, r.name.v)
	}
	hw, err := net.ParseMAC(r.mac.v)
	switch {
	case err != nil || len(hw) != 6:
		c.add(r.mac.at, "mac %q is not a MAC address; write auto or six bytes, as in 02:00:5e:10:00:01", r.mac.v)
	case hw[0]&1 != 0:
		c.add(r.mac.at, "mac %s is a multicast or broadcast address; write auto or one whose first byte is even", hw)
	case [6]byte(hw) == [6]byte{}:
		c.add(r.mac.at, "mac %s is no station's address; write auto or six bytes, as in 02:00:5e:10:00:01", hw)
	default:
		return [6]byte(hw)
	}
	return autoMAC(c.cfg.Cluster, r.name.v)
}

func (c *checker) identityAddresses(r *rawIdentity, id *Identity) {
	if len(r.addresses.items) == 0 {
		c.add(cmp.Or(r.addresses.at, r.name.at), "identity %s has no addresses; write addresses: [192.0.2.21/24]", id.Name)
	}
	for _, v := range r.addresses.items {
		a, err := ParseRange(v.v)
		switch {
		case err != nil:
			c.add(v.at, "address %q: %v", v.v, err)
			continue
		case a.First.Is6() && a.First.IsLinkLocalUnicast():
			c.add(v.at, "address %s is link-local; write a global or a unique local address", a.First)
			continue
		case c.cross.Contains(a.First) || c.cross.Contains(a.Last):
			c.add(v.at, "address %s is in the crossover's network %s, where no client is; write one of the lan's", a.First, c.cross)
			continue
		case a.Count() > MaxAddresses-c.total:
			c.add(v.at, "with %s there are more than %d addresses in all; write fewer", a, MaxAddresses)
			continue
		}
		c.total += a.Count()
		id.Addresses = append(id.Addresses, a)
		c.claims = append(c.claims, claim{a, "an address of identity " + id.Name, v.at})
	}
}
