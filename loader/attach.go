// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
)

// XDP modes, as status shows them.
const (
	ModeNative  = "native"
	ModeGeneric = "generic"
)

const linkPinPrefix = "link-"

func isLinkPin(name string) bool { return strings.HasPrefix(name, linkPinPrefix) }

// AttachNIC puts the programs on the NIC of one link: XDP on what comes in, in
// the driver if it can, and the gate on what goes out.
func (d *Datapath) AttachNIC(role, index int) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return d.attachNIC(role, index)
}

// nicParts are what is attached to a NIC, by the ends of their pins' names.
var nicParts = [...]string{partIn, partOut}

const (
	partIn  = "-in"
	partOut = "-out"
)

func (d *Datapath) attachNIC(role, index int) error {
	name := linkPinPrefix + LinkNames[role]
	mode, err := d.attachXDP(name+partIn, index)
	if err != nil {
		return fmt.Errorf("attach XDP to the %s NIC (index %d): %w", LinkNames[role], index, err)
	}
	d.modes[role].Store(&mode)
	if err := d.attachTC(name+partOut, index, ebpf.AttachTCXEgress, d.objs.XdphaOut); err != nil {
		return fmt.Errorf("attach the gate to the %s NIC (index %d): %w", LinkNames[role], index, err)
	}
	return nil
}

// AttachTick puts the pacer's program on the end of the private pair where the
// frame arrives.
func (d *Datapath) AttachTick(index int) error {
	if err := d.attachTC(linkPinPrefix+"tick", index, ebpf.AttachTCXIngress, d.objs.XdphaTick); err != nil {
		return fmt.Errorf("attach the pacer (index %d): %w", index, err)
	}
	return nil
}

// MoveTick does the same after the pair was made anew: what was attached to the old one is gone with it.
func (d *Datapath) MoveTick(index int) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	const name = linkPinPrefix + "tick"
	if err := d.forget(name); err != nil {
		return fmt.Errorf("attach the pacer anew: %w", err)
	}
	if err := d.attachTC(name, index, ebpf.AttachTCXIngress, d.objs.XdphaTick); err != nil {
		return fmt.Errorf("attach the pacer anew (index %d): %w", index, err)
	}
	return nil
}

// forget lets go of what was attached to a device.
func (d *Datapath) forget(name string) error {
	if l := d.links[name]; l != nil {
		delete(d.links, name)
		if err := l.Close(); err != nil {
			return err
		}
	}
	delete(d.egress, name)
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// DropNIC says that a link's NIC is gone: nothing is sent there any more, and nothing that it
// carried passes by it. The programs stay on it as long as it exists under whatever name, for what
// was put on it may still be there.
func (d *Datapath) DropNIC(role int, carried []int) error {
	return d.place(role, 0, [6]byte{}, carried)
}

// MoveNIC puts a link on a NIC that has come in the place of its former one, or anew on the same. The
// programs are there before anything may pass.
func (d *Datapath) MoveNIC(role, index int, mac [6]byte, carried []int) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	for _, part := range nicParts {
		name := linkPinPrefix + LinkNames[role] + part
		on, err := d.isOn(name, index)
		if err == nil && !on { // what is in its place stays: there is no moment without it
			err = d.forget(name)
		}
		if err != nil {
			return fmt.Errorf("attach the %s NIC anew: %w", LinkNames[role], err)
		}
	}
	if err := d.attachNIC(role, index); err != nil {
		return err
	}
	return d.place(role, index, mac, carried)
}

// Carry lets a NIC carry an identity from this packet on, and no other one. The programs must be on it.
func (d *Datapath) Carry(identity, index int) error {
	b, err := mapArray(d.objs.Config)
	if err != nil {
		return fmt.Errorf("write the carrier of identity %d: %w", identity, err)
	}
	c := (*bpf.XdphaXdConfig)(unsafe.Pointer(&b[0]))
	atomic.StoreUint32(&c.Identities[identity].Carrier, uint32(index))
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("write the carrier of identity %d: %w", identity, err)
	}
	return nil
}

// Carriers are the interface indexes of the NICs that carry the identities by the maps that an earlier
// process left; nil: there are none of this version.
func Carriers(pinDir string) (list []int) {
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, "config"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil // Open says what is wrong, if anything is
	}
	defer pinned.Close()
	var c bpf.XdphaXdConfig
	if err := pinned.Lookup(uint32(0), &c); err != nil || c.Abi != ABI {
		return nil
	}
	for _, id := range c.Identities[:c.N_identities] {
		list = append(list, int(id.Carrier))
	}
	return list
}

// place names a link's NIC to the running programs. Each field is one store, and while the MAC
// changes there is no NIC.
func (d *Datapath) place(role, index int, mac [6]byte, carried []int) error {
	b, err := mapArray(d.objs.Config)
	if err != nil {
		return fmt.Errorf("write the %s NIC's place: %w", LinkNames[role], err)
	}
	c := (*bpf.XdphaXdConfig)(unsafe.Pointer(&b[0]))
	for _, i := range carried {
		atomic.StoreUint32(&c.Identities[i].Carrier, uint32(index))
	}
	if c.Links[role].Mac != mac {
		atomic.StoreUint32(&c.Links[role].Ifindex, 0)
		c.Links[role].Mac = mac
	}
	atomic.StoreUint32(&c.Links[role].Ifindex, uint32(index))
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("write the %s NIC's place: %w", LinkNames[role], err)
	}
	return nil
}

// Attached reports whether the programs are still on a link's NIC: who may attach may also detach.
func (d *Datapath) Attached(role, index int) (bool, error) {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	for _, part := range nicParts {
		if on, err := d.isOn(linkPinPrefix+LinkNames[role]+part, index); err != nil || !on {
			return false, err
		}
	}
	return true, nil
}

func (d *Datapath) isOn(name string, index int) (bool, error) {
	if c := d.egress[name]; c != nil {
		on, err := c.present()
		return on && c.index == index, err
	}
	l := d.links[name]
	if l == nil {
		return false, nil
	}
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("look at link %s: %w", name, err)
	}
	on := uint32(0) // a link whose device is gone, or that was detached, has none
	if x := info.XDP(); x != nil {
		on = x.Ifindex
	}
	if t := info.TCX(); t != nil {
		on = t.Ifindex
	}
	return on == uint32(index), nil
}

// Mode returns how XDP runs on a link's NIC; empty: it is not attached.
func (d *Datapath) Mode(role int) string {
	if m := d.modes[role].Load(); m != nil {
		return *m
	}
	return ""
}

func (d *Datapath) attachXDP(name string, index int) (string, error) {
	if d.links[name] != nil {
		return xdpMode(index)
	}
	switch l, err := d.pinnedLink(name); {
	case err != nil:
		return "", err
	case l != nil:
		if err := l.Update(d.objs.XdphaIn); err != nil {
			return "", errors.Join(fmt.Errorf("upgrade link: %w", err), l.Close())
		}
		d.links[name] = l
		return xdpMode(index)
	}
	var native error
	for _, try := range []struct {
		flags link.XDPAttachFlags
		mode  string
	}{{link.XDPDriverMode, ModeNative}, {link.XDPGenericMode, ModeGeneric}} {
		l, err := link.AttachXDP(link.XDPOptions{Program: d.objs.XdphaIn, Interface: index, Flags: try.flags})
		switch {
		case err == nil:
			if try.mode == ModeGeneric {
				d.opts.Log.Warn("the driver cannot run XDP: using generic mode, which is slower", "index", index, "native", native)
			}
			d.links[name] = l
			return try.mode, d.pinLate(name, l)
		case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
			return "", foreignProgram(index, err)
		}
		native = errors.Join(native, err)
	}
	return "", fmt.Errorf("neither native nor generic mode: %w", native)
}

// foreignProgram names what is on a NIC in our place. It is left as it is.
func foreignProgram(index int, err error) error {
	l, lerr := netlink.LinkByIndex(index)
	if lerr != nil || l.Attrs().Xdp == nil || l.Attrs().Xdp.ProgId == 0 {
		return fmt.Errorf("another XDP program is on it: %w: see 'bpftool net', detach it, or give xdpha another NIC", err)
	}
	id := l.Attrs().Xdp.ProgId
	return fmt.Errorf("another XDP program is on %[1]s: id %[2]d%[3]s: %[4]w: it was left alone; if nothing needs it, take it off by 'ip link set dev %[1]s xdp off' "+
		"('bpftool link' if it is held by a link), or give xdpha another NIC", l.Attrs().Name, id, programName(id), err)
}

// programName is what is known of a program. To ask for it takes CAP_SYS_ADMIN, which a daemon need not have.
func programName(id uint32) string {
	name, tag, err := programInfo(id)
	if err != nil {
		return fmt.Sprintf(" ('bpftool prog show id %d' tells its name)", id)
	}
	return fmt.Sprintf(", name %q, tag %s", name, tag)
}

func programInfo(id uint32) (name, tag string, err error) {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return "", "", fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", "", fmt.Errorf("read program %d: %w", id, err)
	}
	return info.Name, info.Tag, nil
}

// xdpMode reads how XDP is attached to a NIC.
func xdpMode(index int) (string, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("read XDP mode: %w", err)
	}
	if x := l.Attrs().Xdp; x != nil && x.AttachMode == 2 { // XDP_ATTACHED_SKB
		return ModeGeneric, nil
	}
	return ModeNative, nil
}

func (d *Datapath) attachTC(name string, index int, at ebpf.AttachType, prog *ebpf.Program) error {
	if d.links[name] != nil {
		return nil
	}
	switch l, err := d.pinnedLink(name); {
	case err != nil:
		return err
	case l != nil:
		err := l.Update(prog)
		if err == nil {
			d.links[name] = l
			return nil
		}
		if !errors.Is(err, unix.ENOLINK) { // its device is gone: this is another one
			return errors.Join(fmt.Errorf("upgrade link: %w", err), l.Close())
		}
		if err := errors.Join(os.Remove(filepath.Join(d.dir, name)), l.Close()); err != nil {
			return fmt.Errorf("remove link of a device that is gone: %w", err)
		}
	}
	if !d.opts.NoTCX {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: at, Anchor: link.Head()})
		if err == nil {
			d.links[name] = l
			return d.pinLate(name, l)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	c := &clsact{index: index, ingress: at == ebpf.AttachTCXIngress, name: "xdpha-" + name}
	if err := c.replace(prog); err != nil {
		return err
	}
	d.egress[name] = c
	return nil
}

func (d *Datapath) pinnedLink(name string) (link.Link, error) {
	if !d.adopted {
		return nil, nil
	}
	l, err := link.LoadPinnedLink(filepath.Join(d.dir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over link %s: %w", name, err)
	}
	return l, nil
}

// pinLate pins a link that comes after the others were published together.
func (d *Datapath) pinLate(name string, l link.Link) error {
	if d.dir != d.opts.PinDir {
		return nil
	}
	if err := l.Pin(filepath.Join(d.dir, name)); err != nil {
		return fmt.Errorf("pin link %s: %w", name, err)
	}
	return nil
}

// clsact is a program attached by the classifier, for kernels before 6.6. It
// stays when the process ends, as a pinned link does.
type clsact struct {
	index   int
	ingress bool
	name    string
}

const (
	clsactPriority = 1
	clsactHandle   = 0x7864 // "xd"
)

func (c *clsact) filter() *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if c.ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: c.index, Parent: parent, Handle: clsactHandle, Priority: clsactPriority, Protocol: unix.ETH_P_ALL,
		},
		Name: c.name, DirectAction: true,
	}
}

func (c *clsact) replace(prog *ebpf.Program) error {
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: c.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(q); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact qdisc: %w: the kernel needs tcx (Linux 6.6) or CONFIG_NET_SCH_INGRESS", err)
	}
	f := c.filter()
	f.Fd = prog.FD()
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add bpf filter: %w: the kernel needs tcx (Linux 6.6) or CONFIG_NET_CLS_BPF", err)
	}
	return nil
}

func (c *clsact) present() (bool, error) {
	want := c.filter()
	list, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c.index}}, want.Parent)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("read bpf filter %s: %w", c.name, err)
	}
	return slices.ContainsFunc(list, func(f netlink.Filter) bool {
		b, ok := f.(*netlink.BpfFilter)
		return ok && b.Handle == want.Handle && b.Name == c.name
	}), nil
}

// remove leaves the qdisc: another program may have come to use it.
func (c *clsact) remove() error {
	if err := netlink.FilterDel(c.filter()); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove bpf filter %s: %w", c.name, err)
	}
	return nil
}
