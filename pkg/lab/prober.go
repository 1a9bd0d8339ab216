// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeOptions of a prober; the zero value is usable.
type ProbeOptions struct {
	Period time.Duration // default 100 us
	Stall  time.Duration // default 3 periods
	Expect time.Duration // how long it will run, to make room ahead; default 30 s
}

// Prober is the client: one thread that asks an address for an echo every
// period, over a raw socket and with the MAC that the client's kernel resolved
// once. The thread never leaves its loop for the scheduler of Go, so that what
// it measures is the cluster.
type Prober struct {
	Target   netip.Addr
	MAC      [6]byte // as the client's ARP entry said at the start
	Realtime bool    // whether the thread got SCHED_FIFO

	fd      int
	frame   []byte
	rec     Record
	failed  int // sends that the kernel refused
	stop    atomic.Bool
	done    chan struct{}
	sent    atomic.Int64
	answers atomic.Int64
	lastNs  atomic.Int64
	lastTTL atomic.Int32
}

const (
	ethLen, ipLen, icmpLen = 14, 20, 8
	probeLen               = ethLen + ipLen + icmpLen + 16
	probeID                = 0x4c4a
	seqAt                  = ethLen + ipLen + icmpLen
	probePriority          = 40
	drainAfter             = 20 * time.Millisecond
)

// StartProber resolves target from the client and begins. It needs somebody
// who answers for target within ctx.
func (l *Lab) StartProber(ctx context.Context, target netip.Addr, opt ProbeOptions) (*Prober, error) {
	if opt.Period == 0 {
		opt.Period = 100 * time.Microsecond
	}
	if opt.Stall == 0 {
		opt.Stall = 3 * opt.Period
	}
	if opt.Expect == 0 {
		opt.Expect = 30 * time.Second
	}
	mac, err := l.Resolve(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("start prober: %w", err)
	}
	room := int(opt.Expect/opt.Period) + 1000
	p := &Prober{Target: target, MAC: mac, done: make(chan struct{}), rec: Record{
		PeriodNs: int64(opt.Period), StallNs: int64(opt.Stall), SentNs: make([]int64, 0, room), Answers: make([]Answer, 0, room),
	}}
	src, err := l.clientNIC()
	if err != nil {
		return nil, fmt.Errorf("start prober: %w", err)
	}
	p.frame = echoFrame(mac, src.HardwareAddr, netip.MustParseAddr("192.0.2.100"), target)
	if err := l.Do(Client, func() error { p.fd, err = probeSocket(src.Index, target); return err }); err != nil {
		return nil, fmt.Errorf("start prober: %w", err)
	}
	quietRuntime(1)
	started := make(chan struct{})
	go p.run(started)
	<-started
	return p, nil
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
	p.stop.Store(true)
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
}

// Live may be called while the prober runs.
func (p *Prober) Live() Live {
	return Live{Sent: p.sent.Load(), Answered: p.answers.Load(), LastAnswerNs: p.lastNs.Load(), LastBy: nodeByTTL(uint8(p.lastTTL.Load()))}
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

// run is the client's thread. Raw system calls keep Go's scheduler from taking
// its place on a CPU away while it sleeps.
func (p *Prober) run(started chan<- struct{}) {
	runtime.LockOSThread() // not unlocked: the thread's scheduling class must not be inherited by other work
	defer close(p.done)
	defer quietRuntime(-1)
	defer unix.Close(p.fd)
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: probePriority}
	p.Realtime = unix.SchedSetAttr(0, attr, 0) == nil
	close(started)
	buf := make([]byte, 128)
	next := rawNow()
	for !p.stop.Load() {
		p.drain(buf)
		p.send()
		p.drain(buf)
		next += p.rec.PeriodNs
		if now := rawNow(); now >= next {
			next = now // late: the missed ones are not made up for
			continue
		}
		rawSleepUntil(next)
	}
	for end := rawNow() + int64(drainAfter); rawNow() < end; rawSleepUntil(rawNow() + p.rec.PeriodNs) {
		p.drain(buf)
	}
}

func (p *Prober) send() {
	seq := uint32(len(p.rec.SentNs))
	binary.BigEndian.PutUint32(p.frame[seqAt:], seq)
	binary.BigEndian.PutUint16(p.frame[seqAt-2:], uint16(seq))
	icmp := p.frame[ethLen+ipLen:]
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	p.rec.SentNs = append(p.rec.SentNs, rawNow())
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(&p.frame[0])), uintptr(len(p.frame)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		p.failed++
	}
	p.sent.Add(1)
}

// drain takes every answer that is there.
func (p *Prober) drain(buf []byte) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(p.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			return
		}
		if int(n) < probeLen {
			continue
		}
		now, ttl := rawNow(), buf[ethLen+8]
		p.rec.Answers = append(p.rec.Answers, Answer{Seq: binary.BigEndian.Uint32(buf[seqAt:]), TTL: ttl, AtNs: now})
		p.lastTTL.Store(int32(ttl))
		p.lastNs.Store(now)
		p.answers.Add(1)
	}
}

func rawNow() int64 {
	var ts unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

func rawSleepUntil(t int64) {
	ts := unix.NsecToTimespec(t)
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}

// echoFrame is an ICMP echo request, whole but for sequence number and checksum.
func echoFrame(dst [6]byte, src net.HardwareAddr, from, to netip.Addr) []byte {
	f := make([]byte, 0, probeLen)
	f = append(f, dst[:]...)
	f = append(f, src...)
	f = append(f, 0x08, 0x00)
	ip := make([]byte, ipLen)
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(ip[2:], probeLen-ethLen)
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	f = append(f, ip...)
	icmp := make([]byte, icmpLen+16)
	icmp[0] = 8
	binary.BigEndian.PutUint16(icmp[4:], probeID)
	return append(f, icmp...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// probeSocket sends on a NIC and receives nothing but echo replies of target to the prober.
func probeSocket(ifindex int, target netip.Addr) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	a := target.As4()
	filter := []unix.SockFilter{
		{Code: 0x30, K: ethLen + 9}, // protocol
		{Code: 0x15, Jf: 7, K: unix.IPPROTO_ICMP},
		{Code: 0x20, K: ethLen + 12}, // from
		{Code: 0x15, Jf: 5, K: binary.BigEndian.Uint32(a[:])},
		{Code: 0x30, K: ethLen + ipLen}, // echo reply
		{Code: 0x15, Jf: 3, K: 0},
		{Code: 0x28, K: ethLen + ipLen + 4}, // ours
		{Code: 0x15, Jf: 1, K: probeID},
		{Code: 0x06, K: 0xffff},
		{Code: 0x06, K: 0},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fd, fmt.Errorf("filter packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fd, fmt.Errorf("bypass the client's qdisc: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return fd, fmt.Errorf("size packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: htons(unix.ETH_P_IP)}); err != nil {
		return fd, fmt.Errorf("bind packet socket: %w", err)
	}
	return fd, nil
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

var runtimeState struct {
	sync.Mutex
	probers, procs, gc int
	limit              int64
}

// quietRuntime keeps the collector away while probers run (up to a limit of
// memory), and gives each of them a place of its own to run.
func quietRuntime(d int) {
	s := &runtimeState
	s.Lock()
	defer s.Unlock()
	if s.probers == 0 {
		runtime.GC()
		s.procs, s.gc = runtime.GOMAXPROCS(0), debug.SetGCPercent(-1)
		s.limit = debug.SetMemoryLimit(1 << 30)
	}
	s.probers += d
	if s.probers == 0 {
		debug.SetGCPercent(s.gc)
		debug.SetMemoryLimit(s.limit)
		runtime.GOMAXPROCS(s.procs)
		return
	}
	runtime.GOMAXPROCS(s.procs + s.probers)
}

// Overlap counts frames that the judge saw from a node with an identity's MAC
// after another node had taken over from it, in the order in which the switches saw them.
func Overlap(records []JudgeRecord, identity int) int {
	slices.SortStableFunc(records, func(a, b JudgeRecord) int { return int(a.TNs - b.TNs) })
	var owners relay
	n := 0
	for _, r := range records {
		if r.Identity == identity && owners.next(1+cutIndex[r.Port.Node]) {
			n++
		}
	}
	return n
}
