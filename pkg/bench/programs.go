// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// programs are what is attached to the NICs, found there: what runs is what is measured.
type programs struct{ in, out, reflect *ebpf.Program }

// findPrograms looks in the thread's namespace, which is the answering one.
func (r *rig) findPrograms() (err error) {
	if r.programs.in, err = xdpOn("lan"); err != nil {
		return err
	}
	if r.programs.reflect, err = xdpOn("bare"); err != nil {
		return err
	}
	id, err := gateOn("lan", filepath.Join(r.pins(), "link-lan-out"))
	if err != nil {
		return err
	}
	r.programs.out, err = programByID(id)
	return err
}

func (p programs) close() {
	for _, p := range []*ebpf.Program{p.in, p.out, p.reflect} {
		_ = p.Close() // a descriptor; nil is closed already
	}
}

func xdpOn(nic string) (*ebpf.Program, error) {
	l, err := netlink.LinkByName(nic)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", nic, err)
	}
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return nil, fmt.Errorf("find the program on %s: no XDP is attached", nic)
	}
	return programByID(ebpf.ProgramID(x.ProgId))
}

// gateOn asks the pinned tcx link, or the classifier where the kernel is older than 6.6.
func gateOn(nic, pin string) (ebpf.ProgramID, error) {
	gate, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer gate.Close()
		info, err := gate.Info()
		if err != nil {
			return 0, fmt.Errorf("ask the gate's link for its program: %w", err)
		}
		return info.Program, nil
	}
	l, errLink := netlink.LinkByName(nic)
	if errLink != nil {
		return 0, fmt.Errorf("find %s: %w", nic, errLink)
	}
	filters, errFilters := netlink.FilterList(l, netlink.HANDLE_MIN_EGRESS)
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok {
			return ebpf.ProgramID(b.Id), nil
		}
	}
	return 0, fmt.Errorf("find the gate on %s: %w", nic, errors.Join(err, errFilters))
}

func programByID(id ebpf.ProgramID) (*ebpf.Program, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open program %d: %w", id, err)
	}
	return p, nil
}

// countRuns has the kernel time every run of every program until it is closed.
func countRuns() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("turn on run time statistics: %w", err)
	}
	return c, nil
}

// repeat runs a program many times on one frame, as if on the NIC of this index in the
// thread's namespace. The program must leave the frame as it is.
func (r *rig) repeat(p *ebpf.Program, index int, frame []byte, times uint32) (ns float64, err error) {
	opts := ebpf.RunOptions{Data: frame, Repeat: times}
	if p == r.programs.out {
		opts.Context = &[44 / 4]uint32{10: uint32(index)} // __sk_buff up to ifindex
	} else {
		opts.Context = &struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
			DataEnd: uint32(len(frame)), IngressIfindex: uint32(index),
		}
	}
	start := time.Now()
	if _, err = p.Run(&opts); err != nil {
		return 0, fmt.Errorf("run %s %d times: %w", p, times, err)
	}
	return float64(time.Since(start)) / float64(times), nil
}
