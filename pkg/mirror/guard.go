// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// root is one path of a set, opened: it stays this directory whatever is mounted, unmounted or
// renamed meanwhile, and cannot be unmounted in order while it is open.
type root struct {
	dir   *os.File
	path  string
	fs    string
	empty bool
}

func (r *root) Close() error { return r.dir.Close() }

// at names the directory for a child that inherits nothing: it is entered before exec closes it.
func (r *root) at() string { return "/proc/self/fd/" + strconv.Itoa(int(r.dir.Fd())) }

// wrongPath is a path that cannot be one of a set as it stands.
type wrongPath struct{ what, remedy string }

func (w wrongPath) Error() string { return w.what + ": " + w.remedy }

// openRoot opens a path of a set as it stands. No part of it may be a symbolic link: that could lead
// out of what the configuration allows.
func openRoot(path string) (*root, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, how)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, wrongPath{path + " is missing", "mount what belongs there, or make the directory"}
	case errors.Is(err, unix.ELOOP):
		return nil, wrongPath{path + " goes through a symbolic link", "write where it leads to in the configuration"}
	case errors.Is(err, unix.ENOTDIR):
		return nil, wrongPath{path + " is not a directory", "write the directory that holds it, with what else is there in exclude"}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	r := &root{dir: os.NewFile(uintptr(fd), path), path: path}
	if r.fs, err = fileSystem(fd, path); err == nil {
		_, err = r.dir.ReadDir(1)
		r.empty = errors.Is(err, io.EOF)
		if r.empty {
			err = nil
		}
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// fileSystem names the file system that a directory is on, so that the name holds across reboots:
// where it is mounted, its type, and what tells it from another one of that type.
func fileSystem(fd int, path string) (string, error) {
	var stat unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look where %s is mounted: %w", path, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_mountinfo(5): id parent major:minor root mount-point options [fields] - type source options
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 1 || h[0] != strconv.FormatUint(stat.Mnt_id, 10) {
			continue
		}
		name := h[4] + " " + t[0]
		var sfs unix.Statfs_t
		if slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"}, t[0]) && unix.Fstatfs(fd, &sfs) == nil {
			name += fmt.Sprintf(" %08x%08x", uint32(sfs.Fsid.Val[0]), uint32(sfs.Fsid.Val[1])) // of its UUID
		}
		return name, nil
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("look where %s is mounted: %w", path, err)
	}
	return "", fmt.Errorf("%s was unmounted in this moment", path)
}

// mountPoint is the first word of a fileSystem.
func mountPoint(fs string) string {
	at, _, _ := strings.Cut(fs, " ")
	return at
}

// suspicious says why what a path is now must not be copied from, or written to, unless somebody
// says that it is meant.
func suspicious(now *root, was directory, sends bool) error {
	switch {
	case was.FS != now.fs && mountPoint(was.FS) != mountPoint(now.fs):
		return fmt.Errorf("%s was on the file system mounted on %s and is now on that of %s: mount it", now.path, mountPoint(was.FS), mountPoint(now.fs))
	case was.FS != now.fs:
		return fmt.Errorf("%s is on another file system than before, mounted on the same %s: mount the right one", now.path, mountPoint(now.fs))
	case sends && was.Filled && now.empty:
		return fmt.Errorf("%s is empty and was not before: put its content back", now.path)
	}
	return nil
}

// check opens a path of the set and compares it with what it was.
func (s *set) check(path string, sends bool) (r *root, accepted bool, err error) {
	if r, err = openRoot(path); err != nil {
		return nil, false, err
	}
	accepted = there(s.accept())
	was, known := s.m.memory.directory(s.cfg.Name, path)
	if !known || accepted {
		return r, accepted, nil
	}
	if err := suspicious(r, was, sends); err != nil {
		r.Close()
		return nil, false, fmt.Errorf("%w; %s", err, s.meant())
	}
	return r, false, nil
}

// accept is a file by which the administrator says that the set's paths shall be as they are.
func (s *set) accept() string { return s.m.stateFile("mirror-" + s.cfg.Name + ".accept") }

// overwrite is a file by which the administrator says that what this node has of the set may be
// overwritten, with what the other one has not. A word on paths is none on that.
func (s *set) overwrite() string { return s.m.stateFile("mirror-" + s.cfg.Name + ".overwrite") }

func there(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// usedUp ends a word of the administrator's.
func usedUp(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *set) meant() string {
	return fmt.Sprintf("or, if it is meant, run on %s: touch %s", s.m.self(), s.accept())
}

// remember notes what the paths were when all was copied; an administrator's words are used up by it.
func (s *set) remember(paths map[string]directory) error {
	var errs []error
	for path, d := range paths {
		errs = append(errs, s.m.memory.note(s.cfg.Name, path, d))
	}
	return errors.Join(append(errs, usedUp(s.accept()), usedUp(s.overwrite()))...)
}
