// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// checkOnce looks at the starts since it was asked last that found their service running on the other node.
func (s *scene) checkOnce(r *Round) {
	path := filepath.Join(s.locks(), "violations")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := errors.Join(err, os.Remove(path)); err != nil {
		r.wrong("read what was started twice: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			r.wrong("read what was started twice: %q", line)
			continue
		}
		r.wrong("%s was started on %s while it ran on %s", f[0], f[1], f[2])
	}
}

// judge is who looks at the switches for two nodes that use one identity's MAC.
type judge struct {
	s      *scene
	cancel context.CancelFunc
	done   chan error
	trail  []lab.JudgeRecord
}

const trailEvery = 200 * time.Millisecond // the trail has room for seconds

func (s *scene) judge(ctx context.Context) (*judge, error) {
	if _, err := s.JudgeTrail(); err != nil { // of the time before
		return nil, err
	}
	if err := s.Judge(true); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	j := &judge{s: s, cancel: cancel, done: make(chan error, 1)}
	go func() {
		for pair.Pause(ctx, trailEvery) == nil {
			if err := j.read(); err != nil {
				j.done <- err
				return
			}
		}
		j.done <- j.read()
	}()
	return j, nil
}

func (j *judge) read() error {
	frames, err := j.s.JudgeTrail()
	j.trail = append(j.trail, frames...)
	return err
}

// end tells what it saw.
func (j *judge) end(r *Round) error {
	j.cancel()
	if err := errors.Join(<-j.done, j.s.Judge(false)); err != nil {
		return fmt.Errorf("judge at the switches: %w", err)
	}
	for i, id := range lab.Identities {
		if n := lab.Overlap(j.trail, i); n > 0 {
			r.wrong("the switches saw %d frames with the MAC of %s from a node after the other one had taken over", n, id.Name)
		}
	}
	return nil
}
