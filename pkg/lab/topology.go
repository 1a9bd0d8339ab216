// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/xdpha/xdpha/loader"
)

// The namespaces. Serv3 and up are there in a lab of so many nodes.
const (
	Serv1  = "serv1"
	Serv2  = "serv2"
	Serv3  = "serv3"
	Serv4  = "serv4"
	Serv5  = "serv5"
	Client = "client"
	Hosts1 = "hosts1" // 192.0.2.1 on sw1
	Hosts2 = "hosts2" // 192.0.2.53 and .54 on sw2
	Sw1    = "sw1"
	Sw2    = "sw2"
	XC     = "xc" // the crossover cable, or the switch in its place
)

// MaxNodes is the most that a lab can have.
const MaxNodes = loader.LabServers

// server is the name of a node by its number.
func server(i int) string { return "serv" + strconv.Itoa(i+1) }

// numberOf is the number of a node; -1: it is none.
func numberOf(node string) int {
	if i, ok := cutIndex[node]; ok && i < MaxNodes {
		return i
	}
	return -1
}

// The TTL, or hop limit, of what a node sends, by which the client tells who answered; further nodes
// have the numbers that follow.
const (
	TTLServ1 = 65
	TTLServ2 = 66
)

// The identities of the lab's configuration: their index at the judge, addresses and MAC.
var Identities = [...]Identity{
	{Name: "files", Home: Serv1, Addr: netip.MustParseAddr("192.0.2.21"), Addr6: netip.MustParseAddr("2001:db8::21"), MAC: [6]byte{0x02, 0x4c, 0x4a, 0, 0, 0x21}},
	{Name: "mail", Home: Serv2, Addr: netip.MustParseAddr("192.0.2.22"), Addr6: netip.MustParseAddr("2001:db8::22"), MAC: [6]byte{0x02, 0x4c, 0x4a, 0, 0, 0x22}},
}

// Identity is one of the lab's two identities.
type Identity struct {
	Name  string
	Home  string
	Addr  netip.Addr
	Addr6 netip.Addr
	MAC   [6]byte
}

// Role is what a cable is for; also its bit among its node's cuts.
type Role int

// The roles of a node's cables; the only cable of anything else is its LAN.
const (
	Crossover Role = iota
	LAN
	Spare
	TrunkCable
)

func (r Role) String() string { return [...]string{"crossover", "lan", "spare", "trunk"}[r] }

// Port is one cable: its end at the switch, and the node's NIC at the other end.
type Port struct {
	Number int // the interface index at the switch, unique in the lab
	Switch string
	Node   string // a node, or "trunk"
	NIC    string // at the node
	Role   Role
}

// Name is the port's interface name at the switch.
func (p Port) Name() string {
	if p.Server() {
		return p.Node + "-" + p.Role.String()
	}
	return p.Node
}

// Server reports whether the port leads to one of the nodes.
func (p Port) Server() bool { return numberOf(p.Node) >= 0 }

// Ports are all cables of a lab of two nodes. Numbers start above the indices that NICs get, because
// the kernel reports the carrier of a veth late if both ends have the same index.
var Ports = []Port{
	{32, Sw1, Serv1, "eth0", LAN},
	{33, XC, Serv1, "eth1", Crossover},
	{34, Sw2, Serv1, "eth2", Spare},
	{35, Sw2, Serv2, "eth0", LAN},
	{36, XC, Serv2, "eth1", Crossover},
	{37, Sw1, Serv2, "eth2", Spare},
	{38, Sw1, Client, "eth0", LAN},
	{39, Sw1, Hosts1, "eth0", LAN},
	{40, Sw2, Hosts2, "eth0", LAN},
	{41, Sw1, Trunk, "trunk", TrunkCable}, // NIC: its name on sw2
}

// firstFurtherPort is the number of serv3's first cable.
const firstFurtherPort = 42

// portsOfMany are all cables of a lab of so many nodes. Every second one has its LAN on the other switch.
func portsOfMany(nodes int) []Port {
	all := slices.Clone(Ports)
	number := firstFurtherPort
	for i := 2; i < nodes; i++ {
		lan, spare := Sw1, Sw2
		if i%2 == 1 {
			lan, spare = Sw2, Sw1
		}
		for _, p := range []Port{{0, lan, server(i), "eth0", LAN}, {0, XC, server(i), "eth1", Crossover}, {0, spare, server(i), "eth2", Spare}} {
			p.Number = number
			all = append(all, p)
			number++
		}
	}
	return all
}

// Trunk is the cable between the switches; its only role is TrunkCable.
const Trunk = "trunk"

// cutIndex is a node's place in the map of cuts; the cluster's come first.
var cutIndex = func() map[string]int {
	m := map[string]int{Client: MaxNodes, Hosts1: MaxNodes + 1, Hosts2: MaxNodes + 2, Trunk: MaxNodes + 3}
	for i := range MaxNodes {
		m[server(i)] = i
	}
	return m
}()

// space is one namespace as it is made.
type space struct {
	name     string
	isSwitch bool
	ttl      int
	addrs    map[string][]string // by NIC
	gateway  string
}

// others are the namespaces that every lab has.
var others = []space{
	{name: Sw1, isSwitch: true},
	{name: Sw2, isSwitch: true},
	{name: XC, isSwitch: true},
	{name: Client, addrs: map[string][]string{"eth0": {"192.0.2.100/24", "10.21.255.254/16", "2001:db8::100/64", "fe80::100/64"}}},
	{name: Hosts1, addrs: map[string][]string{"eth0": {"192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"}}},
	{name: Hosts2, addrs: map[string][]string{"eth0": {"192.0.2.53/24", "192.0.2.54/24", "2001:db8::53/64", "2001:db8::54/64", "fe80::53/64"}}},
}

// spacesOfMany are the namespaces of a lab of so many nodes.
func spacesOfMany(nodes int) []space {
	all := slices.Clone(others)
	for i := range nodes {
		all = append(all, space{name: server(i), ttl: TTLServ1 + i, gateway: "192.0.2.1", addrs: map[string][]string{
			"eth0": {lanAddress(i), fmt.Sprintf("2001:db8::%d/64", 11+i), fmt.Sprintf("fe80::%d/64", 11+i)}, "eth1": {crossAddress(i)}}})
	}
	return all
}

func lanAddress(node int) string   { return fmt.Sprintf("192.0.2.%d/24", 11+node) }
func crossAddress(node int) string { return fmt.Sprintf("192.168.111.%d/24", 1+node) }

// nicMAC is fixed, so that a capture reads the same every time.
func nicMAC(p Port) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x1a, 0xb0, 0, byte(cutIndex[p.Node]), byte(p.Number)}
}

// portMAC is the switch's own end; it never speaks.
func portMAC(p Port) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x1a, 0xb0, 0xff, 0, byte(p.Number)}
}

// clientAddr is the client's own address in the network of to.
func clientAddr(to netip.Addr) netip.Addr {
	for _, s := range others {
		for _, a := range s.addrs["eth0"] {
			if p := netip.MustParsePrefix(a); s.name == Client && p.Contains(to) {
				return p.Addr()
			}
		}
	}
	return netip.IPv4Unspecified()
}

// nodeByTTL names who sent a packet with this TTL, or "".
func nodeByTTL(ttl uint8) string {
	if i := int(ttl) - TTLServ1; i >= 0 && i < MaxNodes {
		return server(i)
	}
	return ""
}
