// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
)

// Sizes of the lab's maps, as in bpf/lab.bpf.c.
const (
	LabPorts      = 64
	LabNodes      = 16
	LabServers    = 8
	LabIdentities = 16
)

// LabCutServers are the bits among a node's cuts that keep from it all that servers send: the first
// nodes, LabServers of them. Bits of LabCutServer.
const LabCutServers = (1<<LabServers - 1) << 32

// LabCutServer is that of one server.
func LabCutServer(node int) uint64 { return 1 << (32 + node) }

// LabForgedMark is the mark (SO_MARK) of frames that the lab sends in a node's name: whoever gets
// them has not heard that node.
const LabForgedMark = 0x1ab

// Lab is the lab's cables: programs for the switches' ends of them, and the
// judge that notes who uses a watched MAC. Attach methods attach in the network
// namespace of the calling thread. It is pinned nowhere and gone with the process.
type Lab struct {
	objs  bpf.LabObjects
	links []link.Link
	cuts  *[LabNodes]uint64 // the kernel's own, in mapped memory
}

// LabPort is one end of a cable: whose it is and its bit among that node's cuts.
type LabPort struct {
	Node, Bit int
	Judge     bool // note who uses a watched MAC here
}

// LabSeen is what the judge saw of one identity at one port; times are CLOCK_BOOTTIME.
type LabSeen struct {
	FirstNs, LastNs int64
	Count           uint64
}

// LabKind is the kind of a frame that the judge saw.
type LabKind uint16

// The kinds, as numbered in bpf/lab.bpf.c.
const (
	LabOther LabKind = iota
	LabARPRequest
	LabARPReply
	LabIPv4
	LabIPv6
	LabND // neighbour solicitation or advertisement
	// Of a silence of more than 2 ms, as these two records tell of it: Identity is the node that was
	// not heard, Port leads to the server that did not hear it.
	LabFellSilent
	LabHeard
)

// LabRecord is one frame that used a watched MAC.
type LabRecord struct {
	TNs      int64
	Port     int
	Identity int
	Kind     LabKind
}

// LoadLab loads the lab's programs and maps.
func LoadLab() (*Lab, error) {
	l := new(Lab)
	if err := bpf.LoadLabObjects(&l.objs, nil); err != nil {
		return nil, fmt.Errorf("load the lab's programs: %w", err)
	}
	page, err := unix.Mmap(l.objs.LabCuts.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map the lab's cuts: %w", err), l.objs.Close())
	}
	l.cuts = (*[LabNodes]uint64)(unsafe.Pointer(&page[0]))
	// Not at Close: a thread that cuts by itself cannot be told in time.
	runtime.AddCleanup(l, func(b []byte) { _ = unix.Munmap(b) }, page)
	return l, nil
}

// Close detaches and unloads everything; cuts change nothing any more.
func (l *Lab) Close() error {
	var errs []error
	for _, a := range l.links {
		errs = append(errs, a.Close())
	}
	l.links = nil
	return errors.Join(append(errs, l.objs.Close())...)
}

// AttachCable puts the switch's end of a cable under control. The interface's
// index is the port's number.
func (l *Lab) AttachCable(ifindex int, p LabPort) error {
	if ifindex <= 0 || ifindex >= LabPorts || p.Node < 0 || p.Node >= LabNodes {
		return fmt.Errorf("attach cable: port %d of node %d is out of range", ifindex, p.Node)
	}
	v := bpf.LabLabPort{Node: uint32(p.Node), Bit: uint32(p.Bit)}
	if p.Judge {
		v.Judge = 1
	}
	if err := l.objs.LabPorts.Put(uint32(ifindex), v); err != nil {
		return fmt.Errorf("describe port %d: %w", ifindex, err)
	}
	if err := l.attachXDP(ifindex, l.objs.CableIn); err != nil {
		return err
	}
	return l.attachOut(ifindex)
}

// AttachReflect makes an interface send every frame back natively, MACs swapped.
func (l *Lab) AttachReflect(ifindex int) error { return l.attachXDP(ifindex, l.objs.Reflect) }

// AttachPass puts the program on an interface that lets its veth peer transmit from XDP.
func (l *Lab) AttachPass(ifindex int) error { return l.attachXDP(ifindex, l.objs.Pass) }

func (l *Lab) attachXDP(ifindex int, p *ebpf.Program) error {
	a, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("attach %s to interface %d in native mode: %w", p, ifindex, err)
	}
	l.links = append(l.links, a)
	return nil
}

// attachOut uses tcx, or clsact where the kernel is older than 6.6.
func (l *Lab) attachOut(ifindex int) error {
	a, err := link.AttachTCX(link.TCXOptions{Program: l.objs.CableOut, Interface: ifindex, Attach: ebpf.AttachTCXEgress})
	if err == nil {
		l.links = append(l.links, a)
		return nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("attach cable_out to interface %d: %w", ifindex, err)
	}
	attrs := netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	if err := netlink.QdiscReplace(&netlink.Clsact{QdiscAttrs: attrs}); err != nil {
		return fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
	}
	const all = 0x0300 // ETH_P_ALL in network order
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: all},
		Fd:          l.objs.CableOut.FD(), Name: "cable_out", DirectAction: true,
	}
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("attach cable_out to interface %d by clsact: %w", ifindex, err)
	}
	return nil
}

// Cuts returns the node's cut cables.
func (l *Lab) Cuts(node int) (bits uint64, err error) {
	if node < 0 || node >= LabNodes {
		return 0, fmt.Errorf("read cuts: no node %d", node)
	}
	return atomic.LoadUint64(&l.cuts[node]), nil
}

// CutWord is the node's cuts themselves, for who cannot wait for a call. It is good as long as l is.
func (l *Lab) CutWord(node int) *uint64 { return &l.cuts[node] }

// Dropped returns how many frames ended at a cut port.
func (l *Lab) Dropped(port int) (n uint64, err error) {
	if err := l.objs.LabDropped.Lookup(uint32(port), &n); err != nil {
		return 0, fmt.Errorf("read drops of port %d: %w", port, err)
	}
	return n, nil
}

// Watch has the judge note frames from mac as the identity's.
func (l *Lab) Watch(identity int, mac [6]byte) error {
	if identity < 0 || identity >= LabIdentities {
		return fmt.Errorf("watch identity %d: the lab has room for %d", identity, LabIdentities)
	}
	var key [8]byte
	copy(key[:], mac[:])
	if err := l.objs.LabWatched.Put(key, uint32(identity)); err != nil {
		return fmt.Errorf("watch %x: %w", mac, err)
	}
	return nil
}

// Seen returns what the judge saw of an identity at a port.
func (l *Lab) Seen(identity, port int) (LabSeen, error) {
	var v bpf.LabLabSeen
	if err := l.objs.LabSightings.Lookup(uint32(identity*LabPorts+port), &v); err != nil {
		return LabSeen{}, fmt.Errorf("read sightings of identity %d at port %d: %w", identity, port, err)
	}
	return LabSeen{FirstNs: int64(v.FirstNs), LastNs: int64(v.LastNs), Count: v.Count}, nil
}

// Heard is when a server was last sent a frame by a node, from NIC to NIC; CLOCK_BOOTTIME, 0: never.
func (l *Lab) Heard(to, from int) (ns int64, err error) {
	var v uint64
	if err := l.objs.LabHeard.Lookup(uint32(to*LabNodes+from), &v); err != nil {
		return 0, fmt.Errorf("read when node %d was last sent a frame by %d: %w", to, from, err)
	}
	return int64(v), nil
}

// Trace turns the trail, one record per frame that the judge sees and two per silence, on or off.
func (l *Lab) Trace(on bool) error {
	var v uint32
	if on {
		v = 1
	}
	if err := l.objs.LabTracing.Set(v); err != nil {
		return fmt.Errorf("turn the judge's trail: %w", err)
	}
	return nil
}

// Trail drains the judge's records so far, and says how many were lost since
// the load because nobody drained. One caller at a time.
func (l *Lab) Trail() (records []LabRecord, lost uint64, err error) {
	r, err := ringbuf.NewReader(l.objs.LabTrail)
	if err != nil {
		return nil, 0, fmt.Errorf("read the judge's trail: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Flush(); err != nil { // records come without a wake-up
		return nil, 0, fmt.Errorf("flush the judge's trail: %w", err)
	}
	var raw ringbuf.Record
	for {
		err := r.ReadInto(&raw)
		if errors.Is(err, ringbuf.ErrFlushed) || errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return records, 0, fmt.Errorf("read the judge's trail: %w", err)
		}
		b := raw.RawSample
		records = append(records, LabRecord{
			TNs:      int64(binary.NativeEndian.Uint64(b)),
			Port:     int(binary.NativeEndian.Uint32(b[8:])),
			Identity: int(binary.NativeEndian.Uint16(b[12:])),
			Kind:     LabKind(binary.NativeEndian.Uint16(b[14:])),
		})
	}
	if err := l.objs.LabTrailLost.Get(&lost); err != nil {
		return records, 0, fmt.Errorf("read the trail's losses: %w", err)
	}
	return records, lost, nil
}
