// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// load is what a rung puts on the machine. put returns when ctx ends and the load is gone, and
// says what it came to.
type load struct {
	name, what string
	put        func(ctx context.Context, d time.Duration) (work string, err error)
}

const (
	busyPerCPU  = 2
	hogBurst    = 3 * time.Second
	hogBreak    = time.Second // for everybody to take a breath, the lab too
	memoryShare = 0.6         // of what is available
	stopTime    = 500 * time.Millisecond
	stopEvery   = 5 * time.Second
)

func (r *rig) loads() []load {
	return []load{
		{"idle", "nothing but the client", idle},
		{"busy", fmt.Sprintf("%d ordinary processes on every CPU that only spin", busyPerCPU), busy},
		{"real-time", fmt.Sprintf("a SCHED_FIFO process of priority %d on every CPU, %s of %s", hogPriority, hogBurst, hogBurst+hogBreak), realTime},
		{"flood", "forged heartbeats and ARP requests from the clients' side, as fast as one thread can send", r.flood},
		{"memory", fmt.Sprintf("a process that fills %.0f %% of the available memory, frees it, and begins again", 100*memoryShare), memory},
		{"stopped", fmt.Sprintf("the daemons by turns under SIGSTOP, %s of %s", stopTime, stopEvery), r.stopped},
	}
}

func idle(ctx context.Context, _ time.Duration) (string, error) {
	<-ctx.Done()
	return "", nil
}

func busy(ctx context.Context, _ time.Duration) (string, error) {
	stop, err := lab.KeepBusy(ctx, busyPerCPU*runtime.NumCPU())
	if err != nil {
		return "", err
	}
	<-ctx.Done()
	stop()
	return fmt.Sprintf("%d processes", busyPerCPU*runtime.NumCPU()), nil
}

func realTime(ctx context.Context, d time.Duration) (string, error) {
	watched := witness()
	n := 0
	var err error
	for deadline := time.Now().Add(d); err == nil && ctx.Err() == nil; n++ {
		var wait func() error
		if wait, err = lab.StartHogs(hogPriority, min(hogBurst, max(time.Until(deadline), 100*time.Millisecond))); err == nil {
			err = wait()
		}
		_ = pair.Pause(ctx, hogBreak) // its end is the loop's
	}
	return fmt.Sprintf("%d bursts, an ordinary program waited for up to %v", n, time.Duration(watched()).Round(time.Millisecond)), err
}

// stopped stops one daemon after the other for a while.
func (r *rig) stopped(ctx context.Context, d time.Duration) (string, error) {
	n := 0
	for every := min(stopEvery, max(d/2, stopTime)); ctx.Err() == nil; n++ {
		node := r.Nodes[n%len(r.Nodes)]
		if err := node.Signal(unix.SIGSTOP); err != nil {
			return "", err
		}
		_ = pair.Pause(ctx, stopTime) // a daemon must go on, whatever ended it
		if err := node.Signal(unix.SIGCONT); err != nil {
			return "", err
		}
		_ = pair.Pause(ctx, every-stopTime)
	}
	return fmt.Sprintf("%d times", n), nil
}

// memory has dd read zeros into one buffer of that size, again and again. It would be the first
// to go if the machine ran out after all.
func memory(ctx context.Context, _ time.Duration) (string, error) {
	n, most := 0, int64(0)
	for ctx.Err() == nil {
		size, err := availableMemory()
		if err != nil {
			return "", err
		}
		size = int64(memoryShare * float64(size))
		cmd := exec.CommandContext(ctx, "choom", "--adjust", "1000", "--",
			"dd", "if=/dev/zero", "of=/dev/null", "bs="+strconv.FormatInt(size, 10), "count=1", "iflag=fullblock")
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a Ctrl-C ends it by way of ctx
		if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
			return "", fmt.Errorf("fill %d bytes of memory: %w: %s", size, err, out)
		}
		n, most = n+1, max(most, size)
	}
	return fmt.Sprintf("up to %.1f GiB, %d times", float64(most)/(1<<30), n), nil
}

// availableMemory is what a process may take without anybody being paged out, in bytes.
func availableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("read the available memory: /proc/meminfo does not say")
}

// flood sends as a host on the clients' network that has no key.
func (r *rig) flood(ctx context.Context, _ time.Duration) (string, error) {
	frames, err := r.floodFrames(ctx)
	if err != nil {
		return "", err
	}
	fd := -1
	err = r.Do(lab.Client, func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: nic.Index})
	})
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err != nil {
		return "", fmt.Errorf("open the flood's socket: %w", err)
	}
	sent, refused := 0, 0
	began := time.Now()
	for ctx.Err() == nil {
		for _, f := range frames {
			if _, err := unix.Write(fd, f); err != nil {
				refused++ // the client's own kernel has no room
			} else {
				sent++
			}
		}
	}
	return fmt.Sprintf("%.0f frames a second, %d refused", float64(sent)/time.Since(began).Seconds(), refused), nil
}

// forger is who floods. Its frames bear its own MAC: another's would mislead the switch, which
// is another fault.
var forger = wire.MAC{0x02, 0xba, 0xdb, 0xad, 0, 1}

// nodeAddrs are the nodes' own, on the clients' network.
var nodeAddrs = map[string]netip.Addr{lab.Serv1: netip.MustParseAddr("192.0.2.11"), lab.Serv2: netip.MustParseAddr("192.0.2.12")}

// floodFrames are heartbeats to both nodes, changed after they were signed and replayed, so that
// a node must look at all of each before it knows; and questions for everybody's addresses.
func (r *rig) floodFrames(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	for node, addr := range nodeAddrs {
		replayed, err := r.overhear(ctx, node)
		if err != nil {
			return nil, err
		}
		copy(replayed[6:], forger[:])
		changed := slices.Clone(replayed)
		changed[len(changed)-1] ^= 1
		out = append(out, changed, replayed, changed, question(addr))
	}
	for _, id := range lab.Identities {
		out = append(out, question(id.Addr))
	}
	return out, nil
}

// overhear returns a heartbeat to a node, as it passes the clients' network.
func (r *rig) overhear(ctx context.Context, node string) ([]byte, error) {
	p, err := lab.FindPort(node, lab.LAN)
	if err != nil {
		return nil, err
	}
	c, err := r.Capture(p.Switch, p.Name())
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	for {
		all, more := c.Frames()
		for _, f := range all {
			if f.IPv4 != nil && f.IPv4.DstPort == wire.Port && f.IPv4.Dst == nodeAddrs[node] {
				return f.Raw, nil
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("overhear a heartbeat to %s: %w", node, context.Cause(ctx))
		}
	}
}

// question is a broadcast ARP request for an address.
func question(addr netip.Addr) []byte {
	b := append(append([]byte{}, wire.Broadcast[:]...), forger[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, forger[:]...), 192, 0, 2, 200)
	b = append(append(b, make([]byte, 6)...), addr.AsSlice()...)
	return append(b, make([]byte, 18)...)
}
