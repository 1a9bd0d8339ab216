// SPDX-License-Identifier: Apache-2.0

package privilege

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrStranger is wrapped by Admit's error if the other end is neither root nor this user.
var ErrStranger = errors.New("permission denied")

// Admit tells whether the process that connected to a unix socket may give orders: root's or this
// user's. The kernel noted who it was when it connected; the socket's mode can be changed, and its
// descriptor handed on, that cannot.
func Admit(c net.Conn) error {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("read the peer's credentials: %T is not a unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return fmt.Errorf("read the peer's credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return fmt.Errorf("read the peer's credentials: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("read the peer's credentials: %w", credErr)
	}
	if own := os.Geteuid(); cred.Uid != 0 && int(cred.Uid) != own {
		return fmt.Errorf("%w: user %d (process %d) is neither root nor the daemon's user %d: use sudo", ErrStranger, cred.Uid, cred.Pid, own)
	}
	return nil
}
