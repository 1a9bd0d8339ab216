// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a raw packet socket. Its system calls are raw too: Go's scheduler must not
// take the thread's place on a CPU away between them.
type socket struct{ fd int }

// openSocket binds to one interface and one protocol: it does not hear what it sends, and of
// protocol 0 nothing at all.
func openSocket(index int, protocol uint16) (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	be := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: be})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set packet socket up: %w", err), unix.Close(fd))
	}
	return &socket{fd}, nil
}

func (s *socket) close() {
	if s != nil {
		_ = unix.Close(s.fd) // nothing is written that could be lost
	}
}

func (s *socket) send(b []byte) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return errno == 0
}

// burst is how many frames one system call sends.
const burst = 64

// flood sends a frame as often as the limit allows, many a call, and tells how many left and
// how many the NIC refused.
func (s *socket) flood(frame []byte, limit flood) (sent, refused uint64) {
	type message struct { // struct mmsghdr
		head unix.Msghdr
		_    uint32 // how much was sent
		_    [4]byte
	}
	part := unix.Iovec{Base: &frame[0]}
	part.SetLen(len(frame))
	var messages [burst]message
	for i := range messages {
		messages[i].head.Iov = &part
		messages[i].head.SetIovlen(1)
	}
	for end := time.Now().Add(limit.time); sent+refused < limit.frames && time.Now().Before(end); {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&messages[0])), burst, 0, 0, 0)
		if errno != 0 {
			refused++
			continue
		}
		sent += uint64(n)
	}
	return sent, refused
}

// receive returns the length of a frame that is there, or 0.
func (s *socket) receive(buf []byte) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// roundTrip sends a question and polls for its answer.
func (s *socket) roundTrip(q, buf []byte, isAnswer func([]byte) bool) (ns int64, ok bool) {
	start := time.Now()
	if !s.send(q) {
		return 0, false
	}
	for {
		n := s.receive(buf)
		took := time.Since(start)
		if n > 0 && isAnswer(buf[:n]) {
			return int64(took), true
		}
		if took > patience {
			return 0, false
		}
	}
}
