// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

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
	FaultPause      Fault = "pause"       // a virtual machine is stopped, and goes on
	FaultReboot     Fault = "reboot"      // its daemon is asked to leave, then it boots
	FaultBootBoth   Fault = "boot-both"   // all nodes lose power, and boot together
	FaultDaemonKill Fault = "daemon-kill" // SIGKILL
	FaultDaemonStop Fault = "daemon-stop" // SIGSTOP
	FaultDaemonSlow Fault = "daemon-slow" // starved: it runs for a tenth of the time
	FaultService    Fault = "service"     // the identity's service is found failed
	FaultCrashLoop  Fault = "crash-loop"  // it fails whenever it was started
	FaultCrossover  Fault = "crossover"   // the cable between the nodes is pulled; of more than two, that from the node to their switch
	FaultLAN        Fault = "lan"         // the node's LAN cable is pulled
	FaultFlap       Fault = "flap"        // it is pulled and plugged, again and again
	FaultNIC        Fault = "nic"         // the node's LAN NIC is taken down
	FaultSwitch     Fault = "switch"      // the switch of its LAN NIC goes dark
	FaultTrunk      Fault = "trunk"       // the cable between the switches is pulled
	FaultIsolate    Fault = "isolate"     // all of the node's cables are pulled, and everything on it runs
	FaultPartition  Fault = "partition"   // not a frame passes between the node and the others; everybody else hears all
	FaultForge      Fault = "forge"       // the node is sent spoiled frames in its peer's name
	FaultReplay     Fault = "replay"      // and such as its peer has sent before
	FaultFlood      Fault = "flood"       // spoiled ones, by the ten thousand
	FaultClaim      Fault = "claim"       // a foreign host says that the identity's address is its own
	FaultHandOver   Fault = "handover"    // planned
)

// Faults lists the kinds that Inject knows.
var Faults = []Fault{
	FaultPower, FaultHang, FaultPanic, FaultPause, FaultReboot, FaultBootBoth, FaultDaemonKill, FaultDaemonStop, FaultDaemonSlow,
	FaultService, FaultCrashLoop, FaultCrossover, FaultLAN, FaultFlap, FaultNIC, FaultSwitch, FaultTrunk, FaultIsolate,
	FaultPartition, FaultForge, FaultReplay, FaultFlood, FaultClaim, FaultHandOver,
}

// ErrNothingToBreak is why a fault could not begin: another one has left nothing of what it breaks.
var ErrNothingToBreak = errors.New("there is nothing to break")

// How often a fault does again what it does over and over.
const (
	flapEvery  = 30 * time.Millisecond
	crashEvery = 20 * time.Millisecond
	slowEvery  = 100 * time.Millisecond
	slowRuns   = 10 * time.Millisecond // of slowEvery
)

// ParseFault finds a fault by its name.
func ParseFault(s string) (Fault, error) {
	if f := Fault(s); slices.Contains(Faults, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown fault %q: the lab can do %v", s, Faults)
}

// Inject breaks something at the node that is home to the identity, and returns
// the CLOCK_BOOTTIME nanosecond just before it began. Several may last at a time.
func (l *Lab) Inject(ctx context.Context, kind Fault, id Identity) (t0 int64, err error) {
	n := l.Node(id.Home)
	b := &breakage{kind: kind, node: n.Name}
	t0 = NowNs()
	if kind != FaultHandOver {
		l.broken.add(b)
	}
	switch {
	case slices.Contains(processFaults, kind):
		err = l.breakProcess(b, n, id)
	case slices.Contains(Faults, kind):
		err = l.breakNetwork(ctx, b, n, id)
	default:
		_, err = ParseFault(string(kind))
	}
	if err != nil {
		l.broken.remove(kind, n.Name)
		return t0, fmt.Errorf("inject %s at %s: %w", kind, n.Name, err)
	}
	l.log.Info("fault", "kind", kind, "node", n.Name, "t_ns", t0)
	return t0, nil
}

// processFaults are those that leave the cables as they are.
var processFaults = []Fault{FaultReboot, FaultDaemonKill, FaultDaemonStop, FaultDaemonSlow, FaultService, FaultCrashLoop}

func (l *Lab) breakProcess(b *breakage, n *Node, id Identity) error {
	if b.kind != FaultService && b.kind != FaultCrashLoop && !n.Alive() {
		return ErrNothingToBreak
	}
	service := n.serviceFile(id.Name + "d")
	switch b.kind {
	case FaultReboot:
		return n.Signal(unix.SIGTERM)
	case FaultDaemonKill:
		return n.Kill()
	case FaultDaemonStop:
		return n.Signal(unix.SIGSTOP)
	case FaultDaemonSlow:
		b.again(slowEvery, func() error { l.slow(n); return nil })
	case FaultCrashLoop:
		b.again(crashEvery, func() error { return ignoreMissing(os.Remove(service)) })
	case FaultService:
		if err := os.Remove(service); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrNothingToBreak, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// slow lets a daemon run for a moment. It may be gone, or stopped by another fault too.
func (l *Lab) slow(n *Node) {
	if l.broken.has(n.Name, FaultDaemonStop) {
		return
	}
	_ = n.Signal(unix.SIGCONT)
	time.Sleep(slowRuns) // it is what the daemon gets
	_ = n.Signal(unix.SIGSTOP)
}

func (l *Lab) breakNetwork(ctx context.Context, b *breakage, n *Node, id Identity) error {
	ports, _ := b.cables(l.ports)
	l.cut(ports)
	switch b.kind {
	case FaultPower:
		return l.cutPower(ports, n)
	case FaultBootBoth:
		return l.cutPower(ports, l.Nodes...)
	case FaultPanic, FaultPause: // its kernel cannot be stopped: it is cut off first, and cannot tell the difference
		return n.freeze()
	case FaultPartition:
		l.partition()
	case FaultNIC:
		return l.setNIC(n, false)
	case FaultFlap:
		b.again(flapEvery, func() error { l.broken.turn(b); return l.carry(ports, l.cut) })
	case FaultForge, FaultReplay, FaultFlood:
		return l.attack(ctx, b, n)
	case FaultClaim:
		return l.claim(b, id)
	case FaultHandOver:
		if l.opt.HandOver == nil {
			return errors.New("this lab was made without Options.HandOver")
		}
		return l.opt.HandOver(ctx, n, id.Name)
	}
	return l.carry(ports, nil)
}

// Heal ends a fault: cables are whole, what was stopped goes on, a daemon that was
// killed is started again as before, a node without power or after a panic boots
// and its daemon starts; all of it as far as no other fault that lasts is against it.
// A failed service is the cluster's own to mend.
func (l *Lab) Heal(ctx context.Context, kind Fault, id Identity) error {
	n := l.Node(id.Home)
	ports, _ := (&breakage{kind: kind, node: n.Name}).cables(l.ports)
	err := l.broken.remove(kind, n.Name)
	switch kind {
	case FaultPower, FaultPanic, FaultReboot:
		err = errors.Join(err, l.boot(n))
	case FaultBootBoth:
		err = errors.Join(err, l.boot(l.Nodes...))
	case FaultPause:
		if !l.broken.has(n.Name, FaultPanic) {
			err = errors.Join(err, n.thaw())
		}
		l.cut(ports)
		err = errors.Join(err, l.revive(n))
	case FaultPartition:
		l.partition()
	case FaultDaemonKill:
		err = errors.Join(err, l.revive(n))
	case FaultDaemonStop, FaultDaemonSlow:
		if n.Alive() && !l.broken.has(n.Name, FaultDaemonStop, FaultDaemonSlow) {
			err = errors.Join(err, n.Signal(unix.SIGCONT))
		}
	case FaultNIC:
		err = errors.Join(err, l.setNIC(n, true))
	case FaultHandOver:
		if l.opt.HandOver != nil {
			err = l.opt.HandOver(ctx, l.Peer(n.Name), id.Name)
		}
	default:
		if _, unknown := ParseFault(string(kind)); unknown != nil {
			err = unknown
			break
		}
		err = errors.Join(err, l.carry(ports, l.cut))
	}
	if err != nil {
		return fmt.Errorf("heal %s at %s: %w", kind, n.Name, err)
	}
	l.log.Info("healed", "kind", kind, "node", n.Name)
	return nil
}

// cutPower comes after the cables are cut, which is all at once.
func (l *Lab) cutPower(ports []Port, nodes ...*Node) error {
	for _, n := range nodes {
		n.killDaemon() // the ports, being slow, come before the rest of its processes
	}
	errs := []error{l.carry(ports, nil)}
	for _, n := range nodes {
		errs = append(errs, n.powerOff())
	}
	return errors.Join(errs...)
}

// withoutPower are the faults after which a node has to boot.
var withoutPower = []Fault{FaultPower, FaultPanic, FaultReboot, FaultBootBoth}

// boot boots nodes that no fault keeps from it, and then starts their daemons together.
func (l *Lab) boot(nodes ...*Node) error {
	var errs []error
	for _, n := range nodes {
		if l.broken.has(n.Name, withoutPower...) { // what that does to its cables may be less
			errs = append(errs, l.carry(portsOf(l.ports, n.Name), l.cut))
		} else {
			errs = append(errs, n.reboot())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, n := range nodes {
		errs = append(errs, l.revive(n))
	}
	return errors.Join(errs...)
}

// revive starts a daemon again that does not run and may.
func (l *Lab) revive(n *Node) error {
	if n.Alive() || !n.started() || l.broken.has(n.Name, append([]Fault{FaultPause, FaultDaemonKill}, withoutPower...)...) {
		return nil
	}
	return n.Restart()
}

// Part keeps two nodes from each other, and from nobody else: not a frame passes between them.
func (l *Lab) Part(a, b string) error { return l.setParted(a, b, true) }

// Join ends a Part.
func (l *Lab) Join(a, b string) error { return l.setParted(a, b, false) }

func (l *Lab) setParted(a, b string, on bool) error {
	if l.Node(a) == nil || l.Node(b) == nil || a == b {
		return fmt.Errorf("part %s and %s: they are not two nodes of the lab", a, b)
	}
	l.parting.Lock()
	l.parted[[2]string{min(a, b), max(a, b)}] = on
	l.parting.Unlock()
	l.partition()
	return nil
}

// partition keeps nodes from each other as the faults that last and Part want it, and from nobody else.
func (l *Lab) partition() {
	l.parting.Lock()
	defer l.parting.Unlock()
	for i, to := range l.Nodes {
		var deaf uint64
		for j, from := range l.Nodes {
			if i != j && (l.parted[[2]string{min(to.Name, from.Name), max(to.Name, from.Name)}] ||
				l.broken.has(to.Name, FaultPartition) || l.broken.has(from.Name, FaultPartition)) {
				deaf |= loader.LabCutServer(j)
			}
		}
		setBits(l.cables.CutWord(i), loader.LabCutServers, deaf)
	}
}

// setBits makes those of a word that the mask has as they are wanted. A prober may cut others at the same time.
func setBits(word *uint64, mask, want uint64) {
	for {
		old := atomic.LoadUint64(word)
		if atomic.CompareAndSwapUint64(word, old, old&^mask|want) {
			return
		}
	}
}

// setNIC takes a node's LAN NIC down as its administrator would, or up again, with what goes with it.
func (l *Lab) setNIC(n *Node, up bool) error {
	nl := l.space(n.Name).nl
	link, err := nl.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0 in %s: %w", n.Name, err)
	}
	if !up {
		return nl.LinkSetDown(link)
	}
	if err := nl.LinkSetUp(link); err != nil {
		return err
	}
	return l.Do(n.Name, func() error { return l.address(l.spaceOf(n.Name)) })
}

// Cut stops all frames on a cable, both ways, and keeps the carrier. The client
// and hosts have a LAN cable; Trunk is the one between the switches.
func (l *Lab) Cut(node string, r Role) error { return l.setCut(node, r, true) }

// Mend ends a Cut.
func (l *Lab) Mend(node string, r Role) error { return l.setCut(node, r, false) }

func (l *Lab) setCut(node string, r Role, cut bool) error {
	if _, err := l.FindPort(node, r); err != nil {
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

// FindPort finds a cable of a lab of two nodes.
func FindPort(node string, r Role) (Port, error) { return findPort(Ports, node, r) }

// FindPort finds one of the lab's cables.
func (l *Lab) FindPort(node string, r Role) (Port, error) { return findPort(l.ports, node, r) }

func findPort(all []Port, node string, r Role) (Port, error) {
	for _, p := range all {
		if p.Node == node && p.Role == r {
			return p, nil
		}
	}
	return Port{}, fmt.Errorf("find cable: %s has no %s", node, r)
}
