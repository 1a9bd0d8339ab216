// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Node is a server of the lab and the daemon that runs on it.
type Node struct {
	Name                                string
	Dir, RunDir, StateDir, PinDir, Logs string

	lab  *Lab
	mu   sync.Mutex
	cmd  *exec.Cmd
	args []string
	gone chan struct{} // closed when cmd was waited for
}

// stateName is a node's disk, in its directory.
const stateName = "state"

func newNode(l *Lab, name string) (*Node, error) {
	dir := filepath.Join(l.Dir, name)
	n := &Node{
		Name: name, Dir: dir, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, stateName),
		PinDir: filepath.Join(l.Dir, "bpf", name), Logs: filepath.Join(dir, "log"), lab: l,
	}
	for _, d := range []string{n.RunDir, n.StateDir} { // the pins' directory is the loader's to make
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of %s: %w", name, err)
		}
	}
	return n, nil
}

// Flags are what any command of the program needs to speak of this node.
func (n *Node) Flags() []string {
	return []string{"--config", n.lab.ConfigPath(), "--node", n.Name, "--run-dir", n.RunDir, "--state-dir", n.StateDir, "--pin-dir", n.PinDir}
}

// Start runs the daemon, `PROGRAM FLAGS run ARGS`, on the node. Its output goes to Logs.
func (n *Node) Start(args ...string) error {
	argv := append(append(n.Flags(), "run"), args...)
	return n.StartProgram(n.lab.opt.Executable, argv...)
}

// StartWithSrv is Start in a mount namespace of the node's own, in which /srv is Srv.
func (n *Node) StartWithSrv(args ...string) error {
	if err := os.MkdirAll(n.Srv(), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	argv := []string{"--mount", "/bin/sh", "-c", `mount --bind "$1" /srv && shift && exec "$@"`, "sh", n.Srv(), n.lab.opt.Executable}
	return n.StartProgram("/usr/bin/unshare", append(append(append(argv, n.Flags()...), "run"), args...)...)
}

// Srv is the node's data: it outlives a reboot, as its state does.
func (n *Node) Srv() string { return filepath.Join(n.Dir, "srv") }

// StartProgram runs any program as the node's daemon.
func (n *Node) StartProgram(path string, argv ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alive() {
		return fmt.Errorf("start %s: it runs as process %d", n.Name, n.cmd.Process.Pid)
	}
	logs, err := os.OpenFile(n.Logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	defer logs.Close() // the child has its own
	cmd := exec.Command(path, argv...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = logs, logs, n.Dir
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true} // a Ctrl-C is for the lab, not for its nodes
	if err := n.lab.Do(n.Name, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	gone := make(chan struct{})
	n.cmd, n.args, n.gone = cmd, append([]string{path}, argv...), gone
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(gone)
	}()
	return nil
}

// Restart starts the daemon again as it was started last.
func (n *Node) Restart() error {
	n.mu.Lock()
	args := n.args
	n.mu.Unlock()
	if len(args) == 0 {
		return fmt.Errorf("restart %s: it was never started", n.Name)
	}
	return n.StartProgram(args[0], args[1:]...)
}

func (n *Node) started() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.args) > 0
}

func (n *Node) alive() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.gone:
		return false
	default:
		return true
	}
}

// Alive reports whether the daemon's process exists.
func (n *Node) Alive() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.alive()
}

// PID is the daemon's process; 0: it does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.alive() {
		return 0
	}
	return n.cmd.Process.Pid
}

// Signal sends a signal to the daemon.
func (n *Node) Signal(sig unix.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.alive() {
		return fmt.Errorf("send %s to %s: it does not run", sig, n.Name)
	}
	if err := n.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, n.Name, err)
	}
	return nil
}

// Gone is closed when the daemon, as started last, has ended; nil if it never started.
func (n *Node) Gone() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// Kill ends the daemon at once and returns when it is gone.
func (n *Node) Kill() error {
	if err := n.Signal(unix.SIGKILL); err != nil {
		return err
	}
	n.reap()
	return nil
}

// Stop asks the daemon to leave and returns its exit status when it has, or when ctx ends.
func (n *Node) Stop(ctx context.Context) (status int, err error) {
	if err := n.Signal(unix.SIGTERM); err != nil {
		return 0, err
	}
	n.mu.Lock()
	cmd, gone := n.cmd, n.gone
	n.mu.Unlock()
	select {
	case <-gone:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("await end of %s: %w; its output:\n%s", n.Name, context.Cause(ctx), n.Tail(20))
	}
}

// reap waits for a daemon that was killed.
func (n *Node) reap() {
	if gone := n.Gone(); gone != nil {
		<-gone
	}
}

// Tail returns the last lines of the daemon's output.
func (n *Node) Tail(lines int) string {
	b, err := os.ReadFile(n.Logs)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// ServiceRuns reports whether one of the lab's services is started on the node.
func (n *Node) ServiceRuns(service string) bool {
	_, err := os.Stat(n.serviceFile(service))
	return err == nil
}

func (n *Node) serviceFile(service string) string {
	return filepath.Join(n.lab.Dir, "services", fmt.Sprintf("%s@%d", service, n.ttl()))
}

func (n *Node) ttl() int { return TTLServ1 + numberOf(n.Name) }

// powerOff ends everything that runs on the node; its kernel's programs stay
// until reboot, behind cut cables, because taking them down would disturb the measurement.
func (n *Node) powerOff() error {
	n.killDaemon()
	return killInside(filepath.Join(n.lab.Dir, "ns", n.Name))
}

func (n *Node) killDaemon() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alive() {
		_ = n.cmd.Process.Kill() // gone already is as good
	}
}

// reboot gives the node a new namespace, empty pins and run directory; its
// state directory, being its disk, stays. Its cables come up as faults that last want them.
// The old kernel's programs go last: on live cables its addresses would be answered for with no gate.
func (n *Node) reboot() error {
	l := n.lab
	l.cutAll(n.Name)
	if err := errors.Join(n.powerOff(), n.thaw()); err != nil {
		return err
	}
	n.reap()
	if err := emptyDir(n.RunDir); err != nil {
		return fmt.Errorf("reboot %s: %w", n.Name, err)
	}
	files, err := filepath.Glob(n.serviceFile("*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("reboot %s: %w", n.Name, err)
		}
	}
	if err := l.replaceSpace(n.Name); err != nil {
		return err
	}
	if err := os.RemoveAll(n.PinDir); err != nil {
		return fmt.Errorf("reboot %s: %w", n.Name, err)
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// replaceSpace swaps a node's namespace for a fresh one with fresh cables.
func (l *Lab) replaceSpace(name string) error {
	l.cabling.Lock()
	err := l.remake(name)
	l.cabling.Unlock()
	if err != nil {
		return err
	}
	return l.carry(portsOf(l.ports, name), l.cut)
}

func (l *Lab) remake(name string) error {
	ports := portsOf(l.ports, name)
	for _, p := range ports {
		sw := l.space(p.Switch)
		link, err := sw.nl.LinkByIndex(p.Number)
		if err != nil {
			return fmt.Errorf("find port %s: %w", p.Name(), err)
		}
		if err := sw.nl.LinkDel(link); err != nil {
			return fmt.Errorf("remove port %s: %w", p.Name(), err)
		}
	}
	l.space(name).close()
	s := l.spaceOf(name)
	if err := l.addSpace(s); err != nil {
		return err
	}
	for _, p := range ports {
		if err := l.addCable(p); err != nil {
			return err
		}
	}
	return l.address(s)
}
