// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

// Fault is a kind of trouble.
type Fault string

// The faults.
const (
	FaultPower      Fault = "power"       // everything on the node ends, its cables go dark
	FaultHang       Fault = "hang"        // nothing passes its cables, carrier stays
	FaultPanic      Fault = "panic"       // the same, and nothing on the node runs ever again
	FaultDaemonKill Fault = "daemon-kill" // SIGKILL
	FaultDaemonStop Fault = "daemon-stop" // SIGSTOP
	FaultService    Fault = "service"     // the identity's service is found failed
	FaultCrossover  Fault = "crossover"   // the cable between the nodes is pulled
	FaultLAN        Fault = "lan"         // the node's LAN cable is pulled
	FaultPartition  Fault = "partition"   // not a frame passes between the nodes; all others hear both
	FaultPause      Fault = "pause"       // a virtual machine is stopped, and goes on
	FaultHandOver   Fault = "handover"    // planned
)

// Faults lists the kinds that Inject knows.
var Faults = []Fault{
	FaultPower, FaultHang, FaultPanic, FaultDaemonKill, FaultDaemonStop, FaultService,
	FaultCrossover, FaultLAN, FaultPartition, FaultPause, FaultHandOver,
}

// ParseFault finds a fault by its name.
func ParseFault(s string) (Fault, error) {
	if f := Fault(s); slices.Contains(Faults, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown fault %q: the lab can do %v", s, Faults)
}

// Inject breaks something at the node that is home to the identity, and returns
// the CLOCK_BOOTTIME nanosecond just before it began.
func (l *Lab) Inject(ctx context.Context, kind Fault, id Identity) (t0 int64, err error) {
	n := l.Node(id.Home)
	t0 = NowNs()
	switch kind {
	case FaultPower:
		err = l.cutAll(n, true)
	case FaultHang:
		err = l.cutAll(n, false)
	case FaultPanic, FaultPause: // its kernel cannot be stopped: it is cut off first, and cannot tell the difference
		err = errors.Join(l.cutAll(n, false), n.freeze())
	case FaultDaemonKill:
		err = n.Signal(unix.SIGKILL)
	case FaultDaemonStop:
		err = n.Signal(unix.SIGSTOP)
	case FaultService:
		err = os.Remove(n.serviceFile(id.Name + "d"))
	case FaultPartition:
		l.partition(true)
	case FaultCrossover:
		err = l.PullCable(n.Name, Crossover)
	case FaultLAN:
		err = l.PullCable(n.Name, LAN)
	case FaultHandOver:
		if l.opt.HandOver == nil {
			return 0, errors.New("inject handover: this lab was made without Options.HandOver")
		}
		err = l.opt.HandOver(ctx, n, id.Name)
	default:
		_, err = ParseFault(string(kind))
	}
	if err != nil {
		return t0, fmt.Errorf("inject %s at %s: %w", kind, n.Name, err)
	}
	l.log.Info("fault", "kind", kind, "node", n.Name, "t_ns", t0)
	return t0, nil
}

// Heal ends a fault: cables are whole, what was stopped goes on, a daemon that was
// killed is started again as before, a node without power or after a panic boots
// and its daemon starts. A failed service is the cluster's own to mend.
func (l *Lab) Heal(ctx context.Context, kind Fault, id Identity) error {
	n := l.Node(id.Home)
	var err error
	switch kind {
	case FaultPower, FaultPanic:
		if err = n.reboot(); err == nil && n.started() {
			err = n.Restart()
		}
	case FaultHang:
		err = l.setCuts(n.Name, 0)
	case FaultPause:
		err = errors.Join(l.setCuts(n.Name, 0), n.thaw())
	case FaultPartition:
		l.partition(false)
	case FaultService:
	case FaultDaemonKill:
		n.reap()
		err = n.Restart()
	case FaultDaemonStop:
		err = n.Signal(unix.SIGCONT)
	case FaultCrossover:
		err = l.PlugCable(n.Name, Crossover)
	case FaultLAN:
		err = l.PlugCable(n.Name, LAN)
	case FaultHandOver:
		if l.opt.HandOver != nil {
			err = l.opt.HandOver(ctx, l.Peer(n.Name), id.Name)
		}
	default:
		_, err = ParseFault(string(kind))
	}
	if err != nil {
		return fmt.Errorf("heal %s at %s: %w", kind, n.Name, err)
	}
	l.log.Info("healed", "kind", kind, "node", n.Name)
	return nil
}

// allCables are the three of a node.
const allCables uint64 = 1<<Crossover | 1<<LAN | 1<<Spare

// cutAll silences a node in one write; the rest of a power cut comes after it.
func (l *Lab) cutAll(n *Node, power bool) error {
	if err := l.setCuts(n.Name, allCables); err != nil {
		return err
	}
	if !power {
		return nil
	}
	n.killDaemon() // the ports, being slow, come before the rest of its processes
	var errs []error
	for _, p := range Ports {
		if p.Node == n.Name {
			errs = append(errs, l.setPort(p, false))
		}
	}
	return errors.Join(append(errs, n.powerOff())...)
}

// partition parts the two nodes from each other, and from nobody else.
func (l *Lab) partition(on bool) {
	for _, n := range l.Nodes {
		word := l.cables.CutWord(cutIndex[n.Name])
		if on {
			atomic.OrUint64(word, loader.LabCutPeer)
		} else {
			atomic.AndUint64(word, ^uint64(loader.LabCutPeer))
		}
	}
}

// setCuts cuts exactly the cables in bits.
func (l *Lab) setCuts(node string, bits uint64) error {
	return l.cables.SetCuts(cutIndex[node], bits)
}

// Cut stops all frames on a cable, both ways, and keeps the carrier. The client
// and hosts have a LAN cable; Trunk is the one between the switches.
func (l *Lab) Cut(node string, r Role) error { return l.setCut(node, r, true) }

// Mend ends a Cut.
func (l *Lab) Mend(node string, r Role) error { return l.setCut(node, r, false) }

func (l *Lab) setCut(node string, r Role, cut bool) error {
	if _, err := FindPort(node, r); err != nil {
		return err
	}
	word := l.cables.CutWord(cutIndex[node])
	if cut {
		atomic.OrUint64(word, 1<<r) // a prober may cut the others at the same time
	} else {
		atomic.AndUint64(word, ^(uint64(1) << r))
	}
	return nil
}

// PullCable cuts a cable and takes the carrier; the crossover's at both ends.
func (l *Lab) PullCable(node string, r Role) error {
	if err := l.Cut(node, r); err != nil {
		return err
	}
	return l.eachEnd(node, r, func(p Port) error { return l.setPort(p, false) })
}

// PlugCable ends PullCable; it returns when the port forwards again.
func (l *Lab) PlugCable(node string, r Role) error {
	err := l.eachEnd(node, r, func(p Port) error {
		return errors.Join(l.setPort(p, true), l.awaitCarrier([]Port{p}))
	})
	return errors.Join(err, l.Mend(node, r))
}

func (l *Lab) eachEnd(node string, r Role, f func(Port) error) error {
	var errs []error
	for _, p := range Ports {
		if p.Role == r && (p.Node == node || r == Crossover) {
			errs = append(errs, f(p))
		}
	}
	return errors.Join(errs...)
}

// setPort brings the switch's end of a cable up or down, and with it the far end's carrier.
func (l *Lab) setPort(p Port, up bool) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.Number}}
	nl := l.space(p.Switch).nl
	set, word := nl.LinkSetDown, "down"
	if up {
		set, word = nl.LinkSetUp, "up"
	}
	if err := set(link); err != nil {
		return fmt.Errorf("take port %s %s: %w", p.Name(), word, err)
	}
	return nil
}

// FindPort finds a cable.
func FindPort(node string, r Role) (Port, error) {
	for _, p := range Ports {
		if p.Node == node && p.Role == r {
			return p, nil
		}
	}
	return Port{}, fmt.Errorf("find cable: %s has no %s", node, r)
}
