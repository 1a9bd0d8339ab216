// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// memory is what a node must know of its sets after a reboot.
type memory struct {
	path string

	writing sync.Mutex // one change at a time, with its way to the disk
	unsaved bool       // what is on disk is older

	mu   sync.Mutex // guards sets, and is never held over the disk: the daemon's loop reads them
	sets map[string]remembered
}

// remembered is what is known of one set.
type remembered struct {
	// Generation is the highest one that was ever seen: nothing below it is written.
	Generation uint64 `json:"generation"`
	// Past is that of the data here: in its last term this node owned it, or had a complete copy of its owner's.
	Past  past                 `json:"past,omitempty"`
	Paths map[string]directory `json:"paths,omitempty"`
}

// directory is what a path was when all of it had been copied.
type directory struct {
	FS     string `json:"fs"` // see fileSystem
	Filled bool   `json:"filled"`
}

// memoryFile is what is on disk: the sum covers the sets' bytes as they stand.
type memoryFile struct {
	Sum  string          `json:"sha256"`
	Sets json.RawMessage `json:"sets"`
}

func openMemory(dir string) (*memory, error) {
	m := &memory{path: filepath.Join(dir, "mirrors.json"), sets: map[string]remembered{}}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is known of mirrors: %w", err)
	}
	var f memoryFile
	err = json.Unmarshal(b, &f)
	if err == nil && f.Sum != checksum(f.Sets) {
		err = errors.New("its checksum is wrong")
	}
	if err == nil {
		err = json.Unmarshal(f.Sets, &m.sets)
	}
	if err != nil {
		return nil, fmt.Errorf("read what is known of mirrors: %s is damaged (%w): restore it from a backup; or, if the other node runs and owns everything, remove it: this node then learns the generations from there", m.path, err)
	}
	return m, nil
}

func checksum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// of is what is known of a set; nobody changes what it holds.
func (m *memory) of(set string) remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sets[set]
}

func (m *memory) generation(set string) uint64 { return m.of(set).Generation }

func (m *memory) directory(set, path string) (directory, bool) {
	d, known := m.of(set).Paths[path]
	return d, known
}

// raise notes a generation. When it returns without an error, no crash makes it forgotten; with one
// it is in force until the daemon ends.
func (m *memory) raise(set string, generation uint64) error {
	return m.change(set, func(r *remembered) bool {
		if generation <= r.Generation {
			return false
		}
		r.Generation = generation
		return true
	})
}

// own notes that this node owns the data at a generation: it goes on from what it has.
func (m *memory) own(set string, generation uint64) error {
	return m.change(set, func(r *remembered) bool {
		if r.Past.last().Generation == generation {
			return false
		}
		r.Past = r.Past.begin(generation)
		return true
	})
}

// alone notes that what this node owns at a generation is written from here on while the other one is away.
func (m *memory) alone(set string, generation uint64) error {
	return m.change(set, func(r *remembered) bool {
		if r.Past.last().Generation != generation {
			return false
		}
		r.Past = r.Past.begin(generation)
		return true
	})
}

// gave notes that the other node has all that was written in a term.
func (m *memory) gave(set string, t term) error {
	return m.change(set, func(r *remembered) bool {
		if i := slices.IndexFunc(r.Past, t.is); i < 0 || r.Past[i].Both {
			return false
		}
		r.Past = r.Past.shared(t)
		return true
	})
}

// got notes a complete copy of the owner's data, with its past, unless a later owner is known by now:
// until a copy was on the disk this node may have become it.
func (m *memory) got(set string, p past) error {
	generation := p.last().Generation
	late := false
	err := m.change(set, func(r *remembered) bool {
		late = generation < r.Generation
		if late || r.Past.last().is(p.last()) {
			return false
		}
		r.Past = p.shared(p.last())
		return true
	})
	if late {
		return stale("the copy was on the disk too late", m.generation(set))
	}
	return err
}

// note notes what a path is.
func (m *memory) note(set, path string, d directory) error {
	return m.change(set, func(r *remembered) bool {
		if known, ok := r.Paths[path]; ok && known == d {
			return false
		}
		r.Paths = maps.Clone(r.Paths)
		if r.Paths == nil {
			r.Paths = map[string]directory{}
		}
		r.Paths[path] = d
		return true
	})
}

// change makes a change, if there is one, known at once, and writes it, if it or an earlier one is not on disk.
func (m *memory) change(set string, f func(*remembered) bool) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	r := m.of(set)
	if f(&r) {
		m.mu.Lock()
		m.sets[set] = r
		m.mu.Unlock()
	} else if !m.unsaved {
		return nil
	}
	err := m.write()
	m.unsaved = err != nil
	return err
}

// past is that of the data here; nobody changes what it holds.
func (m *memory) past(set string) past { return m.of(set).Past }

// whole is the generation that the data here is all of.
func (m *memory) whole(set string) uint64 { return m.past(set).last().Generation }

// write writes it so that a crash at any instant leaves the old or the new one. Only who holds writing
// changes the sets, so they stand still.
func (m *memory) write() (err error) {
	fail := func(err error) error { return fmt.Errorf("write what is known of mirrors: %w", err) }
	sets, err := json.Marshal(m.sets)
	if err != nil {
		return fail(err)
	}
	b, err := json.Marshal(memoryFile{checksum(sets), sets})
	if err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(m.path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return fail(err)
	}
	dir, err := os.Open(filepath.Dir(m.path))
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fail(err)
	}
	return nil
}
