// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/host"
)

// pacerPriority is above ordinary threads of the host and below what its
// administrator runs in real time on purpose.
const pacerPriority = 10

const (
	// tokenLost is how many intervals without the token are enough to send another one; two of
	// them make no more ticks than one.
	tokenLost = 8
	watchPace = 20 * time.Millisecond
	// seedsInVain is after how many tokens that did not come back user space takes over.
	seedsInVain = 25
)

// pacer has a tick sent in each interval; the program at the end of the private pair makes
// the probes of it (bpf/pacer.h). In the kernel a token goes round, and the pacer only looks
// after it. Otherwise its thread sends each tick: when that is late, so is detection, and
// nothing is wrong.
type pacer struct {
	host   *host.Host
	dp     *loader.Datapath
	want   string // config.Pacer*
	probe  time.Duration
	tell   func(kind, text string)
	seeds  atomic.Uint64
	kernel atomic.Pointer[string] // by which qdisc; nil: the thread

	past  int          // the socket that goes past the delay line
	into  int          // and the one that goes into it
	start atomic.Int64 // the pair's interface that ticks are sent into: the pair may be made anew
}

var paces = map[string]loader.Pace{host.PaceTbf: loader.PaceTBF, host.PaceFq: loader.PaceFQ}

func newPacer(n *node, start int) (*pacer, error) {
	p := &pacer{
		host: n.host, dp: n.dp, want: n.Config.Timing.Pacer, probe: n.Config.Timing.Probe, past: -1, into: -1,
		tell: func(kind, text string) { n.tell(loader.Now(), kind, -1, text, nil) },
	}
	p.start.Store(int64(start))
	if err := p.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the pacer's sockets: %w", err), p.close())
	}
	if err := p.begin(n.Log); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pacer) open() (err error) {
	for _, fd := range []*int{&p.past, &p.into} {
		if *fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
	}
	return unix.SetsockoptInt(p.past, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
}

func (p *pacer) begin(log *slog.Logger) error {
	if p.want == config.PacerThread {
		return p.useThread()
	}
	err := p.useKernel()
	switch {
	case err == nil:
		return nil
	case p.want == config.PacerKernel:
		return fmt.Errorf("pace in the kernel: %w", err)
	}
	log.Warn("the kernel cannot pace: a thread does", "err", err)
	return p.useThread()
}

// useKernel makes the ring and sends a token round.
func (p *pacer) useKernel() error {
	start := int(p.start.Load())
	mode, err := p.host.SetPace(start, loader.TokenBytes, p.lap())
	if err != nil {
		return err
	}
	p.dp.SetPace(paces[mode], start, p.lap())
	p.kernel.Store(&mode)
	p.seed()
	return nil
}

func (p *pacer) lap() time.Duration { return host.Lap(p.probe) }

// useThread ends the ring: its tokens end at their next lap.
func (p *pacer) useThread() error {
	p.kernel.Store(nil)
	p.dp.SetPace(loader.PaceThread, 0, 0)
	return p.host.RemovePace(int(p.start.Load()))
}

// mode names what paces, for people.
func (p *pacer) mode() string {
	if q := p.kernel.Load(); q != nil {
		return config.PacerKernel + " (" + *q + ")"
	}
	return config.PacerThread
}

// pulse has probes sent now.
func (p *pacer) pulse() { _ = p.send(p.past, loader.UrgentMark) } // what does not arrive is missed: see watch, tick

// seed sends a tick that comes back. It goes through the delay line first: what an idle one
// has saved up is spent by this lap, or it would let the token come back at once, too early.
func (p *pacer) seed() {
	p.seeds.Add(1)
	_ = p.send(p.into, loader.TokenMark) // the line may be full of them
}

func (p *pacer) send(fd int, mark byte) error {
	var frame [loader.TokenBytes]byte
	frame[5] = mark
	frame[12] = 8 // EtherType IPv4: what the clones will be
	to := unix.SockaddrLinklayer{Ifindex: int(p.start.Load()), Protocol: 0x0008}
	return unix.Sendto(fd, frame[:], 0, &to)
}

// run paces, or looks after who does, until ctx ends.
func (p *pacer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if p.kernel.Load() != nil {
			p.watch(ctx)
		} else {
			p.tick(ctx)
		}
	}
	return nil
}

// watch sends a token whenever none comes by, and makes the ring anew if that does not help. It
// returns when ctx ends or the thread must do it.
func (p *pacer) watch(ctx context.Context) {
	lost := max(tokenLost*p.probe, watchPace)
	look := time.NewTicker(max(watchPace, lost/2))
	defer look.Stop()
	for vain := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if at := p.dp.TokenNS(); at != 0 && loader.Now()-at < int64(lost) {
			vain = 0
			continue
		}
		if vain++; vain == seedsInVain && p.want == config.PacerAuto {
			p.tell("pacer-fallback", fmt.Sprintf("%d tokens did not come back: a thread paces until the next start", vain))
			if err := p.useThread(); err != nil {
				p.tell("pacer-failed", err.Error())
			}
			return
		}
		if vain == 1 {
			p.tell("pacer-token-lost", fmt.Sprintf("no tick for %v: another token is sent round", lost))
		}
		if err := p.mend(); err != nil && vain == 1 {
			p.tell("pacer-failed", err.Error())
		}
	}
}

// mend makes the pair and its delay line anew where they are gone, and sends a token round.
func (p *pacer) mend() error {
	if err := p.mendPair(); err != nil {
		return err
	}
	return p.useKernel()
}

func (p *pacer) mendPair() error {
	start, end, err := p.host.EnsureTickPair(tickPair)
	if err != nil {
		return err
	}
	if int64(start) != p.start.Load() {
		if err := p.dp.MoveTick(end); err != nil {
			return err
		}
		p.start.Store(int64(start)) // not before its program is there: what failed is tried again
	}
	return nil
}

// tick sends a pulse at the probe interval, at half of it while the peer is suspect.
func (p *pacer) tick(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: the thread's scheduling ends with it
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: pacerPriority}
	_ = unix.SchedSetAttr(0, &attr, 0) // without CAP_SYS_NICE: an ordinary thread, later under load
	next, mendAt := monotonic(), int64(0)
	for ctx.Err() == nil {
		if err := p.send(p.past, 0xff); err != nil && monotonic() > mendAt { // the pair is gone, or down
			if err := p.mendPair(); err != nil {
				p.tell("pacer-failed", err.Error())
			}
			mendAt = monotonic() + int64(time.Second)
		}
		wait := p.probe
		if p.dp.Suspecting() {
			wait /= 2
		}
		next += int64(wait)
		if now := monotonic(); next < now {
			next = now // a stall is not made up for: probes in a burst say nothing new
		}
		ts := unix.NsecToTimespec(next)
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) // a signal's early tick is harmless
	}
}

func (p *pacer) close() (err error) {
	for _, fd := range []int{p.past, p.into} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
