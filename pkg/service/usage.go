// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNotMeasured is why there is no reading of a service's use: nothing of it runs, or not in a cgroup.
var ErrNotMeasured = errors.New("not measured")

// Usage is what a service uses, as its cgroup measures it.
type Usage struct {
	Service   string
	Processes int
	CPU       time.Duration // user and system, since the cgroup was made
	Memory    uint64        // bytes, with the page cache that it caused
	// MemoryPeak is the most since the cgroup was made. It is 0 where the kernel does not measure
	// memory by cgroup: then Memory is what the processes have for themselves, without page cache.
	MemoryPeak uint64
	IO         *IOUsage // nil: the kernel does not measure it by cgroup
}

// IOUsage is what went to disks and came from them since the cgroup was made.
type IOUsage struct{ ReadBytes, WrittenBytes, Reads, Writes uint64 }

// Usage reads what a service uses.
func (m *Manager) Usage(ctx context.Context, name string) (Usage, error) {
	u, ok := m.units[name]
	if !ok {
		return Usage{}, fmt.Errorf("read use: no service is named %q", name)
	}
	dir, err := u.driver.cgroupDir(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("read use of %s: %w", name, err)
	}
	use, err := readUsage(dir)
	if err != nil {
		return Usage{}, fmt.Errorf("read use of %s: %w", name, err)
	}
	use.Service = name
	return use, nil
}

// readUsage reads a cgroup's files (Documentation/admin-guide/cgroup-v2.rst).
func readUsage(dir string) (Usage, error) {
	var u Usage
	cpu, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return u, fmt.Errorf("%w: %w", ErrNotMeasured, err)
	}
	used, ok := keyed(string(cpu), "usage_usec")
	if !ok {
		return u, fmt.Errorf("%w: no usage_usec in %s/cpu.stat", ErrNotMeasured, dir)
	}
	u.CPU = time.Duration(used) * time.Microsecond
	pids := (&cgroup{dir: dir}).processes()
	u.Processes = len(pids)
	if u.Memory, err = number(filepath.Join(dir, "memory.current")); err == nil {
		u.MemoryPeak, _ = number(filepath.Join(dir, "memory.peak")) // from Linux 5.19 on
		u.MemoryPeak = max(u.MemoryPeak, u.Memory)
	} else {
		u.Memory = ownMemory(pids)
	}
	if io, err := os.ReadFile(filepath.Join(dir, "io.stat")); err == nil {
		u.IO = sumIO(string(io))
	}
	return u, nil
}

// keyed reads the number after a key, one to a line.
func keyed(text, key string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseUint(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

func number(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// ownMemory adds what no other process shares by a file (proc_pid_status(5)).
func ownMemory(pids []int) (sum uint64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // gone meanwhile
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) == 3 && (f[0] == "RssAnon:" || f[0] == "RssShmem:") {
				kb, _ := strconv.ParseUint(f[1], 10, 64)
				sum += kb << 10
			}
		}
	}
	return sum
}

// sumIO adds up all devices: lines of MAJOR:MINOR and key=number.
func sumIO(text string) *IOUsage {
	var u IOUsage
	into := map[string]*uint64{"rbytes": &u.ReadBytes, "wbytes": &u.WrittenBytes, "rios": &u.Reads, "wios": &u.Writes}
	for _, f := range strings.Fields(text) {
		key, v, _ := strings.Cut(f, "=")
		if sum := into[key]; sum != nil {
			n, _ := strconv.ParseUint(v, 10, 64)
			*sum += n
		}
	}
	return &u
}
