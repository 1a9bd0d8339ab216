// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ProbePace tries whether and how this kernel can pace, on a veth pair in a network
// namespace of its own that goes with it. It needs CAP_SYS_ADMIN; without, the error is
// unix.EPERM. The host's devices are not touched, but the kernel may load a module for it.
func ProbePace(token int, every time.Duration) (mode string, err error) {
	OnOwnThread(func() { mode, err = probePace(token, every) })
	return mode, err
}

// OnOwnThread runs f on a thread that ends with it, and with it the namespaces that it enters; it
// returns when f does. It is never the main thread: that one outlives its goroutine, and the
// process's /proc/self is its.
func OnOwnThread(f func()) {
	done := make(chan struct{})
	var live func()
	live = func() {
		runtime.LockOSThread() // never unlocked, but on the main thread
		if unix.Gettid() == unix.Getpid() {
			go live()
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		f()
	}
	go live()
	<-done
}

func probePace(token int, every time.Duration) (mode string, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return "", fmt.Errorf("make a network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // of the thread's namespace
	if err != nil {
		return "", fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, PeerName: "probe-end"}
	if err := h.LinkAdd(pair); err != nil {
		return "", fmt.Errorf("make a veth pair: %w", err)
	}
	link, err := h.LinkByName(pair.Name)
	if err != nil {
		return "", fmt.Errorf("read the veth pair: %w", err)
	}
	return setPace(h, link, token, every)
}
