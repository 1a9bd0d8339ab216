// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

// ProbeOptions of a prober; the zero value is usable.
type ProbeOptions struct {
	Period time.Duration // default 100 us
	Stall  time.Duration // default 3 periods
	Expect time.Duration // how long it will run, to make room ahead; default 30 s
	// CutNode, if not empty, hangs as by FaultHang when CutAt has passed since the prober's
	// start. Its own thread does it, so that it happens in time even if nobody else comes to run.
	CutNode string
	CutAt   time.Duration
}

// Prober is the client: one real-time thread that asks an address for an echo
// every period, over a raw socket and with the MAC that the client's kernel
// resolved once. To Go it is one long system call, so that what it measures is
// the cluster: neither scheduler nor collector ever waits for it, or it for them.
type Prober struct {
	Target   netip.Addr
	MAC      [6]byte // as the client's ARP or NDP entry said at the start
	Realtime bool    // whether the thread got SCHED_FIFO

	// Shared with the thread by functions of sync/atomic: methods of its types
	// may grow the stack in some builds.
	sent, answers, lastNs, cutNs int64
	lastTTL, stop                uint32

	fd     int
	echo   echo
	buf    [128]byte
	rec    Record
	sends  int // how many of rec.SentNs are written
	got    int // how many of rec.Answers
	failed int // sends that the kernel refused
	next   int64
	cutAt  int64
	cut    *uint64
	cables *loader.Lab // holds cut
	done   chan struct{}
}

const (
	probePriority = 40
	drainAfter    = 20 * time.Millisecond
)

// StartProber resolves target from the client and begins. It needs somebody
// who answers for target within ctx.
func (l *Lab) StartProber(ctx context.Context, target netip.Addr, opt ProbeOptions) (*Prober, error) {
	p, err := l.newProber(ctx, target, opt)
	if err != nil {
		return nil, fmt.Errorf("start prober: %w", err)
	}
	quietRuntime(1)
	started := make(chan struct{})
	go p.run(started)
	<-started
	return p, nil
}

func (l *Lab) newProber(ctx context.Context, target netip.Addr, opt ProbeOptions) (*Prober, error) {
	if opt.Period == 0 {
		opt.Period = 100 * time.Microsecond
	}
	if opt.Stall == 0 {
		opt.Stall = 3 * opt.Period
	}
	if opt.Expect == 0 {
		opt.Expect = 30 * time.Second
	}
	p := &Prober{Target: target, done: make(chan struct{}), rec: Record{PeriodNs: int64(opt.Period), StallNs: int64(opt.Stall)}}
	if opt.CutNode != "" {
		i := numberOf(opt.CutNode)
		if i < 0 || i >= len(l.Nodes) {
			return nil, fmt.Errorf("cut %q: it is not one of the nodes", opt.CutNode)
		}
		p.cables, p.cut, p.cutAt = l.cables, l.cables.CutWord(i), int64(opt.CutAt)
	}
	var err error
	if p.MAC, err = l.Resolve(ctx, target); err != nil {
		return nil, err
	}
	src, err := l.clientNIC()
	if err != nil {
		return nil, err
	}
	p.echo = newEcho(p.MAC, [6]byte(src.HardwareAddr), clientAddr(target), target)
	p.makeRoom(int(opt.Expect/opt.Period) + 1000)
	return p, l.Do(Client, func() error { p.fd, err = probeSocket(src.Index, target); return err })
}

func (l *Lab) clientNIC() (*net.Interface, error) {
	link, err := l.space(Client).nl.LinkByName("eth0")
	if err != nil {
		return nil, fmt.Errorf("find the client's NIC: %w", err)
	}
	return &net.Interface{Index: link.Attrs().Index, HardwareAddr: link.Attrs().HardwareAddr}, nil
}

// Stop ends probing, waits for late answers, and returns what was seen.
func (p *Prober) Stop() Record {
	atomic.StoreUint32(&p.stop, 1)
	<-p.done
	return p.rec
}

// SendErrors counts sends that the client's own kernel refused; after Stop.
func (p *Prober) SendErrors() int { return p.failed }

// Live is the prober's state while it runs.
type Live struct {
	Sent, Answered int64
	LastAnswerNs   int64  // when
	LastBy         string // which node
	CutNs          int64  // when the prober cut its CutNode; 0: not yet
}

// Live may be called while the prober runs.
func (p *Prober) Live() Live {
	return Live{Sent: atomic.LoadInt64(&p.sent), Answered: atomic.LoadInt64(&p.answers), LastAnswerNs: atomic.LoadInt64(&p.lastNs), LastBy: nodeByTTL(uint8(atomic.LoadUint32(&p.lastTTL))), CutNs: atomic.LoadInt64(&p.cutNs)}
}

// AwaitAnswer returns when node (or anybody, if it is empty) answered a probe after t.
func (p *Prober) AwaitAnswer(ctx context.Context, node string, t int64) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if s := p.Live(); s.LastAnswerNs > t && (node == "" || s.LastBy == node) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("await an answer of %s from %q: %w (last one by %q)", p.Target, node, context.Cause(ctx), p.Live().LastBy)
		}
	}
}

// makeRoom lets the record grow by n probes, and by as many answers.
func (p *Prober) makeRoom(n int) {
	p.rec.SentNs = append(p.rec.SentNs, make([]int64, n)...)
	p.rec.Answers = append(p.rec.Answers, make([]Answer, n)...)
}

// run is the client's thread.
func (p *Prober) run(started chan<- struct{}) {
	runtime.LockOSThread() // not unlocked: the thread's scheduling class must not be inherited by other work
	defer close(p.done)
	defer quietRuntime(-1)
	defer unix.Close(p.fd)
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: probePriority}
	p.Realtime = unix.SchedSetAttr(0, attr, 0) == nil
	close(started)
	p.next = rawNow()
	p.cutAt += p.next
	for !p.probe() {
		p.makeRoom(len(p.rec.SentNs)) // it ran longer than was expected
	}
	p.rec.SentNs, p.rec.Answers, p.rec.CutNs = p.rec.SentNs[:p.sends], p.rec.Answers[:p.got], atomic.LoadInt64(&p.cutNs)
	runtime.KeepAlive(p.cables)
}

// enterSyscall and exitSyscall are how the runtime brackets a system call; it keeps
// them linkable for gVisor, which runs its guests as we run the client. In between
// nothing may allocate or grow the stack: hence nosplit all the way down.
//
//go:linkname enterSyscall runtime.entersyscall
func enterSyscall()

//go:linkname exitSyscall runtime.exitsyscall
func exitSyscall()

// probe asks until it is told to stop, and then takes late answers; or, which is false, until the record is full.
//
//go:nosplit
//go:norace
func (p *Prober) probe() (stopped bool) {
	enterSyscall()
	for p.sends < len(p.rec.SentNs) && p.got < len(p.rec.Answers) {
		if stopped = atomic.LoadUint32(&p.stop) != 0; stopped {
			break
		}
		p.drain()
		p.cutInTime()
		p.send()
		p.drain()
		p.next += p.rec.PeriodNs
		if now := rawNow(); now >= p.next {
			p.next = now // late: the missed ones are not made up for
			continue
		}
		rawSleepUntil(p.next)
	}
	if stopped {
		for end := rawNow() + int64(drainAfter); rawNow() < end; rawSleepUntil(rawNow() + p.rec.PeriodNs) {
			p.drain()
		}
		p.drain() // it may have been held up for longer than that
	}
	exitSyscall()
	return stopped
}

//go:nosplit
//go:norace
func (p *Prober) cutInTime() {
	if p.cut == nil {
		return
	}
	if now := rawNow(); now >= p.cutAt {
		atomic.OrUint64(p.cut, allCables)
		atomic.StoreInt64(&p.cutNs, now)
		p.cut = nil
	}
}

//go:nosplit
//go:norace
func (p *Prober) send() {
	p.echo.number(uint32(p.sends))
	p.rec.SentNs[p.sends] = rawNow()
	p.sends++
	_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(&p.echo.frame)), uintptr(p.echo.size), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		p.failed++
	}
	atomic.StoreInt64(&p.sent, int64(p.sends))
}

// drain takes every answer that is there, as far as there is room.
//
//go:nosplit
//go:norace
func (p *Prober) drain() {
	for p.got < len(p.rec.Answers) {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(p.fd), uintptr(unsafe.Pointer(&p.buf)), uintptr(len(p.buf)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			return
		}
		if int(n) < p.echo.size {
			continue
		}
		now, ttl := rawNow(), p.buf[p.echo.ttlAt]
		p.rec.Answers[p.got] = Answer{Seq: be32(&p.buf, p.echo.seqAt), TTL: ttl, AtNs: now}
		p.got++
		atomic.StoreUint32(&p.lastTTL, uint32(ttl))
		atomic.StoreInt64(&p.lastNs, now)
		atomic.StoreInt64(&p.answers, int64(p.got))
	}
}

//go:nosplit
//go:norace
func rawNow() int64 {
	var ts unix.Timespec
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0, 0)
	return int64(ts.Sec)*1e9 + int64(ts.Nsec)
}

//go:nosplit
//go:norace
func rawSleepUntil(t int64) {
	ts := unix.Timespec{Sec: t / 1e9, Nsec: t % 1e9}
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}

var runtimeState struct {
	sync.Mutex
	probers, gc int
	limit       int64
}

// quietRuntime keeps the collector away while probers run (up to a limit of
// memory): it would take the processors from the cluster that is measured.
func quietRuntime(d int) {
	s := &runtimeState
	s.Lock()
	defer s.Unlock()
	if s.probers == 0 {
		runtime.GC()
		s.gc = debug.SetGCPercent(-1)
		s.limit = debug.SetMemoryLimit(1 << 30)
	}
	s.probers += d
	if s.probers == 0 {
		debug.SetGCPercent(s.gc)
		debug.SetMemoryLimit(s.limit)
	}
}
