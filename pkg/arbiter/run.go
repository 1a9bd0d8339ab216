// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Where a name is looked for, and what agents find their own tools by: not the daemon's
// environment, which may hold anything.
var agentDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

const (
	killWait = time.Second // for the output of a killed agent's children
	saidMost = 2048
)

// result is how a run of an agent ended.
type result struct {
	code int
	out  []byte // its standard output
	said string // the end of what it said on both outputs
}

func findAgent(agent string) (string, error) {
	if filepath.IsAbs(agent) {
		return agent, nil
	}
	for _, dir := range agentDirs {
		path := filepath.Join(dir, agent)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s: install the package fence-agents, or write the agent's path", agent, strings.Join(agentDirs, ", "))
}

// runAgent runs an agent in a process group of its own, which ends with it.
func runAgent(ctx context.Context, agent string, in []byte, limit time.Duration) (result, error) {
	path, err := findAgent(agent)
	if err != nil {
		return result{}, err
	}
	late := fmt.Errorf("killed after the time limit of %v", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	var out bytes.Buffer
	var said tail
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"PATH=" + strings.Join(agentDirs, ":"), "LC_ALL=C.UTF-8", "HOME=" + os.Getenv("HOME")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), both{&out, &said}, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind; mostly nothing
	}
	r := result{code: cmd.ProcessState.ExitCode(), out: out.Bytes(), said: said.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case errors.As(err, &exit) && exit.Exited(), err == nil:
		return r, nil
	}
	return r, err
}

// both writes what an agent prints to where it is wanted. An agent's output is small: metadata.
type both struct {
	whole *bytes.Buffer
	said  *tail
}

const outMost = 1 << 20

func (b both) Write(p []byte) (int, error) {
	if b.whole.Len()+len(p) <= outMost {
		b.whole.Write(p)
	}
	return b.said.Write(p)
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - saidMost; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String joins the lines to one, as errors and events are.
func (t *tail) String() string { return strings.Join(strings.Fields(string(t.b)), " ") }
