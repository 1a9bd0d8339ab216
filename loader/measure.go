// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Program is a loaded program as a benchmark sees it.
type Program struct {
	p     *ebpf.Program
	onSKB bool
}

// In is the program of what comes in.
func (d *Datapath) In() Program { return Program{d.objs.XdphaIn, false} }

// Out is the program of what goes out.
func (d *Datapath) Out() Program { return Program{d.objs.XdphaOut, true} }

// Reflect is the bare XDP_TX program.
func (l *Lab) Reflect() Program { return Program{l.objs.Reflect, false} }

// Repeat runs the program many times on one frame, as if on the NIC of this index in
// the thread's namespace, and returns the ns of one run. The program must leave the frame as it is.
func (p Program) Repeat(index int, frame []byte, times uint32) (ns float64, err error) {
	opts := ebpf.RunOptions{Data: frame, Repeat: times}
	if p.onSKB {
		opts.Context = &[44 / 4]uint32{10: uint32(index)} // __sk_buff up to ifindex
	} else {
		opts.Context = &struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
			DataEnd: uint32(len(frame)), IngressIfindex: uint32(index),
		}
	}
	start := time.Now()
	if _, err = p.p.Run(&opts); err != nil {
		return 0, fmt.Errorf("run %s %d times: %w", p.p, times, err)
	}
	return float64(time.Since(start)) / float64(times), nil
}

// Runs is what the kernel counted of the program's runs while CountRuns was on.
func (p Program) Runs() (count uint64, total time.Duration, err error) {
	s, err := p.p.Stats()
	if err != nil {
		return 0, 0, fmt.Errorf("read run time statistics of %s: %w", p.p, err)
	}
	return s.RunCount, s.Runtime, nil
}

// CountRuns has the kernel time every run of every program until it is closed.
func CountRuns() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("turn on run time statistics: %w", err)
	}
	return c, nil
}
