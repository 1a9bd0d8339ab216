// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

// ARPEntry is the client's knowledge of an address, by ARP or NDP.
type ARPEntry struct {
	MAC   net.HardwareAddr // nil while unresolved
	State int              // netlink.NUD_*
}

// ARP reads the client's entry for an address; the zero value if there is none.
func (l *Lab) ARP(addr netip.Addr) (ARPEntry, error) {
	n := l.space(Client)
	link, err := n.nl.LinkByName("eth0")
	if err != nil {
		return ARPEntry{}, fmt.Errorf("find the client's NIC: %w", err)
	}
	all, err := n.nl.NeighList(link.Attrs().Index, family(addr))
	if err != nil {
		return ARPEntry{}, fmt.Errorf("read the client's neighbours: %w", err)
	}
	for _, e := range all {
		if e.IP.Equal(addr.AsSlice()) {
			return ARPEntry{MAC: e.HardwareAddr, State: e.State}, nil
		}
	}
	return ARPEntry{}, nil
}

// Resolve has the client's kernel resolve an address, as any program of a client
// would, asking again until somebody answers or ctx ends.
func (l *Lab) Resolve(ctx context.Context, addr netip.Addr) (mac [6]byte, err error) {
	n := l.space(Client)
	nic, err := l.clientNIC()
	if err != nil {
		return mac, err
	}
	for {
		e, err := l.ARP(addr)
		if err != nil {
			return mac, err
		}
		const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
		if len(e.MAC) == len(mac) && e.State&known != 0 {
			return [6]byte(e.MAC), nil
		}
		if e.State&netlink.NUD_INCOMPLETE == 0 { // none, or failed: ask
			use := &netlink.Neigh{LinkIndex: nic.Index, IP: addr.AsSlice(), Flags: netlink.NTF_USE, Family: family(addr)}
			if err := n.nl.NeighSet(use); err != nil {
				return mac, fmt.Errorf("ask for %s: %w", addr, err)
			}
		}
		select {
		case <-ctx.Done():
			return mac, fmt.Errorf("resolve %s from the client: %w", addr, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// FDB returns the ports (by name) behind which a switch has learned a MAC.
func (l *Lab) FDB(sw string, mac [6]byte) ([]string, error) {
	n := l.space(sw)
	all, err := n.nl.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
	if err != nil {
		return nil, fmt.Errorf("read what %s learned: %w", sw, err)
	}
	var ports []string
	for _, e := range all {
		if !sameMAC(e.HardwareAddr, mac) || e.State&netlink.NUD_PERMANENT != 0 {
			continue
		}
		link, err := n.nl.LinkByIndex(e.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("find port %d of %s: %w", e.LinkIndex, sw, err)
		}
		ports = append(ports, link.Attrs().Name)
	}
	return ports, nil
}

// JudgeRecord is one frame with an identity's MAC, as it came in from a node.
type JudgeRecord struct {
	TNs      int64
	Port     Port
	Identity int // index into Identities
	Kind     loader.LabKind
}

// Sighting is what the judge saw of an identity behind one port.
type Sighting struct {
	Port            Port
	FirstNs, LastNs int64
	Count           uint64
}

// Sightings returns where an identity's MAC was used since the lab began.
func (l *Lab) Sightings(identity int) ([]Sighting, error) {
	var all []Sighting
	for _, p := range l.ports {
		s, err := l.cables.Seen(identity, p.Number)
		if err != nil {
			return nil, err
		}
		if s.Count > 0 {
			all = append(all, Sighting{Port: p, FirstNs: s.FirstNs, LastNs: s.LastNs, Count: s.Count})
		}
	}
	return all, nil
}

// Judge has every frame with an identity's MAC recorded from now on, or no longer.
func (l *Lab) Judge(on bool) error { return l.cables.Trace(on) }

// JudgeTrail drains the frames that were recorded since the last call, and fails if records were
// lost (after about 8 s at a frame per 50 us). One caller at a time.
func (l *Lab) JudgeTrail() ([]JudgeRecord, error) {
	frames, _, err := l.Trail()
	return frames, err
}

// Trail is JudgeTrail, with the silences that ended meanwhile.
func (l *Lab) Trail() (frames []JudgeRecord, silences []Silence, err error) {
	raw, lost, err := l.cables.Trail()
	if err != nil {
		return nil, nil, err
	}
	if lost > 0 {
		return nil, nil, fmt.Errorf("read the judge's trail: %d records were lost since the lab began; drain it more often", lost)
	}
	frames = make([]JudgeRecord, 0, len(raw))
	ports := map[int]Port{}
	for _, p := range l.ports {
		ports[p.Number] = p
	}
	for _, r := range raw {
		p := ports[r.Port]
		switch r.Kind {
		case loader.LabFellSilent:
			silences = append(silences, Silence{To: p.Node, From: nodeByIndex(r.Identity), FromNs: r.TNs})
		case loader.LabHeard:
			endSilence(silences, Silence{To: p.Node, From: nodeByIndex(r.Identity), ToNs: r.TNs, EndedBy: p.Role})
		default:
			frames = append(frames, JudgeRecord{TNs: r.TNs, Port: p, Identity: r.Identity, Kind: r.Kind})
		}
	}
	return frames, silences, nil
}
