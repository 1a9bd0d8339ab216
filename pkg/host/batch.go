// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many requests go in one message. If every one fails, their
	// answers (under 1 KiB each, as the kernel counts) still fit the default receive buffer.
	batchSize = 128
	// batchRead takes many answers; each comes in a datagram of its own.
	batchRead = 8192
	// namedErrors bounds what an error says of a failed batch.
	namedErrors = 8
)

// batch is a socket on which many requests are sent at once. One exchange each, as
// netlink's Execute does it, costs two system calls and a wait per address.
type batch struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// openBatch opens the socket in the calling thread's network namespace.
func openBatch(timeout time.Duration) (*batch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(int64(timeout))
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), // answers without the request
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &batch{fd: fd}, nil
}

func (b *batch) close() error { return unix.Close(b.fd) }

// do sends the requests, in order, and gives failed the errno of each that
// failed. The error says that the outcome of some is not known.
func (b *batch) do(reqs []*nl.NetlinkRequest, failed func(i int, err unix.Errno)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for first := 0; first < len(reqs); first += batchSize {
		part := reqs[first:min(first+batchSize, len(reqs))]
		if err := b.send(part); err != nil {
			return fmt.Errorf("send %d netlink requests: %w", len(part), err)
		}
		if err := b.receive(len(part), func(i int, err unix.Errno) { failed(first+i, err) }); err != nil {
			return fmt.Errorf("read answers to %d netlink requests: %w", len(part), err)
		}
	}
	return nil
}

// send asks for an answer to the last alone: the kernel works through a
// message in order, and answers a request that failed in any case.
func (b *batch) send(reqs []*nl.NetlinkRequest) error {
	var msg []byte
	for i, req := range reqs {
		b.seq++
		req.Seq = b.seq
		req.Flags &^= unix.NLM_F_ACK
		if i == len(reqs)-1 {
			req.Flags |= unix.NLM_F_ACK
		}
		msg = append(msg, req.Serialize()...)
		for len(msg)%unix.NLMSG_ALIGNTO != 0 {
			msg = append(msg, 0)
		}
	}
	return again(func() error { return unix.Sendto(b.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) })
}

// receive reads answers until that to the last of n requests.
func (b *batch) receive(n int, failed func(i int, err unix.Errno)) error {
	buf := make([]byte, batchRead)
	for {
		var length int
		var from unix.Sockaddr
		err := again(func() (err error) { length, from, err = unix.Recvfrom(b.fd, buf, 0); return err })
		if err != nil {
			return err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
			continue
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:length])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			back := int(b.seq - m.Header.Seq) // how many before the last
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || back < 0 || back >= n {
				continue // of an exchange that was given up
			}
			if errno := -int32(nl.NativeEndian().Uint32(m.Data)); errno != 0 {
				failed(n-1-back, unix.Errno(errno))
			}
			if back == 0 {
				return nil
			}
		}
	}
}

// again repeats a system call that a signal interrupted: with a time limit on
// the socket the kernel does not restart it, and the Go runtime sends signals.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// failures collects errors, the first few by name.
type failures struct {
	named []error
	more  int
}

func (f *failures) add(err error) {
	if len(f.named) < namedErrors {
		f.named = append(f.named, err)
		return
	}
	f.more++
}

func (f *failures) err() error {
	if f.more > 0 {
		return errors.Join(append(f.named, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.named...)
}
