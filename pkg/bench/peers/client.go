// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	probePeriod   = 100 * time.Microsecond
	probePriority = 40 // of SCHED_FIFO; keepalived's is higher
	ipLen         = 20
	probeLen      = 8 + 16 // ICMP's header, and data that begins with the number of the probe
	probeID       = 0x4c4b
	drainAfter    = 20 * time.Millisecond
)

// client asks an address for an echo every 100 µs, as the lab's prober does, but through
// its own kernel: frames go to whatever MAC the ARP table has at that moment. Its thread
// never leaves its loop for Go's scheduler.
type client struct {
	realtime bool // whether the thread got SCHED_FIFO

	fd      int
	probe   [probeLen]byte
	rec     lab.Record
	ending  atomic.Bool
	done    chan struct{}
	lastNs  atomic.Int64
	lastTTL atomic.Int32
	restore func()
}

// startClient begins; room is for how long it will run.
func startClient(l *lab.Lab, target netip.Addr, room time.Duration) (*client, error) {
	n := int(room/probePeriod) + 1000
	c := &client{done: make(chan struct{}), rec: lab.Record{
		PeriodNs: int64(probePeriod), StallNs: int64(3 * probePeriod), SentNs: make([]int64, 0, n), Answers: make([]lab.Answer, 0, n),
	}}
	c.probe[0] = 8 // echo request
	binary.BigEndian.PutUint16(c.probe[4:], probeID)
	if err := l.Do(lab.Client, func() (err error) { c.fd, err = echoSocket(target); return err }); err != nil {
		return nil, fmt.Errorf("start the client: %w", err)
	}
	c.restore = quietRuntime()
	started := make(chan struct{})
	go c.run(started)
	<-started
	return c, nil
}

// echoSocket receives nothing but echo replies of target.
func echoSocket(target netip.Addr) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
		return -1, fmt.Errorf("open ICMP socket: %w", err)
	}
	const icmpFilter = 1 // ICMP_FILTER of linux/icmp.h: a set bit drops that type, and an echo reply's is 0
	for _, opt := range []struct{ level, name, value int }{
		{unix.SOL_RAW, icmpFilter, ^1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4 << 20},
	} {
		if err := unix.SetsockoptInt(fd, opt.level, opt.name, opt.value); err != nil {
			return -1, errors.Join(fmt.Errorf("prepare ICMP socket: %w", err), unix.Close(fd))
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: target.As4()}); err != nil {
		return -1, errors.Join(fmt.Errorf("connect ICMP socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// stop ends probing, waits for late answers, and returns what was seen.
func (c *client) stop() lab.Record {
	c.ending.Store(true)
	<-c.done
	c.restore()
	return c.rec
}

// servedBy is the TTL of the last answer, and when it came.
func (c *client) servedBy() (ttl int, atNs int64) { return int(c.lastTTL.Load()), c.lastNs.Load() }

// awaitAnswer returns when an answer with that TTL came after t.
func (c *client) awaitAnswer(ctx context.Context, ttl int, t int64) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		last, at := c.servedBy()
		if at > t && last == ttl {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("await an answer with TTL %d: %w (the last one had %d)", ttl, context.Cause(ctx), last)
		}
	}
}

func (c *client) run(started chan<- struct{}) {
	runtime.LockOSThread() // not unlocked: the thread's scheduling class must not be inherited by other work
	defer close(c.done)
	defer unix.Close(c.fd)
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: probePriority}
	c.realtime = unix.SchedSetAttr(0, attr, 0) == nil
	close(started)
	buf := make([]byte, 256)
	next := rawNow()
	for !c.ending.Load() {
		c.drain(buf)
		c.send()
		c.drain(buf)
		next += c.rec.PeriodNs
		if now := rawNow(); now >= next {
			next = now // late: the missed ones are not made up for
			continue
		}
		rawSleepUntil(next)
	}
	for end := rawNow() + int64(drainAfter); rawNow() < end; rawSleepUntil(rawNow() + c.rec.PeriodNs) {
		c.drain(buf)
	}
}

// send asks once more. A send that the kernel refuses is a probe without an answer.
func (c *client) send() {
	b := c.probe[:]
	binary.BigEndian.PutUint32(b[8:], uint32(len(c.rec.SentNs)))
	binary.BigEndian.PutUint16(b[2:], 0)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	c.rec.SentNs = append(c.rec.SentNs, rawNow())
	_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), probeLen, unix.MSG_DONTWAIT, 0, 0)
}

// drain takes every answer that is there.
func (c *client) drain(buf []byte) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			return
		}
		icmp := buf[ipLen:]
		if int(n) < ipLen+probeLen || binary.BigEndian.Uint16(icmp[4:]) != probeID {
			continue
		}
		now, ttl, seq := rawNow(), buf[8], binary.BigEndian.Uint32(icmp[8:])
		if int(seq) >= len(c.rec.SentNs) {
			continue // an earlier client's
		}
		c.rec.Answers = append(c.rec.Answers, lab.Answer{Seq: seq, TTL: ttl, AtNs: now})
		c.lastTTL.Store(int32(ttl))
		c.lastNs.Store(now)
	}
}

// quietRuntime keeps the collector away and gives the client a place of its own to run.
func quietRuntime() (restore func()) {
	runtime.GC()
	gc := debug.SetGCPercent(-1)
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(procs + 1)
	return func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(gc)
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

// checksum is that of RFC 1071, of an even number of bytes.
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
