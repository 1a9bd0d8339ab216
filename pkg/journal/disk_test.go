// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/core"
)

// patience bounds what must happen; a shared machine takes its time.
const patience = 30 * time.Second

// within fails the test if f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal(what + " waits for the disk")
	}
}

// hungDisk is a file at path of which a write hangs, until the returned end of it is read.
func hungDisk(t *testing.T, path string) *os.File {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDWR, 0) // for reading alone it would wait for a writer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// awaken reads what the journal has for the disk, which has hung: all until it closes the file.
func awaken(t *testing.T, path string, r *os.File) []byte {
	t.Helper()
	only, err := os.Open(path) // r would keep the end from coming
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	r.Close()
	if err := only.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(only)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// playedOf is a replay of what was written to one file after the other.
func playedOf(t *testing.T, files ...[]byte) (transcript string, wrong []string) {
	t.Helper()
	p := player{show: func(at Played) error {
		for _, l := range at.Head {
			transcript += l + "\n"
		}
		if at.Text != "" {
			transcript += at.Text + "\n"
		}
		for _, l := range at.Lines {
			transcript += "\t" + l + "\n"
		}
		if at.Wrong+at.Note != "" {
			wrong = append(wrong, at.Wrong+at.Note)
		}
		return nil
	}}
	for _, b := range files {
		if err := p.play("written", bytes.NewReader(b), true); err != nil {
			t.Fatal(err)
		}
	}
	return transcript, wrong
}

func TestADiskThatHangsHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), Name)
	r := hungDisk(t, path)
	j := opened(t, path)
	j.disk.endTime = 10 * time.Millisecond
	long := core.Failed{Op: 1, Err: strings.Repeat("x", 40<<10)}
	events, failure := []core.Event{core.Started{}}, error(nil)
	within(t, "a step", func() {
		j.Step(10, core.Started{})
		for at := int64(11); failure == nil && at < 1000; at++ {
			j.Step(at, long)
			events = append(events, long)
			select {
			case failure = <-j.Failed():
			default:
			}
		}
	})
	if failure == nil || !strings.Contains(failure.Error(), "the disk hangs or is too slow") || !strings.Contains(failure.Error(), path) {
		t.Fatalf("after %d events: %v", len(events), failure)
	}
	within(t, "the end", func() {
		if len(j.Step(2000, core.CmdGiveback{Op: 1})) == 0 {
			t.Error("the core is not stepped any more")
		}
		if err := j.Close(); err != nil {
			t.Errorf("it is told again: %v", err)
		}
	})

	// What waited is written, should the disk come back: all but the last event.
	other := opened(t, filepath.Join(t.TempDir(), Name))
	want := live(other, events[:len(events)-1])
	closed(t, other)
	got, wrong := playedOf(t, awaken(t, path, r))
	if got != want || len(wrong) > 0 {
		t.Errorf("%d bytes are played, and not %d; wrong: %q", len(got), len(want), wrong)
	}
}

func TestADiskThatHangsAtTheEndIsToldAndLeft(t *testing.T) {
	kinds["strangeEvent"] = kindsOf(strangeEvent{})["strangeEvent"]
	t.Cleanup(func() { delete(kinds, "strangeEvent") })
	for name, end := range map[string]func(*Writer){
		"closed": func(*Writer) {},
		"dying": func(j *Writer) {
			defer func() { _ = recover() }()
			j.Step(20, strangeEvent{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), Name)
			fill(t, hungDisk(t, path))
			j := opened(t, path)
			j.disk.endTime = 10 * time.Millisecond
			within(t, "the end", func() {
				live(j, takeover)
				end(j)
				if err := j.Close(); err == nil || !strings.Contains(err.Error(), "has not taken the last entries") {
					t.Errorf("it ends with %v", err)
				}
			})
		})
	}
}

// fill leaves no room in a FIFO.
func fill(t *testing.T, f *os.File) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	taken, full := 0, error(nil)
	err = raw.Write(func(fd uintptr) bool {
		for full == nil {
			var n int
			n, full = unix.Write(int(fd), make([]byte, 64<<10)) // package os has it not block
			taken += max(n, 0)
		}
		return true
	})
	if err != nil || taken <= 0 || !errors.Is(full, unix.EAGAIN) {
		t.Fatalf("a FIFO took %d bytes: %v, %v", taken, full, err)
	}
}

// A file that is full while the disk hangs is followed by one that begins with the state at that event.
func TestAFileIsFullWhileTheDiskHangs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	r := hungDisk(t, path)
	j := opened(t, path)
	j.full = 300 << 10 // more than a FIFO takes
	var events []core.Event
	for range 20 {
		events = append(events, takeover...)
		events = append(events, core.Failed{Op: 2, Err: strings.Repeat("x", 20<<10)})
	}
	var want string
	within(t, "a step", func() { want = live(j, events) })
	first := awaken(t, path, r)
	closed(t, j)
	second, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(first)) < j.full || !bytes.HasPrefix(second[9:], []byte(`{"start":`)) {
		t.Errorf("the first file has %d bytes; the second one begins with %.20q", len(first), second)
	}
	got, wrong := playedOf(t, first, second)
	head := "node serv1"
	if len(wrong) > 0 || strings.Count(got, head) != 2 {
		t.Fatalf("wrong: %q\n%.2000s", wrong, got)
	}
	again := strings.LastIndex(got, head)
	if rest := got[again:]; !strings.HasSuffix(want, rest[strings.Index(rest, "\n@")+1:]) || !strings.HasPrefix(want, got[:again]) {
		t.Errorf("played otherwise than live")
	}
}
