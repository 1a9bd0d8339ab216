// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

const (
	// flushEvery is how long an input may stay in this process's memory.
	flushEvery = time.Second
	// enough is written without waiting for that.
	enough = 4 << 10
	// waitsAtMost is what may wait for a disk: some 20,000 inputs, or the largest state four times.
	waitsAtMost = 4 * maxLine
	// endTime bounds the wait at the end for a disk that may never take anything again.
	endTime = time.Second
)

// disk is the journal's files, and what waits to be written to them. One goroutine does all work on
// files: nobody else waits for a write that hangs, and no lock is held over one.
type disk struct {
	path    string
	f       *os.File // the goroutine's
	endTime time.Duration
	failed  chan error    // of one place: the first error, after which nothing more is taken
	wake    chan struct{} // of one place: enough waits, or the end
	done    chan struct{} // closed at the goroutine's end

	mu     sync.Mutex // guards what follows
	queue  []part
	waits  int   // bytes that are not in the files yet: in the queue, or on their way
	err    error // the first: nothing more is taken
	ending bool  // nothing more is taken
}

// part is some lines of one file.
type part struct {
	lines []byte
	anew  bool // they begin a file: the one before it is full
}

func newDisk(path string, f *os.File) *disk {
	return &disk{path: path, f: f, endTime: endTime, failed: make(chan error, 1), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// takes reports whether there is any use in giving it a line.
func (d *disk) takes() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err == nil && !d.ending
}

// put takes a line. The journal ends at the first one for which there is no room: what follows a gap
// could not be played. What waits is still written, should the disk come back.
func (d *disk) put(p part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch last := len(d.queue) - 1; {
	case d.err != nil || d.ending:
		return
	case d.waits+len(p.lines) > waitsAtMost:
		d.failLocked(fmt.Errorf("write journal: %s: the disk hangs or is too slow: %d bytes wait for it, and no more may: look for it in 'dmesg'", d.path, d.waits))
		return
	case last >= 0 && !p.anew:
		d.queue[last].lines = append(d.queue[last].lines, p.lines...)
	default:
		d.queue = append(d.queue, p)
	}
	if d.waits += len(p.lines); d.waits >= enough {
		d.rouse()
	}
}

func (d *disk) rouse() {
	select {
	case d.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// fail ends the journal. Only the first error is told.
func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failLocked(err)
}

func (d *disk) failLocked(err error) {
	if d.err == nil {
		d.err = err
		d.failed <- err
	}
}

// run writes what waits, each second or when it is enough, until the end.
func (d *disk) run() {
	defer close(d.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-d.wake:
		case <-tick.C:
		}
		ended = d.writeAll()
	}
	if err := d.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) { // by a rotation that failed
		d.fail(fmt.Errorf("close journal: %w", err))
	}
}

// writeAll writes what waits by now. Nothing is written after what could not be.
func (d *disk) writeAll() (ended bool) {
	d.mu.Lock()
	parts := d.queue
	d.queue, ended = nil, d.ending
	d.mu.Unlock()
	for _, p := range parts {
		err := d.write(p)
		d.mu.Lock()
		d.waits -= len(p.lines)
		if err != nil {
			d.failLocked(err)
			d.queue = nil
		}
		d.mu.Unlock()
		if err != nil {
			break
		}
	}
	return ended
}

func (d *disk) write(p part) error {
	if p.anew {
		if err := d.rotate(); err != nil {
			return fmt.Errorf("rotate journal: %w", err)
		}
	}
	if _, err := d.f.Write(p.lines); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// rotate begins a new file, and lets go of the one before the full one.
func (d *disk) rotate() error {
	if err := d.f.Close(); err != nil {
		return err
	}
	if err := os.Rename(d.path, d.path+Full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, _, err := openFile(d.path)
	if err == nil {
		d.f = f
	}
	return err
}

// end waits until all is written, or for as long as a disk may take at the end.
func (d *disk) end() {
	d.mu.Lock()
	d.ending = true
	d.mu.Unlock()
	d.rouse()
	select {
	case <-d.done:
	case <-time.After(d.endTime):
		d.fail(fmt.Errorf("close journal: %s: the disk has not taken the last entries within %v: look for it in 'dmesg'", d.path, d.endTime))
	}
}

// openFile opens a file to append to, and ends it with its last whole line.
func openFile(path string) (f *os.File, size int64, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if size, err = cutTail(f); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// cutTail ends a file with its last whole line. Without one in the longest line's length it is
// no journal: it is left as it is, and made to end a line.
func cutTail(f *os.File) (size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size = st.Size()
	tail := make([]byte, min(size, maxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	switch {
	case end == len(tail):
		return size, nil
	case end == 0 && size > maxLine:
		_, err := f.Write([]byte{'\n'})
		return size + 1, err
	}
	size -= int64(len(tail) - end)
	return size, f.Truncate(size)
}
