// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// settle is how long after a change it is looked for more.
const settle = 100 * time.Millisecond

// mostDirectories is how many changed directories are compared by their names; more are found faster
// by comparing all.
const mostDirectories = 500

// changes is what happened since it was looked last.
type changes struct {
	all   bool                       // compare everything
	under map[string]map[string]bool // by path of the set: directories in it, "" is the path itself
}

func (c *changes) any() bool { return c.all || len(c.under) > 0 }

func (c *changes) count() (n int) {
	for _, dirs := range c.under {
		n += len(dirs)
	}
	return n
}

// watcher notes in which directories of a set something changes.
type watcher struct {
	log    *slog.Logger
	paths  []string
	notify *fsnotify.Watcher
	dirs   map[string]bool // that are watched
	devs   map[string]uint64

	mu      sync.Mutex
	changes changes
	err     error         // why not everything is watched
	woken   chan struct{} // one place: there are changes
	again   chan struct{} // one place: it is worth another try
}

// watch begins to watch the directories of paths. What changes from its return on is noted.
func watch(paths []string, log *slog.Logger) (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for changes: %w: raise fs.inotify.max_user_instances with sysctl", err)
	}
	w := &watcher{log: log, paths: paths, notify: n, dirs: map[string]bool{}, devs: map[string]uint64{}, woken: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	w.addAll()
	w.take() // what the first look finds is no change
	return w, nil
}

// run takes events until ctx ends.
func (w *watcher) run(ctx context.Context) {
	defer w.notify.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			w.event(e)
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			w.lost(err)
		case <-w.again:
			w.addAll()
		}
	}
}

// retry has it try again what it could not watch: what stood against it may be mended.
func (w *watcher) retry() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// lost is after events that nobody will see: directories may be new and unwatched.
func (w *watcher) lost(err error) {
	if !errors.Is(err, fsnotify.ErrEventOverflow) {
		w.log.Warn("watch for changes", "err", err)
	}
	w.addAll()
	w.mark("", "")
}

// addAll watches all that is there, and knows afterwards why not everything is watched.
func (w *watcher) addAll() {
	var errs []error
	for _, p := range w.paths {
		errs = append(errs, w.add(p, p))
	}
	w.note(errors.Join(errs...))
}

func (w *watcher) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

func (w *watcher) event(e fsnotify.Event) {
	top := w.topOf(e.Name)
	if top == "" {
		return
	}
	if e.Name == top {
		if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
			w.forget(top) // the run's guard tells what is the matter
		}
		w.mark(top, top)
		return
	}
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		w.forget(e.Name)
	}
	if e.Has(fsnotify.Create) {
		if err := w.add(top, e.Name); err != nil {
			w.note(err)
		}
	}
	if w.linked(e) {
		w.mark("", "")
		return
	}
	w.mark(top, filepath.Dir(e.Name))
}

// linked reports that the file has other names: its copies under those stay behind unless all is compared.
func (w *watcher) linked(e fsnotify.Event) bool {
	if !e.Has(fsnotify.Write) && !e.Has(fsnotify.Create) && !e.Has(fsnotify.Chmod) {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(e.Name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1
}

func (w *watcher) topOf(name string) string {
	i := slices.IndexFunc(w.paths, func(p string) bool { return name == p || strings.HasPrefix(name, p+"/") })
	if i < 0 {
		return ""
	}
	return w.paths[i]
}

// add watches a directory and those below it that are on the path's file system; each that was not
// watched before may hold what nobody told of.
func (w *watcher) add(top, name string) error {
	err := filepath.WalkDir(name, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && !d.IsDir():
			return nil
		case err != nil:
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone meanwhile
		}
		dev := info.Sys().(*syscall.Stat_t).Dev
		if p == top {
			w.devs[top] = dev
		}
		if dev != w.devs[top] {
			return filepath.SkipDir
		}
		if w.dirs[p] {
			return nil
		}
		if err := w.notify.Add(p); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("%s: %w", p, err)
		}
		w.dirs[p] = true
		w.mark(top, p)
		return nil
	})
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: raise fs.inotify.max_user_watches with sysctl; until then changes wait for the interval", err)
	}
	if err != nil {
		return fmt.Errorf("watch for changes: %w", err)
	}
	return nil
}

// forget ends the watches at and below a name that is gone: a directory that was moved keeps its
// watch, which would tell of it by the old name.
func (w *watcher) forget(name string) {
	if !w.dirs[name] {
		return
	}
	for p := range w.dirs {
		if p == name || strings.HasPrefix(p, name+"/") {
			_ = w.notify.Remove(p) // the kernel has done it where the directory was removed
			delete(w.dirs, p)
		}
	}
}

// mark notes a changed directory; none: everything.
func (w *watcher) mark(top, dir string) {
	w.mu.Lock()
	c := &w.changes
	switch {
	case top == "" || c.all || c.count() >= mostDirectories:
		*c = changes{all: true}
	default:
		if c.under == nil {
			c.under = map[string]map[string]bool{}
		}
		if c.under[top] == nil {
			c.under[top] = map[string]bool{}
		}
		c.under[top][strings.TrimPrefix(strings.TrimPrefix(dir, top), "/")] = true
	}
	w.mu.Unlock()
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// take returns what was noted, and begins anew.
func (w *watcher) take() changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.woken:
	default:
	}
	c := w.changes
	w.changes = changes{}
	return c
}

func (w *watcher) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// filesFrom lists the directories that are still there, as rsync reads them: each is compared
// without those below it. Of one that is gone its parent tells.
func filesFrom(root string, dirs map[string]bool) []byte {
	var list []byte
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		if d == "" {
			list = append(list, "./\x00"...)
			continue
		}
		if info, err := os.Lstat(filepath.Join(root, d)); err != nil || !info.IsDir() {
			continue
		}
		list = append(append(list, "./"+d...), "/\x00"...)
	}
	return list
}
