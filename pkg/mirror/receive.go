// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/line"
)

// hear takes the peer's first word.
func (m *Manager) hear(ctx context.Context, conn *line.Conn) error {
	var h hello
	if err := line.Read(conn, &h); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return m.serve(ctx, conn, h)
}

// session is a run that the peer sends.
type session struct {
	generation uint64
	cancel     context.CancelCauseFunc
	done       chan struct{}
}

// end ends it and waits until its processes are gone. With an error they are not: it stays the set's run,
// and no other begins, until they are.
func (in *session) end(why error) error {
	in.cancel(why)
	select {
	case <-in.done:
		return nil
	case <-time.After(endTime):
		return fmt.Errorf("a run of generation %d does not end: look for a process rsync that hangs", in.generation)
	}
}

// serve answers the first word and, if it may, runs the receiving rsync.
func (m *Manager) serve(ctx context.Context, conn *line.Conn, h hello) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	switch h.Kind {
	case kindComplete:
		return refuse(conn, m.complete(conn, h))
	case kindWhose:
		return refuse(conn, m.tellWhose(conn, h))
	}
	in := &session{generation: h.Generation, cancel: cancel, done: make(chan struct{})}
	s, r, err := m.admit(h, in)
	if err != nil {
		return refuse(conn, err)
	}
	defer s.left(in)
	defer r.Close()
	s.change(func(v *State) { v.Running, v.Link, v.Since = true, conn.Link, time.Now() })
	return s.receive(ctx, conn, h, r)
}

// refuse tells the sender why; nil is no refusal.
func refuse(conn *line.Conn, why error) error {
	if why == nil {
		return nil
	}
	var no refusal
	if !errors.As(why, &no) {
		no = refused("%v", why)
	}
	if err := conn.SetDeadline(time.Now().Add(line.GreetTime)); err != nil {
		return errors.Join(why, err)
	}
	return errors.Join(why, line.Write(conn, no.answer))
}

// admit decides whether a run may write, and makes it the set's only one. What it knows of the sender
// is that it is the peer.
func (m *Manager) admit(h hello, in *session) (s *set, r *root, err error) {
	s, ok := m.sets[h.Set]
	if !ok || !slices.Contains(s.cfg.Paths, h.Path) {
		return nil, nil, refused("mirror set %q with path %q is not in %s's configuration: copy the configuration", h.Set, h.Path, m.self())
	}
	if !slices.Contains([]kind{kindFull, kindChanges, kindDry}, h.Kind) {
		return nil, nil, refused("%s knows no run of kind %q: install the same xdpha on both nodes", m.self(), h.Kind)
	}
	s.following.Lock()
	defer s.following.Unlock()
	if err := s.mayWrite(h); err != nil {
		return nil, nil, err
	}
	if r, err = s.target(h); err != nil {
		return nil, nil, err
	}
	if err := s.enter(in); err != nil {
		r.Close()
		return nil, nil, err
	}
	return s, r, nil
}

// mayWrite compares the generation with all that was ever seen, and notes it if it is the highest.
func (s *set) mayWrite(h hello) error {
	seen := s.m.memory.generation(s.cfg.Name)
	role := s.view().Role
	switch {
	case ownerOf(h.Generation) == s.m.Config.Self:
		return stale(fmt.Sprintf("generation %d is %s's own", h.Generation, s.m.self()), seen)
	case h.Generation < seen:
		return stale(fmt.Sprintf("%s has seen generation %d, this is %d", s.m.self(), seen, h.Generation), seen)
	}
	s.told(h.Past)
	if err := s.m.memory.raise(s.cfg.Name, h.Generation); err != nil {
		return err
	}
	if err := s.mayReplace(h); err != nil {
		return err
	}
	if role != Standby {
		return refusal{answer{Code: refusedEarly, Text: fmt.Sprintf("%s is not in standby for mirror set %s yet", s.m.self(), s.cfg.Name)}}
	}
	return nil
}

// mayReplace reports that nothing is here that the sender's data does not hold, or that the administrator
// has given it up: a word on this node, about this.
func (s *set) mayReplace(h hello) error {
	own := s.m.memory.past(s.cfg.Name)
	if h.Past.holds(own.last()) || there(s.overwrite()) {
		return nil
	}
	since := "they have no owner's time in common"
	if g := own.parted(h.Past); g > 0 {
		since = fmt.Sprintf("both go on from that of generation %d", g)
	}
	self, peer, id := s.m.self(), s.m.peer(), s.identity()
	return refused("the data on %s is of generation %d, and %s's is of generation %d; %s: each has what the other has not. Look at both; if %s's shall be kept, run on %s: touch %s; if %s's: xdpha move %s %s --force",
		self, own.last().Generation, peer, h.Generation, since, peer, self, s.overwrite(), self, id, self)
}

// target opens the path that is to be written.
func (s *set) target(h hello) (*root, error) {
	r, accepted, err := s.check(h.Path, false)
	if err != nil {
		return nil, err
	}
	if h.Empty && !r.empty && !h.Accepted && !accepted {
		r.Close()
		return nil, refused("%s is empty on %s and not on %s: put its content back; or, if all of it shall be deleted, run on %s: touch %s",
			h.Path, s.m.peer(), s.m.self(), s.m.peer(), s.accept())
	}
	return r, nil
}

// enter makes in the set's only run: an older one, which the peer has given up or must give up, ends first.
func (s *set) enter(in *session) error {
	if old := s.receiving(); old != nil {
		if err := old.end(errReplaced); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inbound = in
	return nil
}

var errReplaced = errors.New("a later run has begun")

// left is after a run's last process.
func (s *set) left(in *session) {
	s.mu.Lock()
	if s.inbound == in {
		s.inbound = nil
		s.state.Running = false
	}
	s.mu.Unlock()
	close(in.done)
}

// receive runs the receiving rsync.
func (s *set) receive(ctx context.Context, conn *line.Conn, h hello, r *root) error {
	cmd, err := newProcess(r.at(), serverArgs(h.Kind))
	if err != nil {
		return refuse(conn, err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("run rsync: %w", err)
	}
	if err := line.Write(conn, answer{OK: true, Generation: h.Generation}); err != nil {
		return err
	}
	said := &tail{}
	cmd.Stdout, cmd.Stderr = conn, said
	if err := cmd.start(r.dir); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(stdin, conn) // its end, or its silence, is rsync's business
		stdin.Close()
	}()
	defer conn.Watch()()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() }) // what is on the way is not written any more
	defer stop()
	if err = explain(cmd.wait(ctx), said); err == nil && h.Kind == kindFull {
		s.received(h, r)
	}
	_ = conn.CloseWrite() // for which the sender waits
	return err
}

// received notes what a path is, until the copy is complete.
func (s *set) received(h hello, r *root) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrived == nil {
		s.arrived = map[string]directory{}
	}
	s.arrived[h.Path] = directory{r.fs, !h.Empty}
}

// tellWhose answers what the data here has gone through.
func (m *Manager) tellWhose(conn *line.Conn, h hello) error {
	if m.sets[h.Set] == nil {
		return refused("mirror set %q is not in %s's configuration: copy the configuration", h.Set, m.self())
	}
	return line.Write(conn, answer{OK: true, Past: m.memory.past(h.Set)})
}

// complete is after a run of all paths: it is answered when the copy is on disk.
func (m *Manager) complete(conn *line.Conn, h hello) error {
	s, ok := m.sets[h.Set]
	if !ok {
		return refused("mirror set %q is not in %s's configuration: copy the configuration", h.Set, m.self())
	}
	if seen := m.memory.generation(h.Set); h.Generation != seen || ownerOf(seen) == m.Config.Self {
		return stale(fmt.Sprintf("%s has seen generation %d, this is %d", m.self(), seen, h.Generation), seen)
	}
	if h.Past.last().Generation != h.Generation {
		return refused("the copy does not say what it is of: install the same xdpha on both nodes")
	}
	if err := s.mayReplace(h); err != nil {
		return err
	}
	s.mu.Lock()
	paths := s.arrived
	s.arrived = nil
	s.mu.Unlock()
	var err error
	for _, path := range s.cfg.Paths {
		if _, ok := paths[path]; !ok {
			err = errors.Join(err, fmt.Errorf("path %s of the copy has not arrived", path))
			continue
		}
		err = errors.Join(err, syncDisk(path))
	}
	if err == nil {
		err = m.memory.got(h.Set, h.Past)
	}
	if err == nil {
		err = s.remember(paths)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.complete = time.Now().Add(-time.Duration(max(0, h.AgeNS)))
	s.state.Runs++
	s.mu.Unlock()
	return line.Write(conn, answer{OK: true, Generation: h.Generation})
}

// syncDisk writes what a path's file system has in memory.
func syncDisk(path string) error {
	r, err := openRoot(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := unix.Syncfs(int(r.dir.Fd())); err != nil {
		return fmt.Errorf("write %s to disk: %w", path, err)
	}
	return nil
}
