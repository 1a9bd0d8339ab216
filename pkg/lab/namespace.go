// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace and the thread that lives in it. What must
// happen inside (sockets, sysctls, starting a process, attaching BPF) runs on
// that thread, which never serves anything else.
type namespace struct {
	name    string
	path    string // where it is bound
	fd      netns.NsHandle
	nl      *netlink.Handle
	calls   chan func()
	settled chan struct{} // entered, or failed to
	done    chan struct{}
}

// newNamespace makes a namespace and binds it to path, an empty file.
func newNamespace(name, path string) (*namespace, error) {
	n := &namespace{name: name, path: path, fd: netns.None(), calls: make(chan func()), settled: make(chan struct{}), done: make(chan struct{})}
	started := make(chan error)
	go n.live(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return n, nil
}

// live is the namespace's thread. It is never unlocked: the runtime ends the
// thread with the goroutine, and with it (pdeathsig) the processes it started.
func (n *namespace) live(started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread outlives its goroutine, and /proc/PID/ns/net is its: keep it out.
		go n.live(started)
		<-n.settled
		runtime.UnlockOSThread()
		return
	}
	defer close(n.done)
	err := n.enter()
	close(n.settled)
	if err != nil {
		started <- err
		return
	}
	started <- nil
	for f := range n.calls {
		f()
	}
}

func (n *namespace) enter() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("unshare: %w (the lab needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
		}
		return fmt.Errorf("unshare: %w", err)
	}
	self := "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/net"
	if n.fd, err = netns.GetFromPath(self); err != nil {
		return fmt.Errorf("open %s: %w", self, err)
	}
	if n.nl, err = netlink.NewHandle(); err != nil {
		return errors.Join(fmt.Errorf("open netlink socket: %w", err), n.fd.Close())
	}
	if err = os.WriteFile(n.path, nil, 0o600); err == nil {
		err = unix.Mount(self, n.path, "", unix.MS_BIND, "")
	}
	if err != nil {
		n.nl.Close()
		return errors.Join(fmt.Errorf("bind to %s: %w", n.path, err), n.fd.Close())
	}
	return nil
}

// do runs f on the namespace's thread. f must not call do of the same namespace.
func (n *namespace) do(f func() error) error {
	res := make(chan error, 1)
	select {
	case n.calls <- func() { res <- f() }:
		return <-res
	case <-n.done:
		return fmt.Errorf("enter namespace %s: it is gone", n.name)
	}
}

// close ends the thread and lets go of the namespace; nobody may use it any more.
func (n *namespace) close() {
	close(n.calls)
	<-n.done
	n.nl.Close()
	_ = n.fd.Close() // closing a descriptor that we opened cannot fail usefully
	_ = unix.Unmount(n.path, unix.MNT_DETACH)
}

// sysctl sets a value of this namespace; the calling thread must be in it.
func sysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		if errors.Is(err, os.ErrNotExist) && len(key) > 4 && key[:4] == "ipv6" {
			return nil // a kernel without IPv6 is quiet enough
		}
		return fmt.Errorf("set sysctl net/%s: %w", key, err)
	}
	return nil
}
