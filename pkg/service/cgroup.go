// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// daemonGroup is what the unit calls the cgroup of the daemon's own process
// (DelegateSubgroup, systemd 254): the services' are made beside it. A cgroup with
// processes of its own cannot turn on the measuring of those below it.
const daemonGroup = "daemon"

// groups is the part of the cgroup tree that this daemon's services have.
type groups struct {
	dir   string
	meter bool // the cgroup is delegated so that memory and I/O can be measured below it

	mu sync.Mutex // of making and removing
}

// newGroups finds the daemon's own cgroup and whether it may make others there. The
// daemon whose files are in stateDir finds them again after a restart, no other does.
func newGroups(stateDir string) (*groups, error) {
	own, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	g := &groups{meter: filepath.Base(own) == daemonGroup}
	if g.meter {
		own = filepath.Dir(own)
	}
	base, err := cgroupFile(own)
	if err != nil {
		return nil, err
	}
	g.dir = filepath.Join(base, CgroupName(stateDir))
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make a cgroup: %w: run the daemon as root, or by its unit with Delegate=yes", err)
	}
	g.tidy()
	return g, nil
}

// CgroupName is what the cgroup is called in which a daemon has its services' cgroups.
func CgroupName(stateDir string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(stateDir))
	return fmt.Sprintf("xdpha-%08x", h.Sum32())
}

// cgroupFile is where a cgroup of version 2 is in the file system (proc_pid_mountinfo(5)): what is
// mounted may be a part of the tree.
func cgroupFile(path string) (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		where, what, ok := strings.Cut(line, " - ")
		f := strings.Fields(where)
		if ok && strings.HasPrefix(what, "cgroup2 ") && len(f) > 4 {
			return filepath.Join(unescapeMount(f[4]), strings.TrimPrefix(path, unescapeMount(f[3]))), nil
		}
	}
	return "", errors.New("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup, as systemd does by itself")
}

// unescapeMount undoes how mountinfo writes blanks.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// ownCgroup is this process's in cgroup2, as a path below its mount (cgroups(7)).
func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return strings.TrimSuffix(path, " (deleted)"), nil
		}
	}
	return "", errors.New("this process is in no cgroup of version 2")
}

// tidy removes the groups in which nothing lives, and the directory of all of them when none is left.
func (g *groups) tidy() {
	list, _ := os.ReadDir(g.dir)
	for _, d := range list {
		if d.IsDir() {
			_ = unix.Rmdir(filepath.Join(g.dir, d.Name())) // EBUSY: something lives there
		}
	}
	_ = unix.Rmdir(g.dir)
}

// cgroup is one service's. It exists while there are processes in it.
type cgroup struct {
	parent *groups
	dir    string
}

// of is a service's; nil if there are none.
func (g *groups) of(service string) *cgroup {
	if g == nil {
		return nil
	}
	return &cgroup{parent: g, dir: filepath.Join(g.dir, service)}
}

// make makes it for a command to join.
func (c *cgroup) make() error {
	c.parent.mu.Lock()
	defer c.parent.mu.Unlock()
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if c.parent.meter {
		for _, dir := range []string{filepath.Dir(c.parent.dir), c.parent.dir} {
			for _, controller := range []string{"+memory", "+io"} { // one that the kernel lacks must not keep the other off
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controller), 0) // only measuring is lost
			}
		}
	}
	return nil
}

// removeIfEmpty takes it away when nothing runs in it: the next command makes it anew.
func (c *cgroup) removeIfEmpty() {
	c.parent.mu.Lock()
	defer c.parent.mu.Unlock()
	if unix.Rmdir(c.dir) == nil {
		_ = unix.Rmdir(c.parent.dir) // EBUSY: others are left
	}
}

// populated reports whether a process lives in it, or below it.
func (c *cgroup) populated() bool {
	b, err := os.ReadFile(filepath.Join(c.dir, "cgroup.events"))
	return err == nil && bytes.Contains(b, []byte("populated 1"))
}

// processes are those in it and below it.
func (c *cgroup) processes() (pids []int) {
	_ = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // gone meanwhile
		}
		b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// end ends all that runs in it: SIGTERM, and SIGKILL when ctx ends. It returns when nothing lives there.
func (c *cgroup) end(ctx context.Context) error {
	for _, pid := range c.processes() {
		_ = syscall.Kill(pid, syscall.SIGTERM) // gone meanwhile is as good
	}
	if c.empty(ctx) != nil {
		if err := c.kill(); err != nil {
			return err
		}
	}
	c.removeBelow()
	return nil
}

// removeBelow takes away it and the cgroups that the service has made in it.
func (c *cgroup) removeBelow() {
	var dirs []string
	_ = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != c.dir {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = unix.Rmdir(dirs[i])
	}
	c.removeIfEmpty()
}

// empty waits until nothing lives in it; the kernel tells, by a change of cgroup.events.
func (c *cgroup) empty(ctx context.Context) error {
	events, err := os.Open(filepath.Join(c.dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch cgroup: %w", err)
	}
	defer events.Close()
	woken, wake, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watch cgroup: %w", err)
	}
	defer woken.Close()
	stop := context.AfterFunc(ctx, func() { _ = wake.Close() })
	defer wake.Close()
	defer stop()
	for {
		// Reading arms the event: what happens from here on ends the poll. So does the pipe, by POLLHUP.
		b := make([]byte, 256)
		n, _ := events.ReadAt(b, 0)
		if n == 0 || bytes.Contains(b[:n], []byte("populated 0")) {
			return nil // ENODEV: it was removed
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}, {Fd: int32(woken.Fd())}}
		if _, err = unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch cgroup: %w", err)
		}
	}
}
