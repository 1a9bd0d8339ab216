// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/xdpha/xdpha/pkg/core"
)

// Name is the file in the state directory that is written; Name + Full the one before it.
const (
	Name = "journal"
	Full = ".1"
)

// FileBytes is the size at which a file is full. It is passed by at most one entry.
const FileBytes = 16 << 20

// Writer steps a core and keeps what it was given. It is lost work, not lost safety, if a write
// fails: the core is stepped all the same.
type Writer struct {
	path string
	f    *os.File
	w    *bufio.Writer
	size int64
	full int64 // size at which the file is full
	err  error // the first; nothing is written after it
	told bool  // Flush returned it

	start   Start
	machine *core.Machine
	lastNS  int64
}

// Open opens the journal for writing, and cuts off what a killed process left half written.
func Open(path string) (*Writer, error) {
	j := &Writer{path: path, full: FileBytes}
	return j, j.open()
}

func (j *Writer) open() error {
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	j.f, j.w = f, bufio.NewWriter(f)
	if err := j.cutTail(); err != nil {
		return errors.Join(fmt.Errorf("open journal: %w", err), f.Close())
	}
	return nil
}

// cutTail ends the file with its last whole line. Without one in the longest line's length it is
// no journal: it is left as it is, and made to end a line.
func (j *Writer) cutTail() error {
	st, err := j.f.Stat()
	if err != nil {
		return err
	}
	j.size = st.Size()
	tail := make([]byte, min(j.size, maxLine))
	if _, err := j.f.ReadAt(tail, j.size-int64(len(tail))); err != nil {
		return err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	switch {
	case end == len(tail):
		return nil
	case end == 0 && j.size > maxLine:
		j.size++
		return j.w.WriteByte('\n')
	}
	j.size -= int64(len(tail) - end)
	return j.f.Truncate(j.size)
}

// Begin writes the start of a daemon, whose core was made of it.
func (j *Writer) Begin(s Start, m *core.Machine) {
	s.Format = Format
	j.start, j.machine, j.lastNS = s, m, 0
	line, err := startLine(s, nil)
	j.write(line, err)
}

// Step gives the core one event and keeps both that and the sum of what was decided. Should the
// core panic, the event is on its way to the disk.
func (j *Writer) Step(at int64, ev core.Event) (actions []core.Action) {
	at = max(at, j.lastNS) // which is what the core takes it for
	j.lastNS = at
	in := Input{AtNS: at, Event: ev, Died: true}
	defer func() {
		if in.Died {
			j.keep(in)
			_ = j.Flush() // the panic is what is told
		}
	}()
	_, isTick := ev.(core.Tick)
	var before core.State
	if isTick {
		before = j.machine.State()
	}
	actions = j.machine.Step(at, ev)
	in.Died = false
	if isTick && len(actions) == 0 && sameButNow(before, j.machine.State()) {
		return nil
	}
	in.Decided = decided(j.start.Config, actions)
	j.keep(in)
	j.rotateIfFull()
	return actions
}

func sameButNow(a, b core.State) bool {
	a.Now, b.Now = 0, 0
	return reflect.DeepEqual(a, b)
}

func (j *Writer) keep(in Input) {
	if j.err != nil {
		return
	}
	j.write(inputLine(in))
}

func (j *Writer) write(line []byte, err error) {
	if j.err == nil && err == nil && len(line) > maxLine {
		err = fmt.Errorf("an entry has %d bytes, more than a line may", len(line))
	}
	if j.err == nil && err == nil {
		_, err = j.w.Write(line)
		j.size += int64(len(line))
	}
	j.fail("write", err)
}

func (j *Writer) fail(verb string, err error) {
	if j.err == nil && err != nil {
		j.err = fmt.Errorf("%s journal: %w", verb, err)
	}
}

// rotateIfFull begins a new file with the core's state, and lets go of the file before the full one.
func (j *Writer) rotateIfFull() {
	if j.err != nil || j.size < j.full {
		return
	}
	if err := errors.Join(j.w.Flush(), j.f.Close()); err != nil {
		j.fail("rotate", err)
		return
	}
	if err := os.Rename(j.path, j.path+Full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.fail("rotate", err)
		return
	}
	if err := j.open(); err != nil {
		j.fail("rotate", err)
		return
	}
	state := j.machine.State()
	line, err := startLine(j.start, &state)
	j.write(line, err)
}

// Flush hands what was written to the kernel. It returns the journal's error once.
func (j *Writer) Flush() error {
	if j.err == nil {
		j.fail("write", j.w.Flush())
	}
	if j.err == nil || j.told {
		return nil
	}
	j.told = true
	return j.err
}

// Close ends it.
func (j *Writer) Close() error {
	err := j.Flush()
	if closed := j.f.Close(); !errors.Is(closed, os.ErrClosed) { // by a rotation that failed
		err = errors.Join(err, closed)
	}
	return err
}
