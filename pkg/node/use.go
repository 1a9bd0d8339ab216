// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/service"
)

// useEvery is how often the use of services is read: the peaks are means over this time.
const useEvery = 10 * time.Second

// uses is what services have used since the daemon watches them.
type uses struct {
	mu sync.Mutex
	of map[string]*use
}

// use is one service's.
type use struct {
	last     service.Usage
	at       time.Time
	measured time.Duration // the sum of the times between two readings
	cpu, io  float64       // sums of CPU seconds and bytes over it
	cpuPeak  float64       // processors
	ioPeak   float64       // bytes a second
	memory   uint64        // the most, bytes
}

// watchUse reads the services' use until ctx ends. What does not run, or not in a cgroup, has none.
func (n *node) watchUse(ctx context.Context) error {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for {
		for _, s := range n.Config.Services {
			if u, err := n.services.Usage(ctx, s.Name); err == nil {
				n.uses.note(u, time.Now())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// note takes a reading. Counters that went back are of a new start.
func (u *uses) note(r service.Usage, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.of == nil {
		u.of = map[string]*use{}
	}
	s := u.of[r.Service]
	if s == nil {
		s = &use{}
		u.of[r.Service] = s
	}
	took := at.Sub(s.at)
	if !s.at.IsZero() && took < 3*useEvery && took > 0 && r.CPU >= s.last.CPU && moved(r) >= moved(s.last) {
		cpu, io := (r.CPU - s.last.CPU).Seconds(), float64(moved(r)-moved(s.last))
		s.measured, s.cpu, s.io = s.measured+took, s.cpu+cpu, s.io+io
		s.cpuPeak, s.ioPeak = max(s.cpuPeak, cpu/took.Seconds()), max(s.ioPeak, io/took.Seconds())
	}
	s.last, s.at, s.memory = r, at, max(s.memory, r.Memory, r.MemoryPeak)
}

// moved is the bytes that went to disks and came from them.
func moved(r service.Usage) uint64 {
	if r.IO == nil {
		return 0
	}
	return r.IO.ReadBytes + r.IO.WrittenBytes
}

// Uses is what the services have used here, and what this node has.
func (b backend) Uses() control.Uses {
	n := b.n
	out := control.Uses{Node: n.self(), Processors: runtime.NumCPU(), Memory: memoryTotal()}
	for _, node := range n.Config.Nodes {
		out.Nodes = append(out.Nodes, node.Name)
	}
	for _, id := range n.Config.Identities {
		out.Homes = append(out.Homes, control.HomeOf{Identity: id.Name, Home: n.Config.Nodes[id.Home].Name})
	}
	n.uses.mu.Lock()
	defer n.uses.mu.Unlock()
	for _, s := range n.Config.Services {
		u := control.Use{Service: s.Name, Concurrent: s.Concurrent}
		for _, id := range n.Config.Identities {
			if slices.Contains(id.Services, s.Name) {
				u.Identity = id.Name
			}
		}
		if m := n.uses.of[s.Name]; m != nil && m.measured > 0 {
			u.MeasuredS = m.measured.Seconds()
			u.CPU, u.CPUPeak, u.Memory = m.cpu/u.MeasuredS, m.cpuPeak, m.memory
			u.IO, u.IOPeak = m.io/u.MeasuredS, m.ioPeak
		}
		out.Services = append(out.Services, u)
	}
	return out
}

// memoryTotal is this host's memory in bytes; 0: not known.
func memoryTotal() (total uint64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			_, _ = fmt.Sscanf(rest, "%d kB", &total) // else 0
		}
	}
	return total << 10
}
