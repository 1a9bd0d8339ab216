// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/core"
)

// tokenBytes is a heartbeat of the most identities; the kernel cuts it to size.
const tokenBytes = 42 + 64 + 8*loader.MaxIdentities + 8

// pacerPriority is above ordinary threads of the host and below what its
// administrator runs in real time on purpose.
const pacerPriority = 10

// pacer is the thread that sends the tick's frame into the private pair; the
// program at its other end makes the probes (bpf/pacer.h). A late thread makes
// detection late, never wrong.
type pacer struct {
	fd    int
	to    unix.SockaddrLinklayer
	token [tokenBytes]byte
	probe time.Duration
	dp    *loader.Datapath
	fails atomic.Uint64
}

func newPacer(index int, probe time.Duration, dp *loader.Datapath) (*pacer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the pacer's socket: %w", err)
	}
	p := &pacer{fd: fd, to: unix.SockaddrLinklayer{Ifindex: index, Protocol: 0x0008}, probe: probe, dp: dp} // IPv4, network order
	for i := range 6 {
		p.token[i] = 0xff
	}
	p.token[12] = 8 // EtherType IPv4: what the clones will be
	return p, nil
}

// pulse sends one tick now.
func (p *pacer) pulse() {
	if err := unix.Sendto(p.fd, p.token[:], 0, &p.to); err != nil {
		p.fails.Add(1)
	}
}

// run ticks until ctx ends: at the probe interval, at half of it while the peer is suspect.
func (p *pacer) run(ctx context.Context) error {
	runtime.LockOSThread() // never unlocked: the thread's scheduling ends with it
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: pacerPriority}
	_ = unix.SchedSetAttr(0, &attr, 0) // without CAP_SYS_NICE: an ordinary thread, later under load
	next := monotonic()
	for ctx.Err() == nil {
		p.pulse()
		wait := p.probe
		if p.dp.Peer() == core.PeerSuspect {
			wait /= 2
		}
		next += int64(wait)
		if now := monotonic(); next < now {
			next = now // a stall is not made up for: probes in a burst say nothing new
		}
		ts := unix.NsecToTimespec(next)
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) // a signal's early tick is harmless
	}
	return nil
}

func (p *pacer) close() error { return unix.Close(p.fd) }

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
