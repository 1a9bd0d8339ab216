// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// gate is a reader of a log: who writes to it waits until it is opened, and fails while it is broken.
type gate struct {
	open   chan struct{}
	waits  chan struct{} // of one place, or nil: somebody is there
	broken func() bool
	to     io.Writer
}

func (g *gate) Write(b []byte) (int, error) {
	select {
	case g.waits <- struct{}{}:
	default:
	}
	<-g.open
	if g.broken != nil && g.broken() {
		return 0, os.ErrClosed
	}
	return g.to.Write(b)
}

// logTo is a log through a LogWriter, and what was written to the end of it, line by line.
func logTo(t *testing.T, g *gate) (*slog.Logger, *LogWriter, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	g.to = w
	own := slog.NewTextHandler(g, nil)
	l := NewLogWriter(g, own)
	go l.Run()
	return slog.New(slog.NewTextHandler(l, nil)), l, bufio.NewReader(r)
}

func nextHas(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil || !strings.Contains(line, want) {
		t.Fatalf("%q (%v), and not %q", line, err, want)
	}
}

func TestALogThatNobodyReadsHoldsUpNobody(t *testing.T) {
	g := &gate{open: make(chan struct{}), waits: make(chan struct{}, 1)}
	log, l, r := logTo(t, g)
	log.Info("a line", "number", "0;")
	<-g.waits // with the first line: none of the others is taken before the gate opens
	count := 1
	for ; l.missing() < 7; count++ { // each would wait for ever
		log.Info("a line", "number", fmt.Sprintf("%d;", count), "filler", strings.Repeat("x", 100))
	}
	close(g.open)
	for i := range count - 7 {
		nextHas(t, r, fmt.Sprintf(`number=%d;`, i))
	}
	nextHas(t, r, "lines_dropped=7")
	log.Info("it flows again")
	nextHas(t, r, "it flows again")
}

// missing is how many lines are dropped and not told of.
func (l *LogWriter) missing() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

func TestALogWhoseReaderIsGoneTellsTheNextOne(t *testing.T) {
	broken := true
	g := &gate{open: make(chan struct{}, 100), broken: func() bool { return broken }}
	log, l, r := logTo(t, g)
	log.Info("one that is lost")
	g.open <- struct{}{}
	g.open <- struct{}{} // to tell of it fails, too
	for limit := time.Now().Add(30 * time.Second); l.missing() != 1; {
		if time.Now().After(limit) {
			t.Fatalf("%d lines are missing", l.missing())
		}
		time.Sleep(time.Millisecond)
	}
	broken = false // nobody writes meanwhile: the gate is shut
	close(g.open)
	log.Info("one that is not")
	nextHas(t, r, "one that is not")
	nextHas(t, r, "lines_dropped=1")
}

func TestALogIsWrittenToItsEnd(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	log, l, r := logTo(t, g)
	log.Info("the first")
	log.Info("the last")
	l.Close() // returns although nobody reads
	close(g.open)
	nextHas(t, r, "the first")
	nextHas(t, r, "the last")
	<-l.done // it has ended
}
