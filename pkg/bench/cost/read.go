// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/lab"
)

// userHz is what /proc counts CPU time in (sysconf(_SC_CLK_TCK)): 100 on every Linux of today.
const userHz = 100

// reading is what is read of both nodes before and after.
type reading struct {
	at    time.Time
	nodes [2]nodeReading
}

type nodeReading struct {
	cpu      time.Duration
	resident uint64
	pinned   loader.Pinned
}

func read(l *lab.Lab) (r reading, err error) {
	r.at = time.Now()
	for i, n := range l.Nodes {
		if r.nodes[i], err = readNode(n); err != nil {
			return r, fmt.Errorf("read %s: %w", n.Name, err)
		}
	}
	return r, nil
}

func readNode(n *lab.Node) (r nodeReading, err error) {
	dir := fmt.Sprintf("/proc/%d/", n.PID())
	if r.cpu, err = cpuTime(dir + "stat"); err != nil {
		return r, err
	}
	if r.resident, err = resident(dir + "statm"); err != nil {
		return r, err
	}
	r.pinned, err = loader.ReadPinned(n.PinDir)
	return r, err
}

// cpuTime is utime and stime of proc_pid_stat(5): the 14th and 15th field; the second is in
// parentheses and may hold anything.
func cpuTime(path string) (time.Duration, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("read %s: %d fields behind the name", path, len(f))
	}
	ticks, err := sum(f[11], f[12])
	return time.Duration(ticks) * time.Second / userHz, err
}

// resident is the second field of proc_pid_statm(5), in pages.
func resident(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("read %s: %d fields", path, len(f))
	}
	pages, err := sum(f[1])
	return pages * uint64(os.Getpagesize()), err
}

func sum(numbers ...[]byte) (total uint64, err error) {
	for _, b := range numbers {
		n, err := strconv.ParseUint(string(b), 10, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// within is the program whose runs, at rest, are part of a tick's: probes go out by it.
const within = "xdpha_out"

// mean is of both nodes.
func (r *Rest) mean(before, after reading) {
	nodes := float64(len(after.nodes))
	r.Seconds = after.at.Sub(before.at).Seconds()
	runs, total := map[string]float64{}, map[string]float64{}
	var names []string
	for i, now := range after.nodes {
		then := before.nodes[i]
		r.DaemonCPU += (now.cpu - then.cpu).Seconds() / r.Seconds / nodes
		r.DaemonBytes += now.resident / uint64(nodes)
		r.MapBytes += now.pinned.MapBytes / uint64(nodes)
		r.CodeBytes += now.pinned.CodeBytes / uint64(nodes)
		for j, p := range now.pinned.Programs {
			if i == 0 {
				names = append(names, p.Name)
			}
			runs[p.Name] += float64(p.Runs - then.pinned.Programs[j].Runs)
			total[p.Name] += float64(p.Total - then.pinned.Programs[j].Total)
		}
	}
	for _, name := range names {
		share := ProgramShare{Name: name, PerSecond: runs[name] / r.Seconds / nodes}
		if runs[name] > 0 {
			share.NS = total[name] / runs[name]
		}
		if name != within {
			r.KernelCPU += total[name] / r.Seconds / nodes / 1e9
		}
		r.Programs = append(r.Programs, share)
	}
}
