// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
)

// TestALogThatNobodyReads: the loop logs, and goes on; so does the daemon's end. The reader of a
// daemon's log is another process, which may be stopped, or gone.
func TestALogThatNobodyReads(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	logs := c.readInPlaceOf(t, lab.Serv1)
	for _, n := range c.Nodes {
		must(t, n.Start())
	}
	c.bringHome(t)
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster, *reader)
	}{
		{"what is lost is told when it is read again", lostIsTold},
		{"its reader is gone, and another one comes", readerIsReplaced},
		{"the daemon leaves in order all the same", leavesUnread},
	} {
		if !t.Run(s.name, func(t *testing.T) { s.test(t, c, logs) }) {
			break
		}
	}
}

// reader is the other end of a node's standard error.
type reader struct {
	path string
	end  *os.File
	all  *bufio.Reader
}

// readInPlaceOf makes a pipe of the file to which a node's daemon, not started yet, writes its log.
func (c *cluster) readInPlaceOf(t *testing.T, node string) *reader {
	t.Helper()
	r := &reader{path: c.Node(node).Logs}
	must(t, unix.Mkfifo(r.path, 0o600))
	r.open(t)
	t.Cleanup(func() { // what looks at logs later must not wait for a line
		r.end.Close()
		os.Remove(r.path)
	})
	return r
}

func (r *reader) open(t *testing.T) {
	t.Helper()
	end, err := os.OpenFile(r.path, os.O_RDWR, 0) // for reading alone it would wait for a writer
	must(t, err)
	r.end, r.all = end, bufio.NewReader(end)
}

// fill leaves no room in the pipe for a single byte.
func (r *reader) fill(t *testing.T) {
	t.Helper()
	page := append(make([]byte, os.Getpagesize()-1), '\n') // as large as one of the pipe's buffers
	must(t, r.end.SetWriteDeadline(time.Now().Add(time.Second)))
	for {
		_, err := r.end.Write(page)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		must(t, err)
	}
}

// until reads up to a line that has a text, and returns all lines, that one too.
func (r *reader) until(t *testing.T, text string) (lines []string) {
	t.Helper()
	must(t, r.end.SetReadDeadline(time.Now().Add(patience)))
	for {
		line, err := r.all.ReadString('\n')
		if err != nil {
			t.Fatalf("await %q in the log: %v, after %d lines", text, err, len(lines))
		}
		if lines = append(lines, line); strings.Contains(line, text) {
			return lines
		}
	}
}

func having(lines []string, text string) (count int) {
	for _, l := range lines {
		if strings.Contains(l, text) {
			count++
		}
	}
	return count
}

// reloaded has serv1's loop say something so many times.
func (c *cluster) reloaded(t *testing.T, times int) {
	t.Helper()
	for range times {
		within(t, c.api[lab.Serv1].Reload)
	}
}

func lostIsTold(t *testing.T, c *cluster, logs *reader) {
	const times = 2000 // more lines than may wait
	w := c.watch(t, files, lab.Serv1)
	gen := c.generation(t, lab.Serv1, "files")
	logs.fill(t)
	c.reloaded(t, times)
	must(t, c.settled(atHome))
	if now := c.generation(t, lab.Serv1, "files"); now != gen {
		t.Errorf("the generation was %d and is %d", gen, now)
	}
	w.endLossless()

	lines := logs.until(t, "lines_dropped=")
	var dropped int
	_, number, _ := strings.Cut(lines[len(lines)-1], "lines_dropped=")
	if _, err := fmt.Sscan(number, &dropped); err != nil || dropped == 0 {
		t.Errorf("%d lines were dropped (%v), it says", dropped, err)
	}
	if seen := having(lines, "msg=reloaded"); seen == 0 || seen+dropped < times {
		t.Errorf("of %d lines %d are there, and %d were dropped", times, seen, dropped)
	}
	c.reloaded(t, 1)
	if lines := logs.until(t, "msg=reloaded"); having(lines, "lines_dropped") > 0 {
		t.Errorf("it is told again: %q", lines)
	}
}

func readerIsReplaced(t *testing.T, c *cluster, logs *reader) {
	w := c.watch(t, files, lab.Serv1)
	pid := c.Node(lab.Serv1).PID()
	must(t, logs.end.Close())
	c.reloaded(t, 5)
	must(t, c.settled(atHome))
	logs.open(t)
	c.reloaded(t, 1)
	logs.until(t, "lines_dropped=")
	if now := c.Node(lab.Serv1).PID(); now != pid {
		t.Errorf("the daemon was process %d and is %d", pid, now)
	}
	w.endLossless()
}

func leavesUnread(t *testing.T, c *cluster, logs *reader) {
	logs.fill(t)
	n := c.Node(lab.Serv1)
	must(t, n.Signal(unix.SIGTERM))
	select {
	case <-n.Gone():
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
}
