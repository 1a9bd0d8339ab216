// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/core"
)

// journalBytes bounds each of the two files that the journal consists of.
const journalBytes = 16 << 20

// journal keeps the core's inputs, one JSON object a line, in two files of bounded
// size. It is lost work, not lost safety, if a write fails.
type journal struct {
	path string
	f    *os.File
	w    *bufio.Writer
	size int64
	err  error // the first; nothing is written after it
	told bool  // flush returned it
}

type journalEntry struct {
	AtNS  int64      `json:"at_ns"` // CLOCK_BOOTTIME
	Kind  string     `json:"kind"`
	Event core.Event `json:"event"`
}

func openJournal(path string) (*journal, error) {
	j := &journal{path: path}
	return j, j.open()
}

func (j *journal) open() error {
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open journal: %w", err), f.Close())
	}
	j.f, j.w, j.size = f, bufio.NewWriter(f), st.Size()
	return j.endLine()
}

// endLine ends a line that a killed process left half, so that the next is whole.
func (j *journal) endLine() error {
	if j.size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := j.f.ReadAt(last[:], j.size-1); err != nil {
		return errors.Join(fmt.Errorf("read end of journal: %w", err), j.f.Close())
	}
	if last[0] == '\n' {
		return nil
	}
	j.size++
	return j.w.WriteByte('\n')
}

// write adds an input; it is on its way to the disk when the loop idles (flush).
func (j *journal) write(at int64, ev core.Event) {
	if j.err != nil {
		return
	}
	b, err := json.Marshal(journalEntry{at, strings.TrimPrefix(fmt.Sprintf("%T", ev), "core."), ev})
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
		return
	}
	if j.size > journalBytes {
		if j.err = j.rotate(); j.err != nil {
			return
		}
	}
	n, err := j.w.Write(append(b, '\n'))
	j.size += int64(n)
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
	}
}

func (j *journal) rotate() error {
	if err := errors.Join(j.w.Flush(), j.f.Close()); err != nil {
		return fmt.Errorf("rotate journal: %w", err)
	}
	if err := os.Rename(j.path, j.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate journal: %w", err)
	}
	return j.open()
}

// flush hands what was written to the kernel. It returns the journal's error once.
func (j *journal) flush() error {
	if j.err == nil {
		if err := j.w.Flush(); err != nil {
			j.err = fmt.Errorf("write journal: %w", err)
		}
	}
	if j.err == nil || j.told {
		return nil
	}
	j.told = true
	return j.err
}

func (j *journal) Close() error { return errors.Join(j.flush(), j.f.Close()) }

// flushEvery is how long an input may stay in this process's memory.
const flushEvery = time.Second
