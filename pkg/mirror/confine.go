// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock (landlock(7)) takes from rsync: everything but to read and run, and in the set's path
// nothing. So not even a flaw of rsync's in what it makes of the peer's bytes writes elsewhere.
const (
	mayRead = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	mayAll  = mayRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER // Linux 5.19: a rename into another directory
	truncate = unix.LANDLOCK_ACCESS_FS_TRUNCATE // Linux 6.2
)

// errNoLandlock: the kernel was built or started without it, or a filter of system calls forbids it.
var errNoLandlock = errors.New("no Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock, the unit's SystemCallFilter)")

// landlockABI is what the running kernel can.
func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno == unix.ENOSYS, errno == unix.EOPNOTSUPP, errno == unix.EPERM, errno == 0 && abi < 2:
		return 0, errNoLandlock
	case errno != 0:
		return 0, fmt.Errorf("ask for Landlock: %w", errno)
	}
	return int(abi), nil
}

// confined runs start, which starts a process, so that the process and its children can write below
// writable alone; nil: nowhere. The thread that is confined for it ends with the call.
func confined(writable *os.File, start func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is no other goroutine's any more
		err := confineThread(writable)
		if errors.Is(err, errNoLandlock) {
			err = nil // `xdpha check` tells of it
		}
		if err == nil {
			err = start()
		}
		done <- err
	}()
	return <-done
}

func confineThread(writable *os.File) error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	all := uint64(mayAll)
	if abi >= 3 {
		all |= truncate
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: all}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return fmt.Errorf("confine rsync: make ruleset: %w", errno)
	}
	rules := os.NewFile(fd, "landlock")
	defer rules.Close()
	root, err := os.Open("/")
	if err != nil {
		return fmt.Errorf("confine rsync: %w", err)
	}
	defer root.Close()
	if err := allow(rules, root, mayRead); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("confine rsync: %w", err)
	}
	defer null.Close()
	if err := allow(rules, null, all&(unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_WRITE_FILE|truncate)); err != nil {
		return err
	}
	if writable != nil {
		if err := allow(rules, writable, all); err != nil {
			return err
		}
	}
	// Without it only CAP_SYS_ADMIN may confine itself. rsync has no use for set-user-ID programs.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine rsync: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules.Fd(), 0, 0); errno != 0 {
		return fmt.Errorf("confine rsync: %w", errno)
	}
	return nil
}

// allow allows access below a directory.
func allow(rules, dir *os.File, access uint64) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(dir.Fd())}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules.Fd(), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("confine rsync: allow %s: %w", dir.Name(), errno)
	}
	return nil
}
