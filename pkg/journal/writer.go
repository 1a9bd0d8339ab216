// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"fmt"
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

// Writer steps a core and keeps what it was given. Who steps it never waits for a disk. It is lost
// work, not lost safety, if a write fails: the core is stepped all the same.
type Writer struct {
	disk *disk
	size int64 // of the file, when all that waits is in it
	full int64 // size at which the file is full

	start   Start
	machine *core.Machine
	lastNS  int64
}

// Open opens the journal for writing, and cuts off what a killed process left half written. It starts
// the goroutine that writes, which Close ends.
func Open(path string) (*Writer, error) {
	f, size, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	d := newDisk(path, f)
	go d.run()
	return &Writer{disk: d, size: size, full: FileBytes}, nil
}

// Failed gives the error, once, after which nothing more is kept.
func (j *Writer) Failed() <-chan error { return j.disk.failed }

// Begin writes the start of a daemon, whose core was made of it.
func (j *Writer) Begin(s Start, m *core.Machine) {
	s.Format = Format
	j.start, j.machine, j.lastNS = s, m, 0
	line, err := startLine(s, nil)
	j.write(line, err)
}

// Step gives the core one event and keeps both that and the sum of what was decided. Should the
// core panic, the event is on the disk, if that takes it in time: the process is at its end.
func (j *Writer) Step(at int64, ev core.Event) (actions []core.Action) {
	at = max(at, j.lastNS) // which is what the core takes it for
	j.lastNS = at
	in := Input{AtNS: at, Event: ev, Died: true}
	defer func() {
		if in.Died {
			j.write(inputLine(in))
			j.disk.end()
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
	if !j.disk.takes() {
		return actions
	}
	in.Decided = decided(j.start.Config, actions)
	j.write(inputLine(in))
	j.rotateIfFull()
	return actions
}

func sameButNow(a, b core.State) bool {
	a.Now, b.Now = 0, 0
	return reflect.DeepEqual(a, b)
}

func (j *Writer) write(line []byte, err error) { j.put(part{lines: line}, err) }

// rotateIfFull begins a new file with the core's state, as it is between this entry and the next one.
func (j *Writer) rotateIfFull() {
	if j.size < j.full {
		return
	}
	state := j.machine.State()
	line, err := startLine(j.start, &state)
	j.size = 0
	j.put(part{lines: line, anew: true}, err)
}

// put hands one line to the disk.
func (j *Writer) put(p part, err error) {
	if err == nil && len(p.lines) > maxLine {
		err = fmt.Errorf("an entry has %d bytes, more than a line may", len(p.lines))
	}
	if err != nil {
		j.disk.fail(fmt.Errorf("write journal: %w", err))
		return
	}
	j.size += int64(len(p.lines))
	j.disk.put(p)
}

// Close ends it: what waits is written, unless the disk takes longer than a second. It returns an error
// that nobody has taken from Failed.
func (j *Writer) Close() error {
	j.disk.end()
	select {
	case err := <-j.disk.failed:
		return err
	default:
		return nil
	}
}
