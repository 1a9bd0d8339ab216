// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the socket's name in the run directory.
const SocketName = "control.sock"

// SocketPath returns the socket's path in a run directory.
func SocketPath(runDir string) string { return filepath.Join(runDir, SocketName) }

// ErrLive is wrapped by Listen's error if a daemon uses the run directory.
var ErrLive = errors.New("another daemon is using it")

// maxSocketPath is sizeof(sockaddr_un.sun_path) less the closing zero.
const maxSocketPath = 107

// listener removes its socket and frees the run directory when it is closed.
type listener struct {
	*net.UnixListener
	path string
	lock *os.File
	mine fs.FileInfo
	once sync.Once
	err  error
}

// Listen creates the run directory if need be and the control socket in it,
// mode 0600. A daemon's socket is never replaced, a dead one's is. The socket
// gets its mode before it gets its name, so at no time can others open it.
func Listen(runDir string) (net.Listener, error) {
	path := SocketPath(runDir)
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	lock, err := lockDir(runDir)
	if err != nil {
		return nil, err
	}
	l, err := listen(runDir, path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), lock.Close())
	}
	l.lock = lock
	return l, nil
}

// lockDir takes the run directory. The lock dies with its holder; its file
// stays, because removing it would let two hold it.
func lockDir(runDir string) (*os.File, error) {
	name := filepath.Join(runDir, "control.lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLive
		}
		return nil, errors.Join(fmt.Errorf("lock run directory %s: %w; stop it or give this one its own --run-dir", runDir, err), f.Close())
	}
	return f, nil
}

func listen(runDir, path string) (*listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(runDir, ".new") // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	if n := max(len(hidden), len(path)); n > maxSocketPath {
		return nil, fmt.Errorf("path of %d bytes is longer than the %d that a socket may have: take a shorter --run-dir", n, maxSocketPath)
	}
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ul.SetUnlinkOnClose(false) // it knows the hidden name only
	l := &listener{UnixListener: ul, path: path}
	if err := os.Chmod(hidden, 0o600); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	if l.mine, err = os.Lstat(hidden); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	if err := os.Rename(hidden, path); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody answers.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is a %s which is not a socket: remove it", fi.Mode().Type())
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(ErrLive, c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // anything else may be a live one in trouble
		return fmt.Errorf("ask whether its daemon lives: %w", err)
	}
	return os.Remove(path)
}

// Close removes the socket, if it is still this one, and frees the directory.
func (l *listener) Close() error {
	l.once.Do(func() {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.mine) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.err, l.UnixListener.Close(), l.lock.Close())
	})
	return l.err
}
