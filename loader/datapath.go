// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/core"
)

// ErrOtherVersion says that pinned objects are of another version of the datapath.
var ErrOtherVersion = errors.New("pinned by another version")

// Options say where the datapath is kept.
type Options struct {
	PinDir string        // a directory on a bpffs; its parent must exist
	Lease  time.Duration // the supervisor's: taking over earns it, for loading takes a while
	NoTCX  bool          // attach by clsact even where tcx exists
	Log    *slog.Logger
	Anew   func() error // called before anything of an earlier run is removed: its gates go
}

// Datapath is the loaded programs and their maps. What is pinned goes on when
// the process ends; Remove ends it.
type Datapath struct {
	opts    Options
	dir     string // where pins are made; PinDir once published
	objs    bpf.XdphaObjects
	links   map[string]link.Link
	modes   [Links]atomic.Pointer[string]
	egress  map[string]*clsact
	adopted bool

	attaching sync.Mutex // guards links and egress: a NIC may come back while the pair is made anew

	memory
	timelines *[MaxIdentities]bpf.XdphaXdTimeline
	mapped    [][]byte
}

// memory is the maps that say who may serve what, as this process has them mapped.
type memory struct {
	control *bpf.XdphaXdControl
	state   *bpf.XdphaXdState
	peers   *[MaxNodes]bpf.XdphaXdPeer
	words   *[MaxIdentities]uint64
	cfg     bpf.XdphaXdConfig
}

// Open loads the programs. If an earlier process left the same configuration
// pinned, its maps are taken over with all that they hold; pins of another
// configuration are removed, those of another version refused.
func Open(cfg Config, opts Options) (_ *Datapath, err error) {
	want, err := cfg.abi()
	if err != nil {
		return nil, err
	}
	if err := onBPFFS(filepath.Dir(opts.PinDir)); err != nil {
		return nil, err
	}
	d := &Datapath{opts: opts, links: map[string]link.Link{}, egress: map[string]*clsact{}, memory: memory{cfg: want}}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	d.dir = opts.PinDir + "-new"         // bpffs takes no dots in names
	if err := unpin(d.dir); err != nil { // of a process killed before it published
		return nil, fmt.Errorf("remove unfinished pins: %w", err)
	}
	replace, err := d.adopt(want, cfg.Keys)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, m := range replace {
			m.Close()
		}
	}()
	spec, err := bpf.LoadXdpha()
	if err != nil {
		return nil, fmt.Errorf("read compiled programs: %w", err)
	}
	if err := spec.LoadAndAssign(&d.objs, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return nil, loadError(err)
	}
	if err := d.mapMemory(); err != nil {
		return nil, err
	}
	if !d.adopted {
		if err := d.fill(cfg, want); err != nil {
			return nil, err
		}
	}
	if err := d.SetKeys(cfg.Keys); err != nil {
		return nil, err
	}
	return d, nil
}

// Adopted reports whether the maps of an earlier process were taken over.
func (d *Datapath) Adopted() bool { return d.adopted }

const otherVersionHint = "stop that version's daemon without --keep, or remove the directory if no daemon runs"

func (d *Datapath) adopt(want bpf.XdphaXdConfig, keys []Key) (_ map[string]*ebpf.Map, err error) {
	path := filepath.Join(d.opts.PinDir, "config")
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, d.anew()
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", path, err)
	}
	defer pinned.Close()
	have, err := pinned.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read pinned map %s: %w", path, err)
	}
	wantBytes := unsafe.Slice((*byte)(unsafe.Pointer(&want)), unsafe.Sizeof(want))
	if len(have) < 4 || len(have) != len(wantBytes) || binary.NativeEndian.Uint32(have) != uint32(ABI) {
		return nil, fmt.Errorf("take over %s: %w: %s", d.opts.PinDir, ErrOtherVersion, otherVersionHint)
	}
	if !bytes.Equal(have, wantBytes) {
		d.opts.Log.Warn("the configuration or a NIC changed since the last run: starting anew", "pins", d.opts.PinDir)
		return nil, d.anew()
	}
	spec, err := bpf.LoadXdpha()
	if err != nil {
		return nil, fmt.Errorf("read compiled programs: %w", err)
	}
	replace := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			for _, m := range replace {
				m.Close()
			}
		}
	}()
	for name := range spec.Maps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(d.opts.PinDir, name), nil)
		if err == nil {
			replace[name] = m
			err = spec.Maps[name].Compatible(m)
		}
		if err != nil {
			return nil, fmt.Errorf("take over map %s in %s: %w: %w: %s", name, d.opts.PinDir, ErrOtherVersion, err, otherVersionHint)
		}
	}
	switch ok, err := succeed(replace["keys"], replace["control"], keys); {
	case err != nil:
		return nil, err
	case !ok:
		d.opts.Log.Warn("no key of the secret file was in force before: the peer would not be heard any more: starting anew", "pins", d.opts.PinDir)
		for _, m := range replace {
			m.Close()
		}
		return nil, d.anew()
	}
	if err := d.renewAdopted(replace["control"]); err != nil {
		return nil, err
	}
	d.adopted, d.dir = true, d.opts.PinDir
	return replace, nil
}

// renewAdopted extends the lease by the successor's first sign of life: to load the programs may
// take longer than what its predecessor left of it.
func (d *Datapath) renewAdopted(control *ebpf.Map) error {
	var c bpf.XdphaXdControl
	if err := control.Lookup(uint32(0), &c); err != nil {
		return fmt.Errorf("read control map: %w", err)
	}
	if c.LeaseUntilNs < uint64(Now()) {
		return nil // it has run out: what follows is decided with the programs loaded
	}
	c.RenewedNs = uint64(Now())
	c.LeaseUntilNs = c.RenewedNs + uint64(d.opts.Lease)
	if err := control.Put(uint32(0), &c); err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}

func (d *Datapath) anew() error {
	if err := d.opts.Anew(); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return d.removePins()
}

func (d *Datapath) maps() map[string]*ebpf.Map {
	o := &d.objs
	return map[string]*ebpf.Map{
		"config": o.Config, "control": o.Control, "state": o.State, "peers": o.Peers, "words": o.Words, "addresses": o.Addresses,
		"ports": o.Ports, "macs": o.Macs, "counters": o.Counters, "events": o.Events, "detectors": o.Detectors, "timelines": o.Timelines, "keys": o.Keys,
	}
}

// mapArray maps an array's values into this process's memory.
func mapArray(m *ebpf.Map) ([]byte, error) {
	b, err := mapMap(m.FD(), int(m.ValueSize()*m.MaxEntries()))
	if err != nil {
		return nil, fmt.Errorf("map memory of %s: %w", m, err)
	}
	return b, nil
}

func mapMap(fd, size int) ([]byte, error) {
	page := os.Getpagesize()
	return unix.Mmap(fd, 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (d *Datapath) mapMemory() error {
	get := func(m *ebpf.Map) (unsafe.Pointer, error) {
		b, err := mapArray(m)
		if err != nil {
			return nil, err
		}
		d.mapped = append(d.mapped, b)
		return unsafe.Pointer(&b[0]), nil
	}
	control, err := get(d.objs.Control)
	if err != nil {
		return err
	}
	state, err := get(d.objs.State)
	if err != nil {
		return err
	}
	peers, err := get(d.objs.Peers)
	if err != nil {
		return err
	}
	words, err := get(d.objs.Words)
	if err != nil {
		return err
	}
	timelines, err := get(d.objs.Timelines)
	if err != nil {
		return err
	}
	d.control, d.state, d.words = (*bpf.XdphaXdControl)(control), (*bpf.XdphaXdState)(state), (*[MaxIdentities]uint64)(words)
	d.peers = (*[MaxNodes]bpf.XdphaXdPeer)(peers)
	d.timelines = (*[MaxIdentities]bpf.XdphaXdTimeline)(timelines)
	return nil
}

func (d *Datapath) fill(cfg Config, v bpf.XdphaXdConfig) error {
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails (crypto/rand)
	d.state.BootId = binary.NativeEndian.Uint64(boot[:]) | 1
	if err := d.objs.Config.Put(uint32(0), &v); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	var keys []bpf.XdphaXdAddress
	var values []uint32
	for i, id := range cfg.Identities {
		d.control.Floor[i] = id.Floor
		if err := d.objs.Macs.Put(macKey(id.MAC), uint32(i)); err != nil {
			return fmt.Errorf("write virtual MAC of identity %d: %w", i, err)
		}
		for _, p := range id.Ports {
			if err := d.SetReady(i, p, 0); err != nil {
				return err
			}
		}
		for _, a := range id.Addresses {
			keys, values = append(keys, bpf.XdphaXdAddress{Bytes: a.As16()}), append(values, uint32(i))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if _, err := d.objs.Addresses.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("write %d addresses: %w", len(keys), err)
	}
	return nil
}

// SetReady tells the kernel at which generation of an identity the service behind one of its ports is
// ready; 0: it is not. Until it is, and after every change of owner, the port's new connections are
// dropped, so that clients ask again.
func (d *Datapath) SetReady(identity int, port uint16, generation uint64) error {
	key := bpf.XdphaXdPort{Identity: uint32(identity), PortBe: bits.ReverseBytes16(port)}
	if err := d.objs.Ports.Put(key, generation); err != nil {
		return fmt.Errorf("write readiness of port %d of identity %d: %w", port, identity, err)
	}
	return nil
}

// SetWord gives an identity its first word; only before Start.
func (d *Datapath) SetWord(identity int, w core.Word) { d.words[identity] = uint64(w) }

// Start starts the detector and publishes the pins, all by one rename. After
// taking over an earlier process's maps it hands the running detector to this
// process's programs.
func (d *Datapath) Start() error {
	ret, err := d.objs.XdphaStart.Run(&ebpf.RunOptions{})
	if err != nil {
		return fmt.Errorf("start detector: %w", err)
	}
	if ret != 0 {
		return fmt.Errorf("start detector: the kernel refused its timer (step %d); bpf_timer needs Linux 5.15 and no PREEMPT_RT", ret)
	}
	if d.adopted {
		return nil
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	for name, m := range d.maps() {
		if err := m.Pin(filepath.Join(d.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name, l := range d.links {
		if err := l.Pin(filepath.Join(d.dir, name)); err != nil {
			return fmt.Errorf("pin link %s: %w", name, err)
		}
	}
	if err := os.Rename(d.dir, d.opts.PinDir); err != nil {
		return fmt.Errorf("publish pins: %w", err)
	}
	d.dir = d.opts.PinDir
	return nil
}

// Close ends this process's part and leaves what is pinned.
func (d *Datapath) Close() error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	d.links = nil
	for _, b := range d.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	d.mapped, d.control, d.state, d.peers, d.words, d.timelines = nil, nil, nil, nil, nil, nil
	if d.objs.Config != nil {
		errs = append(errs, d.objs.Close())
	}
	return errors.Join(errs...)
}

// Remove detaches the programs and removes all pins; Close is still needed.
func (d *Datapath) Remove() error {
	var errs []error
	for _, c := range d.egress {
		errs = append(errs, c.remove())
	}
	errs = append(errs, d.removePins(), unpin(d.opts.PinDir+"-new"))
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	d.links = nil
	return errors.Join(errs...)
}

// removePins removes what an earlier process or this one published.
func (d *Datapath) removePins() error { return unpin(d.opts.PinDir) }

// unpin removes a directory of pins, and returns when its programs are detached.
// Links go first: nothing may run on half of its maps.
func unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pins: %w", err)
	}
	var errs []error
	for _, wantLink := range []bool{true, false} {
		for _, e := range entries {
			if isLinkPin(e.Name()) != wantLink {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if wantLink {
				errs = append(errs, unpinLink(path))
			} else {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// unpinLink holds the link while its pin goes: the kernel detaches at once what the
// last descriptor closes, but sometime later what the last pin lets go of.
func unpinLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil { // of a kind that this version does not know
		return os.Remove(path)
	}
	return errors.Join(os.Remove(path), l.Close())
}

func onBPFFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for a bpffs at %s: %w: mount one with 'mount -t bpf bpf %s'", dir, err, dir)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a bpffs: mount one with 'mount -t bpf bpf %s', or choose another --pin-dir", dir, dir)
	}
	return nil
}
