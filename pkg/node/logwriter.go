// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	logRoom = 128 << 10   // some 1000 lines wait at most
	logEnd  = time.Second // is waited for the reader at the end
)

// LogWriter passes lines on to where a write may hang: to a pipe that nobody reads. Who logs never waits
// for that: lines for which there is no room are dropped, and counted, which is told once lines flow again.
type LogWriter struct {
	to   io.Writer
	own  slog.Handler  // writes to it as well: for what the LogWriter has to say
	wake chan struct{} // of one place: there are lines, or it ends
	done chan struct{} // closed when Run returns

	mu      sync.Mutex // guards what follows; never held over a write
	lines   []byte
	dropped int // and not told of yet
	ending  bool
}

// NewLogWriter returns a writer whose lines wait until Run passes them on.
func NewLogWriter(to io.Writer, own slog.Handler) *LogWriter {
	return &LogWriter{to: to, own: own, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Write takes one line, whole or not at all. It has no error: nobody could be told.
func (l *LogWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines)+len(line) > logRoom {
		l.dropped++
	} else {
		l.lines = append(l.lines, line...)
	}
	l.rouse()
	return len(line), nil
}

func (l *LogWriter) rouse() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Run passes lines on as they come, until Close.
func (l *LogWriter) Run() {
	defer close(l.done)
	for ended := false; !ended; {
		<-l.wake
		ended = l.pass()
	}
}

// pass passes on what is there by now: line by line, as other processes may write to the same pipe.
func (l *LogWriter) pass() (ended bool) {
	l.mu.Lock()
	lines, dropped, ended := l.lines, l.dropped, l.ending
	l.lines, l.dropped = nil, 0
	l.mu.Unlock()
	for line := range bytes.Lines(lines) {
		if _, err := l.to.Write(line); err != nil {
			dropped++
		}
	}
	if dropped > 0 && l.tell(dropped) != nil {
		l.mu.Lock()
		l.dropped += dropped
		l.mu.Unlock()
	}
	return ended
}

// tell is one line of its own, whatever the log's level.
func (l *LogWriter) tell(dropped int) error {
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "the log was not read for a while: lines are missing", 0)
	r.AddAttrs(slog.Int("lines_dropped", dropped))
	return l.own.Handle(context.Background(), r)
}

// Close ends Run when all lines are passed on, or leaves it behind where nobody reads them.
func (l *LogWriter) Close() {
	l.mu.Lock()
	l.ending = true
	l.mu.Unlock()
	l.rouse()
	select {
	case <-l.done:
	case <-time.After(logEnd):
	}
}
