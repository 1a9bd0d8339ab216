// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/service"
)

// cgroupLink, in the lab's directory, points to the lab's cgroup: the next lab removes that of a crashed one by it.
const cgroupLink = "cgroup"

// freeze makes everything on the node stand still, as a hypervisor does: nobody is
// told, unlike with SIGSTOP, which is what is left without the freezer of cgroup v2.
func (n *Node) freeze() error {
	dir, err := n.lab.cgroup(n.Name)
	if err != nil {
		n.lab.log.Info("no freezer: stop every process by a signal instead", "node", n.Name, "reason", err)
		return n.signalAll(unix.SIGSTOP)
	}
	if err := n.enroll(dir); err != nil {
		return fmt.Errorf("freeze %s: %w", n.Name, err)
	}
	return setFrozen(dir, true)
}

// thaw ends freeze; what is not frozen may be thawed.
func (n *Node) thaw() error {
	dir := filepath.Join(n.lab.Dir, cgroupLink, n.Name)
	if _, err := os.Stat(dir); err != nil {
		return n.signalAll(unix.SIGCONT)
	}
	return setFrozen(dir, false)
}

// processes lists what runs on the node.
func (n *Node) processes() ([]int, error) {
	in, ok := nsInode(filepath.Join(n.lab.Dir, "ns", n.Name))
	if !ok {
		return nil, fmt.Errorf("list processes of %s: it has no namespace", n.Name)
	}
	return pidsIn(map[uint64]bool{in: true})
}

// signalAll sends a signal to everything on the node, and again to what was forked meanwhile.
func (n *Node) signalAll(sig unix.Signal) error {
	return n.eachProcess(func(pid int) error { return unix.Kill(pid, sig) })
}

// enroll moves everything on the node into a cgroup; children are born where their parents are.
func (n *Node) enroll(dir string) error {
	return n.eachProcess(func(pid int) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	})
}

// eachProcess calls f once for every process on the node, until there is no new one.
func (n *Node) eachProcess(f func(pid int) error) error {
	done := map[int]bool{}
	for again := true; again; {
		again = false
		pids, err := n.processes()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if done[pid] {
				continue
			}
			done[pid], again = true, true
			if err := f(pid); err != nil && !errors.Is(err, unix.ESRCH) { // gone already is as good
				return err
			}
		}
	}
	return nil
}

// cgroup returns a cgroup of the lab's own, made when it is first asked for, below that of this process.
func (l *Lab) cgroup(name string) (string, error) {
	link := filepath.Join(l.Dir, cgroupLink)
	base, err := os.Readlink(link)
	if err != nil {
		parent, err := ownCgroup()
		if err != nil {
			return "", err
		}
		base = filepath.Join(parent, mark+"."+filepath.Base(l.Dir))
		if err := os.Symlink(base, link); err != nil { // first, so that no crash can leave it unknown
			return "", err
		}
	}
	dir := filepath.Join(base, name)
	return dir, os.MkdirAll(dir, 0o700)
}

// ownCgroup is where this process is in the tree of cgroup v2.
func ownCgroup() (string, error) {
	top, shown, err := cgroupTree()
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(top, strings.TrimPrefix(path, shown)), nil
		}
	}
	return "", errNoCgroups
}

var errNoCgroups = errors.New("no cgroup v2 is mounted")

// cgroupTree is where cgroup v2 is mounted, and which part of it that shows.
func cgroupTree() (top, shown string, err error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(info)) {
		left, right, _ := strings.Cut(line, " - ")
		if f := strings.Fields(left); len(f) > 4 && strings.HasPrefix(right, "cgroup2 ") {
			return f[4], f[3], nil
		}
	}
	return "", "", errNoCgroups
}

func setFrozen(dir string, frozen bool) error {
	v := "0"
	if frozen {
		v = "1"
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(v), 0); err != nil {
		return fmt.Errorf("freeze or thaw: %w", err)
	}
	return awaitCgroup(dir, "frozen "+v)
}

// awaitCgroup returns when a cgroup's events say so: the kernel wakes who polls the file.
func awaitCgroup(dir, want string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256)
	for deadline := time.Now().Add(5 * time.Second); ; {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return err
		}
		if strings.Contains("\n"+string(buf[:n]), "\n"+want+"\n") {
			return nil
		}
		left := time.Until(deadline)
		if left < 0 {
			return fmt.Errorf("await %q of %s: not within 5 s; it says %q", want, dir, buf[:n])
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll %s: %w", f.Name(), err)
		}
	}
}

// removeCgroup removes the cgroup of a lab whose processes have been ended.
func removeCgroup(lab string) error {
	base, err := os.Readlink(filepath.Join(lab, cgroupLink))
	if err != nil {
		return nil // it never had one
	}
	names, err := filepath.Glob(filepath.Join(base, "*", "cgroup.events"))
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := filepath.Dir(name)
		if err := errors.Join(awaitCgroup(dir, "populated 0"), os.Remove(dir)); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	if err := os.Remove(base); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// removeServiceCgroups removes those in which a lab's daemons had their services, wherever in the tree the
// daemons were: one that lost its power has removed nothing. All that lived there has been ended.
func removeServiceCgroups(lab string) error {
	names := map[string]bool{}
	for i := range MaxNodes {
		names[service.CgroupName(filepath.Join(lab, server(i), stateName))] = true
	}
	top, _, err := cgroupTree()
	if errors.Is(err, errNoCgroups) {
		return nil
	}
	if err != nil {
		return err
	}
	var dirs []string
	below := "/ of none"
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // others' come and go
		}
		if names[d.Name()] {
			below = path + "/"
		}
		if names[d.Name()] || strings.HasPrefix(path, below) {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) { // what is below goes first
		if e := errors.Join(awaitCgroup(dir, "populated 0"), os.Remove(dir)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove cgroup: %w", e))
		}
	}
	return err
}
