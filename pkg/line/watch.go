// SPDX-License-Identifier: Apache-2.0

package line

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// UnackedTime is for bytes to be acknowledged: longer, and the cable is cut.
const UnackedTime = 5 * time.Second

// Watch closes a connection whose bytes nobody acknowledges, until stop is called. (TCP_USER_TIMEOUT
// would end one as well whose other end is alive and waits for its disk.)
func (c *Conn) Watch() (stop func()) {
	sock, ok := c.NetConn().(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return func() {} // it is closed
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(UnackedTime / 5)
		defer tick.Stop()
		for times := 0; times < 2; { // the last answer before a pause may be old, too
			select {
			case <-done:
				return
			case <-tick.C:
			}
			times++
			if !unanswered(raw) {
				times = 0
			}
		}
		c.NetConn().Close()
	}()
	return sync.OnceFunc(func() { close(done) })
}

// unanswered reports bytes on the way, or questions whether there is room for some, and no answer for
// UnackedTime. (Without a route bytes are not on the way, they wait to be sent.)
func unanswered(raw syscall.RawConn) (yes bool) {
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && (info.Unacked > 0 || info.Probes > 1) && info.Last_ack_recv > uint32(UnackedTime/time.Millisecond)
	})
	return yes && err == nil
}
