// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/xdpha/xdpha/pkg/core"
)

// Played is one entry of a journal, and what became of it.
type Played struct {
	File string
	Line int

	Start   *Start // a daemon's start, or with Resumed what a file goes on from
	Resumed bool
	Head    []string // the start as lines of a transcript

	Input   *Input
	Text    string // the input as a line of a transcript
	Actions []core.Action
	Lines   []string // the actions as such lines

	// Wrong is what is not as it should be: damage, or another decision than the one that was
	// recorded. Note is what may be so: an entry that is being written.
	Wrong, Note string
}

// Replay plays a journal: a file, or a state directory's two. It calls show for every entry.
func Replay(path string, show func(Played) error) error {
	files, err := openAll(path)
	if err != nil {
		return err
	}
	defer func() {
		_ = closeAll(files...) // they were only read
	}()
	p := player{show: show}
	for i, f := range files {
		if err := p.play(f.Name(), f, i == len(files)-1); err != nil {
			return err
		}
	}
	return nil
}

// openAll opens what belongs to a journal, the oldest first.
func openAll(path string) ([]*os.File, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read journal: %w", err)
	case st.IsDir():
		return openDir(path)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("read journal: %s is no file and no directory", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return []*os.File{f}, nil
}

// openDir opens a state directory's files. Should the daemon begin a new one meanwhile, it looks again.
func openDir(dir string) ([]*os.File, error) {
	path := filepath.Join(dir, Name)
	for {
		newest, err := openIfThere(path)
		if err != nil {
			return nil, err
		}
		full, err := openIfThere(path + Full)
		if err != nil {
			return nil, errors.Join(err, closeAll(newest))
		}
		if newest == nil || !sameFile(newest, full) {
			files := there(full, newest)
			if len(files) == 0 {
				return nil, fmt.Errorf("read journal: %s has none: no daemon with this state directory has run", dir)
			}
			return files, nil
		}
		if err := closeAll(newest, full); err != nil {
			return nil, err
		}
	}
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return f, nil
}

// there are the files that exist.
func there(files ...*os.File) []*os.File {
	return slices.DeleteFunc(files, func(f *os.File) bool { return f == nil })
}

func closeAll(files ...*os.File) (err error) {
	for _, f := range there(files...) {
		err = errors.Join(err, f.Close())
	}
	return err
}

func sameFile(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	x, errA := a.Stat()
	y, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// player is a core that is told what a journal says.
type player struct {
	show    func(Played) error
	machine *core.Machine // nil: what follows cannot be played before the next start
	text    *core.Transcript
	cfg     core.Config
	lost    bool // that it cannot be played is told
}

// play plays a file. Of the last one the end may be missing: it is being written, or the daemon was killed.
func (p *player) play(name string, r io.Reader, last bool) error {
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, long, err := readLine(in)
		at := Played{File: name, Line: n}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("read journal: %w", err)
		case err == nil || long:
			if err := p.entry(at, bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
				return err
			}
		case len(line) > 0 && last:
			at.Note = "it is half written: the daemon is at it, or was killed here"
			return p.show(at)
		case len(line) > 0:
			return p.damaged(at, "it is half written")
		}
		if err != nil {
			return nil
		}
	}
}

// readLine reads a line; of one that is longer than any that was written it returns nothing.
func readLine(r *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, long, err
		}
	}
}

// damaged tells of an entry that is no longer what it was, once until the next start.
func (p *player) damaged(at Played, why string) error {
	told := p.lost
	p.machine, p.lost = nil, true
	if told {
		return nil
	}
	at.Wrong = why + "; what follows is not played before the next start"
	return p.show(at)
}

func (p *player) entry(at Played, line []byte) error {
	e, err := parse(line)
	switch {
	case err != nil:
		return p.damaged(at, err.Error())
	case e.Start != nil:
		return p.begin(at, e)
	case p.machine == nil:
		return p.damaged(at, "no start is before it")
	}
	at.Input = e.Input
	if err := safely(func() { p.step(&at) }); err != nil {
		at.Actions, at.Lines = nil, nil
		return p.damaged(at, "the core cannot take it: "+err.Error())
	}
	return p.show(at)
}

// safely turns a panic of the core's into an error.
func safely(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	f()
	return nil
}

func (p *player) begin(at Played, e entry) error {
	at.Start, at.Resumed = e.Start, e.State != nil
	p.cfg, p.text = e.Start.Config, core.NewTranscript(e.Start.Config)
	at.Head = p.text.Head(e.Start.Saved)
	if e.State == nil {
		p.machine, p.lost = core.New(p.cfg, e.Start.Saved), false
		return p.show(at)
	}
	m, err := core.Restore(p.cfg, *e.State)
	if err != nil {
		at.Start, at.Head = nil, nil
		return p.damaged(at, err.Error())
	}
	if p.machine != nil && !p.sameState(m) {
		at.Wrong = "the core that wrote this had come to another state than this build's"
	}
	p.machine, p.lost, p.text = m, false, core.ResumeTranscript(p.cfg, *e.State)
	return p.show(at)
}

// sameState compares all but the clock, which goes on with ticks that are not kept.
func (p *player) sameState(m *core.Machine) bool {
	a, b := p.machine.State(), m.State()
	a.Now, b.Now = 0, 0
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

func (p *player) step(at *Played) {
	in := at.Input
	at.Text = p.text.Event(in.AtNS, in.Event)
	at.Actions = p.machine.Step(in.AtNS, in.Event)
	for _, a := range at.Actions {
		at.Lines = append(at.Lines, p.text.Action(a))
	}
	switch {
	case in.Died:
		at.Wrong = "the build that wrote this died of it, this one does not"
	case in.Decided != decided(p.cfg, at.Actions):
		at.Wrong = "the build that wrote this decided otherwise"
	}
}
