// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leftLock is for how long a lock is waited for whose holder has been killed: what it was about to start
// has inherited it, and lets go of it as it becomes another program.
const (
	leftLock     = 5 * time.Second
	leftLockPoll = 5 * time.Millisecond // nothing tells
)

// locked takes a lock, also one that a killed daemon has just left.
func locked(take func() (unlock func(), holder int, err error)) (unlock func(), err error) {
	known := 0
	for end := time.Now().Add(leftLock); ; time.Sleep(leftLockPoll) {
		unlock, holder, err := take()
		if holder > 0 { // who has asked once, or too often, may be told of nobody
			known = holder
		}
		if holder = known; err == nil || holder <= 0 || !errors.Is(unix.Kill(holder, 0), unix.ESRCH) || time.Now().After(end) {
			return unlock, err
		}
	}
}

// lock keeps a second daemon of the same node out. Who holds it is 0 if it is not known.
func lock(path string) (unlock func(), holder int, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		var pid [16]byte
		n, _ := f.Read(pid[:]) // nothing: the other one has not written it yet
		holder, _ = strconv.Atoi(strings.TrimSpace(string(pid[:n])))
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, holder, fmt.Errorf("another daemon%s holds %s: end it first, or give this one a --run-dir of its own", process(holder), path)
		}
		return nil, 0, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for people: the lock holds without it
	}
	return func() { f.Close() }, 0, nil
}

// process names another process in an error, if it is known.
func process(pid int) string {
	if pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// lockHost keeps a second daemon of the same node out, whatever directories it
// was given: it would take the first one's devices for its own. An abstract
// socket belongs to the network namespace, and goes with the process.
func lockHost(mark string) (unlock func(), holder int, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open socket to lock the host: %w", err)
	}
	// A hash, because a name has at most 107 bytes.
	name := fmt.Sprintf("@xdpha-%x", sha256.Sum256([]byte(mark)))
	at := &unix.SockaddrUnix{Name: name}
	err = unix.Bind(fd, at)
	if errors.Is(err, unix.EADDRINUSE) {
		holder = listener(fd, at)
		err = fmt.Errorf("another daemon%s runs as %s in this network namespace: end it first", process(holder), mark)
		return nil, holder, errors.Join(err, unix.Close(fd))
	}
	if err == nil {
		err = unix.Listen(fd, 1) // nobody accepts: who connects learns whose it is
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("lock the host as %s: %w", mark, err), unix.Close(fd))
	}
	return func() { unix.Close(fd) }, 0, nil
}

// listener is the process that listens at an address; 0: unknown.
func listener(fd int, at unix.Sockaddr) int {
	if err := unix.Connect(fd, at); err != nil { // its queue is full of others who asked
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}
