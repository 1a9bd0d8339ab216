// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits on what one service can put into the log, and into memory.
const (
	maxLine     = 1024    // bytes; the rest of a line is cut off
	lineBurst   = 100     // lines at once
	linesPerSec = 20      // lines after that
	maxBacklog  = 8 << 20 // bytes printed between two polls; more closes the file to further output
	outputPoll  = 100 * time.Millisecond
	readSize    = 64 << 10
	pageSize    = 4096 // granularity in which read output is given back
)

// lineLog writes a service's lines to the log, at a bounded rate.
type lineLog struct {
	log     *slog.Logger
	now     func() time.Time
	mu      sync.Mutex
	tokens  float64
	at      time.Time
	dropped int
}

func newLineLog(log *slog.Logger) *lineLog {
	return &lineLog{log: log, now: time.Now, tokens: lineBurst, at: time.Now()}
}

func (l *lineLog) line(verb, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.tokens = min(lineBurst, l.tokens+linesPerSec*now.Sub(l.at).Seconds())
	l.at = now
	if l.tokens < 1 {
		l.dropped++
		return
	}
	l.tokens--
	if l.dropped > 0 {
		l.log.Warn("service printed too much", "lines_dropped", l.dropped)
		l.dropped = 0
	}
	l.log.Info("service output", "command", verb, "line", text)
}

// output is the file that a command prints to, and the follower of that file.
// The file appends at every write, so all of the command's children may hold
// it; what has been read is punched out of it, so it holds a backlog only.
type output struct {
	file *os.File
	verb string
	to   *lineLog
	stop chan struct{}
	done chan struct{}

	read    int64
	partial []byte // of a line; at most maxLine+1
	last    string
	reason  string
}

// newOutput returns an output that is followed until close.
func newOutput(verb string, to *lineLog) (*output, error) {
	fd, err := unix.MemfdCreate("xdpha-"+verb, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create file for output: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set output file to append: %w", err)
	}
	o := &output{file: os.NewFile(uintptr(fd), "output"), verb: verb, to: to, stop: make(chan struct{}), done: make(chan struct{})}
	go o.follow()
	return o, nil
}

// close takes what is there and lets go of the file. Children may keep theirs.
func (o *output) close() {
	close(o.stop)
	<-o.done
}

// lastLine is the last line that was printed, or the last reason that an OCF agent gave. Only after close.
func (o *output) lastLine() string {
	if o.reason != "" {
		return o.reason
	}
	return o.last
}

// ocfReason begins a line by which an agent says why it exits as it does (ocf_exit_reason).
const ocfReason = "ocf-exit-reason:"

func (o *output) follow() {
	defer close(o.done)
	defer o.file.Close()
	tick := time.NewTicker(outputPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			o.drain()
		case <-o.stop:
			o.drain()
			if len(o.partial) > 0 {
				o.emit()
			}
			return
		}
	}
}

// drain reads to the end of the file as it was at the beginning: whoever prints
// without pause must not hold it here.
func (o *output) drain() {
	fi, err := o.file.Stat()
	if err != nil || fi.Size() == o.read {
		return
	}
	if backlog := fi.Size() - o.read; backlog > maxBacklog {
		// Sealed, a file refuses to grow with EPERM and without a signal.
		if _, err := unix.FcntlInt(o.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err == nil && o.to != nil {
			o.to.log.Warn("service printed too much: its further output is refused", "command", o.verb, "bytes", backlog)
		}
		o.read = fi.Size() - readSize
	}
	buf := make([]byte, readSize)
	for end := fi.Size(); o.read < end; {
		n, err := o.file.ReadAt(buf[:min(readSize, end-o.read)], o.read)
		o.split(buf[:n])
		o.read += int64(n)
		if n == 0 || err != nil {
			break
		}
	}
	if whole := o.read &^ (pageSize - 1); whole > 0 {
		_ = unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, whole) // only gives memory back
	}
}

func (o *output) split(b []byte) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		room := maxLine + 1 - len(o.partial)
		o.partial = append(o.partial, line[:min(len(line), room)]...)
		if ended {
			o.emit()
		}
		b = rest
	}
}

func (o *output) emit() {
	text := o.partial
	cut := ""
	if len(text) > maxLine {
		text, cut = text[:maxLine], "…"
	}
	line := strings.ToValidUTF8(strings.TrimRight(string(text), "\r"), "\uFFFD") + cut
	o.partial = o.partial[:0]
	if strings.TrimSpace(line) != "" {
		o.last = line
		if reason, ok := strings.CutPrefix(line, ocfReason); ok {
			o.reason = reason
		}
		if o.to != nil {
			o.to.line(o.verb, line)
		}
	}
}
