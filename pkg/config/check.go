// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// checker gives the raw file its meaning.
type checker struct {
	*report
	raw    *rawFile
	o      Options
	cfg    *Config
	claims []claim
	total  int          // addresses of all identities so far
	cross  netip.Prefix // the crossover's network, once it is sound
}

// claim is one use of addresses; none may meet another.
type claim struct {
	AddressRange
	by string
	at pos
}

func (c *checker) all() {
	c.names()
	c.timing()
	c.nodes()
	c.arbiter()
	c.identities()
	c.services()
	c.mirrors()
	c.addressesMeet()
	c.outward()
}

// top is where a missing top-level key is reported.
var top = pos{1, 1}

func (c *checker) names() {
	if !c.raw.cluster.set {
		c.add(top, "cluster is missing; write cluster: NAME, the same on every node and unlike other clusters in the network")
	}
	if !c.raw.secretFile.set {
		c.add(top, "secret_file is missing; write secret_file: /etc/xdpha/secret and make it with xdpha keygen")
	}
	c.cfg.Cluster = c.raw.cluster.v
	hold := or(c.raw.hold, "none")
	c.cfg.Hold, c.cfg.HoldUntilSynced = hold != "none", hold == "until-synced"
	if c.cfg.HoldUntilSynced && len(c.raw.mirrors) == 0 {
		c.add(c.raw.hold.at, "hold: until-synced ends when the mirrors have brought the data back, and there are none; write manual, or mirrors")
	}
	c.cfg.ClusterID = clusterID(c.cfg.Cluster)
}

// nodes are two to MaxNodes; this finds out which one this is.
func (c *checker) nodes() {
	raw := c.raw.nodes
	if len(raw) < 2 || len(raw) > MaxNodes {
		c.add(cmp.Or(c.raw.nodesAt, top), "nodes lists %d; write two, as in nodes: {serv1: {…}, serv2: {…}}, or up to %d with arbiter etcd", len(raw), MaxNodes)
		return
	}
	slices.SortFunc(raw, byName(func(n *rawNode) string { return n.name.v }))
	for i := range raw {
		c.cfg.Nodes = append(c.cfg.Nodes, c.node(&raw[i]))
	}
	c.sameNetwork("lan", func(i int) (value[string], netip.Prefix) { return raw[i].lanAddr, c.cfg.Nodes[i].LanAddr })
	c.sameNetwork("crossover", func(i int) (value[string], netip.Prefix) { return raw[i].crossAddr, c.cfg.Nodes[i].CrossAddr })
	switch a, b := c.cfg.Nodes[0].LanAddr, c.cfg.Nodes[0].CrossAddr; {
	case a.IsValid() && b.IsValid() && !a.Masked().Overlaps(b.Masked()):
		c.cross = b.Masked()
	case a.IsValid() && b.IsValid():
		c.add(raw[0].crossAddr.at, "the crossover's network %s overlaps the lan's %s; write a network of its own, as in 192.168.111.1/24", b.Masked(), a.Masked())
	}
	c.self()
}

// nodeNames are those of the checked nodes; none if their number is wrong, which is told.
func (c *checker) nodeNames() (names []string) {
	for _, n := range c.cfg.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// either lists words of which one is to be chosen.
func either(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func (c *checker) node(r *rawNode) Node {
	n := Node{Name: r.name.v, Lan: r.lan.v, Crossover: r.crossover.v, Spare: r.spare.v}
	if n.Name == "auto" {
		c.add(r.name.at, "a node cannot be named auto, which means by hostname; write its hostname")
	}
	c.nic(r.name, "lan", r.lan, true)
	c.nic(r.name, "crossover", r.crossover, true)
	c.nic(r.name, "spare", r.spare, false)
	nics := []value[string]{r.lan, r.crossover, r.spare}
	for i, v := range nics {
		if v.set && slices.ContainsFunc(nics[:i], func(u value[string]) bool { return u.set && u.v == v.v }) {
			c.add(v.at, "node %s uses interface %s twice; write another interface, or leave spare out", n.Name, v.v)
		}
	}
	n.LanAddr = c.nodeAddr(r, "lan", r.lanAddr)
	n.CrossAddr = c.nodeAddr(r, "crossover", r.crossAddr)
	return n
}

// nic checks an interface name by the kernel's rules (dev_valid_name).
func (c *checker) nic(node value[string], role string, v value[string], needed bool) {
	switch {
	case !v.set && needed:
		c.add(node.at, "node %s has no %s; write %s: INTERFACE", node.v, role, role)
	case v.set && (len(v.v) > 15 || v.v == "." || v.v == ".." || strings.ContainsAny(v.v, "/: \t\r\n\v\f")):
		c.add(v.at, "%s %q cannot be an interface; write a name from ip link, at most 15 characters", role, v.v)
	}
}

func (c *checker) nodeAddr(r *rawNode, link string, v value[string]) netip.Prefix {
	if !v.set {
		c.add(r.name.at, "node %s has no address on %s; write addresses: {lan: ADDRESS/BITS, crossover: ADDRESS/BITS}", r.name.v, link)
		return netip.Prefix{}
	}
	a, err := ParseRange(v.v)
	switch {
	case err != nil:
		c.add(v.at, "%s address %q: %v", link, v.v, err)
	case a.First != a.Last:
		c.add(v.at, "%s address %q is a range; write one address, as in %s/%d", link, v.v, a.First, a.Bits)
	case !a.First.Is4():
		c.add(v.at, "%s address %s is IPv6, heartbeats are IPv4; write an IPv4 address", link, a.First)
	case a.Bits > 31:
		c.add(v.at, "%s address %s is a network of its own; write the prefix length that the nodes share, as in /24", link, a)
	default:
		c.claims = append(c.claims, claim{a, fmt.Sprintf("node %s's %s address", r.name.v, link), v.at})
		return netip.PrefixFrom(a.First, a.Bits)
	}
	return netip.Prefix{}
}

// sameNetwork: the nodes talk over each link without a router (TTL 255). The node that comes first
// in the file says which network it is.
func (c *checker) sameNetwork(link string, addr func(node int) (value[string], netip.Prefix)) {
	first := -1
	for i := range c.cfg.Nodes {
		v, p := addr(i)
		if !p.IsValid() {
			continue
		}
		if first < 0 {
			first = i
		} else if was, _ := addr(first); before(v.at, was.at) {
			first = i
		}
	}
	for i := range c.cfg.Nodes {
		v, p := addr(i)
		if !p.IsValid() {
			continue
		}
		if _, of := addr(first); p.Masked() != of.Masked() {
			whose := "the other node"
			if c.cfg.Many() {
				whose = c.cfg.Nodes[first].Name
			}
			c.add(v.at, "%s address %s is not in %s, %s's %s network; write an address of that network", link, p, of.Masked(), whose, link)
		}
	}
}

func before(a, b pos) bool { return a.line < b.line || a.line == b.line && a.col < b.col }

func (c *checker) self() {
	names := c.nodeNames()
	list := either(names)
	if want := cmp.Or(c.o.Node, c.raw.node.v, "auto"); want != "auto" {
		if c.cfg.Self = slices.Index(names, want); c.cfg.Self >= 0 {
			return
		}
		if c.o.Node != "" {
			c.add(c.raw.nodesAt, "--node %s names no node here; give --node %s", want, list)
		} else {
			c.add(c.raw.node.at, "node %s is not in nodes; write auto, %s", want, list)
		}
		return
	}
	host, _, _ := strings.Cut(c.o.Hostname, ".")
	for _, name := range []string{c.o.Hostname, host} {
		if c.cfg.Self = slices.Index(names, name); c.cfg.Self >= 0 {
			return
		}
	}
	c.add(place(c.raw.node, c.raw.nodesAt), "this host's name %q is not in nodes; give --node %s, or name a node after the host", c.o.Hostname, list)
}

// arbiter must be chosen in so many words: none is never a default.
func (c *checker) arbiter() {
	a := &c.raw.arbiter
	const choose = "write arbiter: {reach: [HOST, …]}, {fence: {agent: …}} or both, {etcd: {endpoints: […]}}, or {none: true} to serve whatever the network does"
	switch {
	case a.none.v && a.reach.set:
		c.add(a.none.at, "none: true contradicts reach; remove one of them")
	case a.none.v && a.fence.set:
		c.add(a.none.at, "none: true contradicts fence; remove one of them")
	case a.none.v && a.etcd.set:
		c.add(a.none.at, "none: true contradicts etcd; remove one of them")
	case !a.etcd.set && c.cfg.Many():
		c.add(cmp.Or(a.at, top), "%d nodes need arbiter etcd, which says who of them takes over; reach, fence and none are for two: write arbiter: {etcd: {endpoints: […]}}, or two nodes", len(c.cfg.Nodes))
	case a.etcd.set && (a.reach.set || a.fence.set):
		c.add(a.etcd.at, "etcd decides alone; remove reach and fence, or etcd")
	case !a.none.v && !a.reach.set && !a.fence.set && !a.etcd.set:
		c.add(cmp.Or(a.at, top), "no arbiter; %s", choose)
	case a.reach.set && len(a.reach.items) == 0:
		c.add(a.reach.at, "reach has no hosts; %s", choose)
	case len(a.reach.items) > MaxReach:
		c.add(a.reach.items[MaxReach].at, "more than %d reach hosts; write the few that prove this node connected", MaxReach)
	}
	c.cfg.Arbiter.None = a.none.v
	c.cfg.Arbiter.Fence = c.fence()
	c.cfg.Arbiter.Etcd = c.etcd()
	for _, v := range a.reach.items {
		ip, err := netip.ParseAddr(v.v)
		if err != nil || !ip.Is4() {
			c.add(v.at, "%q is not an IPv4 address; write a host's address without prefix length, as in 192.0.2.1", v.v)
			continue
		}
		if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			c.add(v.at, "%s proves no connection; write the address of a host in the clients' network", ip)
			continue
		}
		c.cfg.Arbiter.Reach = append(c.cfg.Arbiter.Reach, ip)
		c.claims = append(c.claims, claim{AddressRange{ip, ip, 32}, byReach, v.at})
	}
}

// byReach marks the claims of the arbiter.
const byReach = "a reach host"

// addressesMeet refuses addresses with two uses, at the later one.
func (c *checker) addressesMeet() {
	slices.SortStableFunc(c.claims, func(a, b claim) int {
		return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last))
	})
	for i := 1; i < len(c.claims); i++ {
		a, b := c.claims[i-1], c.claims[i]
		if a.Last.Less(b.First) {
			continue
		}
		shared := b.First
		if a.Last.Compare(b.Last) > 0 {
			c.claims[i].Last = a.Last // keep the farther end for the next comparison
			c.claims[i].by, c.claims[i].at = a.by, a.at
		}
		if before(b.at, a.at) {
			a, b = b, a
		}
		if a.by == byReach && b.by != byReach {
			a, b = b, a
		}
		if b.by == byReach && a.by != byReach {
			c.add(b.at, "reach host %s is %s (line %d), which proves no connection; write a host that is not of this cluster", shared, a.by, a.at.line)
			continue
		}
		c.add(b.at, "%s is used already as %s (line %d); write an address of its own", shared, a.by, a.at.line)
	}
}

func (c *checker) outward() {
	c.cfg.Hooks.Events = c.raw.hookEvents.v
	if v := c.raw.hookEvents; v.set && !filepath.IsAbs(v.v) {
		c.add(v.at, "events %q is not an absolute path; write it as in /etc/xdpha/on-event", v.v)
	}
	c.cfg.Metrics.Listen = c.raw.metricsListen.v
	if v := c.raw.metricsListen; v.set {
		_, port, err := net.SplitHostPort(v.v)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 {
			c.add(v.at, "listen %q is not HOST:PORT; write it as in 127.0.0.1:9640", v.v)
		}
	}
}
