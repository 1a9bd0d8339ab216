// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

// ioTimeout is the silence after which either rsync gives up: the other end's processes are stopped
// or hang. While files are compared rsync itself keeps the line alive.
const ioTimeout = time.Minute

// What both ends must be told alike. Owners, modes, times, ACLs, extended attributes, hard links and
// holes are kept, numbers of users instead of names, for the two nodes' lists may differ.
// What is mounted below a path is left alone: while it is not mounted on the sender its copy would
// be deleted. Deletions come last, and rsync skips them if anything could not be read; so a set of
// millions of files is listed in memory. --super: a daemon that is not root has its capabilities (see grant).
var always = []string{"--super", "--delete-after", "--modify-window=-1", "--numeric-ids", "--timeout=" + strconv.Itoa(int(ioTimeout/time.Second))}

// clientArgs are those of the sending rsync, whose remote shell is pipe.
func clientArgs(k kind, set *config.Mirror, pipe string) []string {
	args := []string{"-aHAXSx", "--no-s", "--no-h", "--info=progress2,stats2", "-e", pipe}
	args = append(args, always...)
	switch k {
	case kindChanges:
		args = append(args, "--no-r", "--dirs", "--files-from=-", "--from0")
	case kindDry:
		args = append(args, "--dry-run")
	}
	if set.BytesPerSecond > 0 {
		args = append(args, fmt.Sprintf("--bwlimit=%dB", set.BytesPerSecond))
	}
	for _, pattern := range set.Exclude {
		args = append(args, "--filter=- "+pattern)
	}
	return append(args, "./", "xdpha:.") // what stands for the other end is for nobody
}

// serverArgs are those that a client with the same options would ask of the receiving rsync. The
// receiver says them itself. The letters after "e." are what the client can do: what rsync 3.2 can.
func serverArgs(k kind) []string {
	short, more := "-lHogDtpAXrxSe.LsfxCv", []string{}
	switch k {
	case kindChanges:
		short, more = "-ldHogDtpAXRxSe.LsfxCv", []string{"--no-r"}
	case kindDry:
		short = "-nlHogDtpAXrxSe.LsfxCv"
	}
	args := append([]string{"--server", short}, more...)
	return append(append(args, always...), "--info=STATS2", ".", ".")
}

// process is a run of rsync, in a process group of its own.
type process struct {
	*exec.Cmd
	life *os.File // its end is the end of whoever was started
}

// newProcess is rsync in dir, with an environment that changes nothing.
func newProcess(dir string, args []string) (*process, error) {
	path, err := exec.LookPath("rsync")
	if err != nil {
		return nil, errors.New("rsync is not installed: install the distribution's package on both nodes")
	}
	p := &process{Cmd: exec.Command(path, args...)}
	p.Dir = dir
	p.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, AmbientCaps: grant()}
	p.WaitDelay = endTime // its last bytes leave in time, or the line is broken
	return p, nil
}

// start starts it; files are its descriptors from 3 on. It can write below writable alone; nil: nowhere.
func (p *process) start(writable *os.File, files ...*os.File) error {
	life, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run rsync: %w", err)
	}
	p.ExtraFiles = append(files, theirs)
	err = confined(writable, p.Start)
	theirs.Close()
	if err != nil {
		life.Close()
		return fmt.Errorf("run rsync: %w", err)
	}
	p.life = life
	return nil
}

// How long a process may take to remove what it has not finished, and how long one that is ended to be
// gone: longer, and its disk hangs.
const (
	killAfter = 500 * time.Millisecond
	endTime   = 5 * time.Second
)

// wait waits for a started process, and ends it when ctx ends first. When it returns, nobody of its
// group lives: with a disk that hangs, that may be never.
func (p *process) wait(ctx context.Context) error {
	defer p.life.Close()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		for { // not reaped yet, so that the group's number stays its own
			err := unix.Waitid(unix.P_PID, p.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	select {
	case <-exited:
	case <-ctx.Done():
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGTERM) // gone meanwhile is as good
		select {
		case <-exited:
		case <-time.After(killAfter):
		}
	}
	_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	err := p.Wait()
	_, _ = p.life.Read(make([]byte, 1)) // nobody writes: it is the last one's end
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// exitVanished is rsync's when files went away while it ran, as they do where somebody works.
const exitVanished = 24

// explain makes an error of how rsync ended.
func explain(err error, said *tail) error {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.As(err, &exit) && exit.ExitCode() == exitVanished:
		return nil
	case !errors.As(err, &exit):
		return err
	}
	if text := said.String(); text != "" {
		return fmt.Errorf("rsync: %s", text)
	}
	return fmt.Errorf("rsync: %w", err)
}

// tail keeps the beginning of what was said: what follows the first error follows from it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p[:min(len(p), maxTail-t.b.Len())])
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.FieldsFunc(strings.ToValidUTF8(t.b.String(), "?"), func(r rune) bool { return r == '\n' || r == '\r' })
	const most = 4
	return strings.Join(lines[:min(len(lines), most)], "; ")
}

// Stats is what one run compared and copied.
type Stats struct {
	Files, Bytes        uint64 // of all the set: directories and links count as files
	Copied, CopiedBytes uint64 // regular files that differed, and their size
	Created, Deleted    uint64
	Sent                uint64 // bytes on the wire
	Took                time.Duration
}

func (s *Stats) add(o Stats) {
	s.Files, s.Bytes = s.Files+o.Files, s.Bytes+o.Bytes
	s.Copied, s.CopiedBytes = s.Copied+o.Copied, s.CopiedBytes+o.CopiedBytes
	s.Created, s.Deleted, s.Sent = s.Created+o.Created, s.Deleted+o.Deleted, s.Sent+o.Sent
}

// Progress is how far a run is.
type Progress struct {
	Bytes   uint64 // copied so far
	Percent int    // of the bytes of all files that are known so far
	ToCheck uint64 // files that are still to be looked at
}

// reader takes apart what rsync prints: progress, each with a carriage return before it, and at the end
// lines of numbers.
type reader struct {
	line     []byte
	stats    Stats
	progress func(Progress)
}

// maxLine is more than any line that matters has.
const maxLine = 4 << 10

func (r *reader) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && c != '\r' {
			if len(r.line) < maxLine {
				r.line = append(r.line, c)
			}
			continue
		}
		r.take(string(r.line))
		r.line = r.line[:0]
	}
	return len(p), nil
}

func (r *reader) take(line string) {
	name, rest, ok := strings.Cut(line, ": ")
	for _, f := range []struct {
		name string
		into *uint64
	}{
		{"Number of files", &r.stats.Files}, {"Number of created files", &r.stats.Created}, {"Number of deleted files", &r.stats.Deleted},
		{"Number of regular files transferred", &r.stats.Copied}, {"Total file size", &r.stats.Bytes},
		{"Total transferred file size", &r.stats.CopiedBytes}, {"Total bytes sent", &r.stats.Sent},
	} {
		if ok && name == f.name {
			*f.into = leading(rest)
			return
		}
	}
	// "  32768  12%   31.25MB/s    0:00:00 (xfr#1, to-chk=0/2)", the bracket at a file's end only
	words := strings.Fields(line)
	if len(words) < 2 || !strings.HasSuffix(words[1], "%") {
		return
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(words[1], "%"))
	if err != nil {
		return
	}
	p := Progress{Bytes: leading(words[0]), Percent: percent}
	if _, after, ok := strings.Cut(line, "-chk="); ok {
		p.ToCheck = leading(after)
	}
	r.progress(p)
}

// leading is the number that a text begins with.
func leading(s string) uint64 {
	end := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.ParseUint(s[:end], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
