// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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

// ForgetGaps forgets the longest silences so far, so that those of a stretch can be read.
func (d *Datapath) ForgetGaps() {
	for i := range d.peers {
		p := &d.peers[i]
		atomic.StoreUint64(&p.GapMaxNs, 0)
		for path := range p.Paths {
			atomic.StoreUint64(&p.Paths[path].GapMaxNs, 0)
		}
	}
}

// CountRuns has the kernel time every run of every program until it is closed.
func CountRuns() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("turn on run time statistics: %w", err)
	}
	return c, nil
}

// Pinned is what a node's pins hold, as a benchmark sees it.
type Pinned struct {
	Programs  []PinnedProgram // those that are attached, each once; not the one that starts the detector
	MapBytes  uint64
	CodeBytes uint64
}

// PinnedProgram is an attached program. What the kernel counts of its runs it counts while
// CountRuns is on.
type PinnedProgram struct {
	Name  string
	Runs  uint64
	Total time.Duration
}

// ReadPinned reads what is pinned in a node's directory, by whatever process.
func ReadPinned(dir string) (p Pinned, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return p, fmt.Errorf("read pins: %w", err)
	}
	seen := map[ebpf.ProgramID]bool{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if isLinkPin(e.Name()) {
			err = p.addLink(path, seen)
		} else {
			err = p.addMap(path)
		}
		if err != nil {
			return p, fmt.Errorf("read pin %s: %w", path, err)
		}
	}
	slices.SortFunc(p.Programs, func(a, b PinnedProgram) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

func (p *Pinned) addMap(path string) error {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return err
	}
	bytes, _ := info.Memlock()
	p.MapBytes += bytes
	return nil
}

func (p *Pinned) addLink(path string, seen map[ebpf.ProgramID]bool) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	about, err := l.Info()
	if err != nil || seen[about.Program] {
		return err
	}
	seen[about.Program] = true
	program, err := ebpf.NewProgramFromID(about.Program)
	if err != nil {
		return err
	}
	defer program.Close()
	return p.addProgram(program)
}

func (p *Pinned) addProgram(program *ebpf.Program) error {
	info, err := program.Info()
	if err != nil {
		return err
	}
	s, err := program.Stats()
	if err != nil {
		return err
	}
	bytes, _ := info.Memlock()
	p.CodeBytes += bytes
	p.Programs = append(p.Programs, PinnedProgram{info.Name, s.RunCount, s.Runtime})
	return nil
}
