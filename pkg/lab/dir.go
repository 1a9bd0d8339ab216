// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where labs live: ID.lock, held by flock as long as the lab's program
// lives, and ID/, a mount that bears the lab's mark and holds all of it.
const Root = "/run/xdpha-lab"

const (
	mark       = "xdpha-lab" // the source of the lab's mount
	lockSuffix = ".lock"
)

// claim removes what crashed runs left below root, and takes a directory for this lab.
func claim(root, id string, log *slog.Logger) (dir string, lock *os.File, err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", nil, err
	}
	guard, err := flock(filepath.Join(root, "guard"), unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer guard.Close()
	if err := sweep(root, log); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, id)
	if lock, err = flock(dir+lockSuffix, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, errors.Join(err, lock.Close())
	}
	return dir, lock, nil
}

// flock opens and locks a file; the lock goes with the descriptor.
func flock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// sweep removes labs whose program is gone. The guard must be held.
func sweep(root string, log *slog.Logger) error {
	locks, err := filepath.Glob(filepath.Join(root, "*"+lockSuffix))
	if err != nil {
		return err
	}
	for _, path := range locks {
		lock, err := flock(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue // alive, or closed just now
		}
		if err != nil {
			return err
		}
		dir := strings.TrimSuffix(path, lockSuffix)
		log.Info("remove what a crashed lab left", "dir", dir)
		if err := errors.Join(killInside(filepath.Join(dir, "ns", "*")), release(dir, lock)); err != nil {
			return fmt.Errorf("remove crashed lab %s: %w", dir, err)
		}
	}
	return nil
}

// mountLab makes dir a mount of its own, so that one unmount ends everything in it.
func mountLab(dir string) error {
	if err := unix.Mount(mark, dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	for _, sub := range []string{"ns", "bpf", "services"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	bpf := filepath.Join(dir, "bpf")
	if err := unix.Mount(mark, bpf, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", bpf, err)
	}
	return nil
}

// release unmounts and removes a lab's directory and lets go of its lock.
func release(dir string, lock *os.File) error {
	ours, err := marked(dir)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	if ours {
		if err := errors.Join(removeServiceCgroups(dir), removeCgroup(dir)); err != nil {
			return errors.Join(err, lock.Close())
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return errors.Join(fmt.Errorf("unmount %s: %w", dir, err), lock.Close())
		}
	}
	// Only an empty directory goes: what is in it now is not the lab's.
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, lock.Close())
	}
	return errors.Join(os.Remove(dir+lockSuffix), lock.Close())
}

// marked reports whether a lab's mount is on dir.
func marked(dir string) (bool, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(info)) {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if ok && len(f) > 4 && len(g) > 1 && f[4] == dir && g[0] == "tmpfs" && g[1] == mark {
			return true, nil
		}
	}
	return false, nil
}

// killInside ends every process that lives in a namespace bound to a file that
// matches pattern, and returns when they are gone. Nobody else can be in there:
// the namespaces are the lab's.
func killInside(pattern string) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	inodes := map[uint64]bool{}
	for _, name := range names {
		if in, ok := nsInode(name); ok {
			inodes[in] = true
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		left, err := pidsIn(inodes)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already is as good
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes %v in %s: still there 5 s after SIGKILL", left, pattern)
		}
	}
}

// nsInode returns the inode of a bound namespace; a file that is none has no claim.
func nsInode(path string) (uint64, bool) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC || unix.Stat(path, &st) != nil {
		return 0, false
	}
	return st.Ino, true
}

// pidsIn lists living processes, except this one, whose network namespace is among inodes.
func pidsIn(inodes map[uint64]bool) (pids []int, err error) {
	if len(inodes) == 0 {
		return nil, nil
	}
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range proc {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && inodes[st.Ino] {
			pids = append(pids, pid) // a zombie has no namespace any more
		}
	}
	return pids, nil
}
