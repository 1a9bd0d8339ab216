// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
)

// store keeps what must survive a reboot: the promises by which no generation is
// ever used twice.
type store struct {
	path    string
	cluster string
	node    string
	saved   core.Saved // as read at the start
}

// stateFile is what is on disk: the sum covers the body's bytes as they stand.
type stateFile struct {
	Sum  string          `json:"sha256"`
	Body json.RawMessage `json:"state"`
}

type stateBody struct {
	Version int        `json:"version"`
	Cluster string     `json:"cluster"`
	Node    string     `json:"node"`
	Saved   core.Saved `json:"saved"`
}

const stateVersion = 1

func openStore(dir string, cfg *config.Config) (*store, error) {
	s := &store{path: filepath.Join(dir, "state.json"), cluster: cfg.Cluster, node: cfg.Nodes[cfg.Self].Name}
	if err := checkWritable(dir); err != nil {
		return nil, err
	}
	if err := removeUnfinished(dir); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.saved.Generations = map[string]uint64{}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	refuse := func(why string) (*store, error) {
		return nil, fmt.Errorf("read state %s: %s: restore it from a backup; or, if the other node runs and owns everything, remove it: this node then learns the generations from there", s.path, why)
	}
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return refuse("it is damaged (" + err.Error() + ")")
	}
	if f.Sum != sum(f.Body) {
		return refuse("it is damaged (its checksum is wrong)")
	}
	var body stateBody
	if err := json.Unmarshal(f.Body, &body); err != nil {
		return refuse("it is damaged (" + err.Error() + ")")
	}
	switch {
	case body.Version != stateVersion:
		return nil, fmt.Errorf("read state %s: it is of version %d, this xdpha knows %d: run the xdpha that wrote it, or a newer one", s.path, body.Version, stateVersion)
	case body.Cluster != s.cluster || body.Node != s.node:
		return nil, fmt.Errorf("read state %s: it belongs to node %s of cluster %s, not to %s of %s: give this node a --state-dir of its own",
			s.path, body.Node, body.Cluster, s.node, s.cluster)
	}
	s.saved = body.Saved
	if s.saved.Generations == nil {
		s.saved.Generations = map[string]uint64{}
	}
	return s, nil
}

// checkWritable refuses a directory in which no promise can ever be kept. A full one may have
// space again: until then nothing new is armed.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, unfinished)
	switch {
	case err == nil:
		return errors.Join(f.Close(), os.Remove(f.Name()))
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("write state: %w: what this node promises must outlive a reboot: look why the file system is read-only ('dmesg'), then 'mount -o remount,rw' it, or give a --state-dir elsewhere", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("write state: %w: what this node promises must outlive a reboot: let the daemon's user own %s", err, dir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return nil
	}
	return fmt.Errorf("write state: %w", err)
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// save writes the state so that a crash at any instant leaves the old or the new one.
func (s *store) save(v core.Saved) (err error) {
	body, err := json.Marshal(stateBody{stateVersion, s.cluster, s.node, v})
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	b, err := json.Marshal(stateFile{sum(body), body})
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), unfinished)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := s.replace(f, b); err != nil {
		return fmt.Errorf("save state: %w", errors.Join(err, f.Close()))
	}
	return f.Close()
}

// replace puts the file with its new content in the state's place, or removes it.
func (s *store) replace(f *os.File, content []byte) error {
	_, err := f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(s.path))
}

// unfinished is the name of a state that is being written.
const unfinished = "state.*.tmp"

// removeUnfinished removes what processes left that were killed while they wrote.
func removeUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil {
		return fmt.Errorf("look for unfinished states: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove unfinished state: %w", err)
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
