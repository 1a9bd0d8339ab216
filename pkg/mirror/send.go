// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/line"
)

// once is one run: each path, then, if all was compared, the word that the copy is complete.
func (s *sender) once(ctx context.Context, k kind, under map[string]map[string]bool) (stats Stats, err error) {
	begin := time.Now()
	s.change(func(v *State) { v.Running, v.Since, v.Progress = true, begin, Progress{} })
	paths, of := map[string]directory{}, s.m.memory.past(s.cfg.Name)
	for _, path := range s.cfg.Paths {
		if k == kindChanges && under[path] == nil {
			continue
		}
		var one Stats
		var d directory
		one, d, err = s.path(ctx, k, path, under[path], of)
		stats.add(one)
		if err != nil {
			break
		}
		paths[path] = d
	}
	if err == nil && k == kindFull {
		if err = s.tellComplete(ctx, begin, of); err == nil {
			err = errors.Join(s.m.memory.gave(s.cfg.Name, of.last()), s.remember(paths))
		}
	}
	stats.Took = time.Since(begin)
	s.ended(ctx, stats, err, k, begin)
	return stats, err
}

// ended notes how a run ended. One that ends with the role has not failed.
func (s *sender) ended(ctx context.Context, stats Stats, err error, k kind, begin time.Time) {
	s.mu.Lock()
	v := &s.state
	was := s.failing
	v.Running, v.Sent = false, v.Sent+stats.Sent
	switch {
	case err == nil:
		v.Runs, v.Error, s.failing = v.Runs+1, "", false
		if k == kindFull {
			s.complete = begin
		}
	case ctx.Err() != nil:
	case isRefused(err, refusedEarly):
		v.Error = err.Error()
	default:
		v.Failures, v.Error, s.failing = v.Failures+1, err.Error(), true
	}
	told := was != s.failing
	s.mu.Unlock()
	if told && s.m.Changed != nil {
		s.m.Changed(s.view())
	}
}

// path copies one path, or the directories below it that changed.
func (s *sender) path(ctx context.Context, k kind, path string, dirs map[string]bool, of past) (stats Stats, d directory, err error) {
	r, accepted, err := s.check(path, true)
	if err != nil {
		return stats, d, err
	}
	defer r.Close()
	d = directory{r.fs, !r.empty}
	var list []byte
	if k == kindChanges {
		if list = filesFrom(r.at(), dirs); len(list) == 0 {
			return stats, d, nil
		}
	}
	conn, err := s.m.call(ctx, hello{
		Kind: k, Set: s.cfg.Name, Path: path, Generation: s.generation, Past: of, Empty: r.empty, Accepted: accepted,
	})
	if err != nil {
		return stats, d, err
	}
	s.change(func(v *State) { v.Link = conn.Link })
	stats, err = s.rsync(ctx, conn, r.at(), k, list)
	return stats, d, err
}

// tellComplete says that all was compared, and waits until it is on the other node's disk.
func (s *sender) tellComplete(ctx context.Context, begin time.Time, of past) error {
	conn, err := s.m.call(ctx, hello{
		Kind: kindComplete, Set: s.cfg.Name, Generation: s.generation, Past: of, AgeNS: int64(time.Since(begin)),
	})
	if err != nil {
		return err
	}
	return conn.Close()
}

// rsync runs the sending rsync in dir, over conn.
func (s *sender) rsync(ctx context.Context, conn *line.Conn, dir string, k kind, list []byte) (Stats, error) {
	defer conn.Close()
	mine, its, err := socketPair()
	if err != nil {
		return Stats{}, err
	}
	defer mine.Close()
	cmd, err := newProcess(dir, clientArgs(k, s.cfg, s.m.shell))
	if err != nil {
		its.Close()
		return Stats{}, err
	}
	said := &tail{}
	out := &reader{progress: func(p Progress) { s.change(func(v *State) { v.Progress = p }) }}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(list), out, said
	err = cmd.start(nil, its)
	its.Close()
	if err != nil {
		return Stats{}, err
	}
	defer conn.Watch()()
	there, back := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(there)
		_, _ = io.Copy(conn, mine) // rsync tells what is the matter if the line breaks
		_ = conn.CloseWrite()
	}()
	go func() {
		defer close(back)
		_, _ = io.Copy(mine, conn)
		_ = mine.CloseWrite()
	}()
	if err = explain(cmd.wait(ctx), said); err == nil {
		select {
		case <-back: // the other end has noted that all has arrived
		case <-ctx.Done():
		case <-time.After(answerTime):
		}
	}
	conn.Close()
	mine.Close()
	<-there
	<-back
	return out.stats, err
}

// socketPair is a connection between the daemon and what it starts.
func socketPair() (mine *net.UnixConn, its *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make sockets for rsync: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "rsync")
	its = os.NewFile(uintptr(fds[1]), "rsync")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		its.Close()
		return nil, nil, fmt.Errorf("make sockets for rsync: %w", err)
	}
	return c.(*net.UnixConn), its, nil
}
