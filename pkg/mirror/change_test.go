// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

// follows changes the owner's files and waits for the copy; between them the set rests.
func TestChangesFollowByThemselves(t *testing.T) {
	r := newRig(t, config.Mirror{OnChange: true, Exclude: []string{"*.tmp"}})
	r.a.write("dir/deep/er/file", "one")
	r.a.write("dir/names/a", "two names")
	if err := os.Link(filepath.Join(r.a.data, "dir/names/a"), filepath.Join(r.a.data, "b")); err != nil {
		t.Fatal(err)
	}
	r.b.write("dir/deep/er/own.tmp", "the other node's own")
	r.flows(t, serv1Owns)
	r.a.sync()
	at := func(n *node, name string) string { return filepath.Join(n.data, name) }
	for _, step := range []struct {
		what string
		do   func() error
		done func() bool
	}{
		{"a new file", func() error { r.a.write("new", "x"); return nil }, func() bool { return r.b.read("new") == "x" }},
		{"another content of the same size", func() error { r.a.write("new", "y"); return nil }, func() bool { return r.b.read("new") == "y" }},
		{"once more, in the same second", func() error { r.a.write("new", "z"); return nil }, func() bool { return r.b.read("new") == "z" }},
		{"a file deep below", func() error { r.a.write("dir/deep/er/file", "three"); return nil }, func() bool { return r.b.read("dir/deep/er/file") == "three" }},
		{"new directories, and a file in the last", func() error { r.a.write("n1/n2/n3/n4/file", "x"); return nil }, func() bool { return r.b.has("n1/n2/n3/n4/file") }},
		{"a file in a directory that was new", func() error { r.a.write("n1/n2/n3/n4/later", "x"); return nil }, func() bool { return r.b.has("n1/n2/n3/n4/later") }},
		{"another mode", func() error { return os.Chmod(at(r.a, "new"), 0o600) }, func() bool { i, err := os.Stat(at(r.b, "new")); return err == nil && i.Mode().Perm() == 0o600 }},
		{"another owner of a directory", func() error { return os.Chown(at(r.a, "dir"), 64998, 64998) }, func() bool { return attributes(t, r.a.data, "dir") == attributes(t, r.b.data, "dir") }},
		{"a directory moved", func() error { return os.Rename(at(r.a, "n1/n2"), at(r.a, "dir/m2")) }, func() bool { return r.b.has("dir/m2/n3/n4/later") && !r.b.has("n1/n2") }},
		{"a file in a directory that was moved", func() error { r.a.write("dir/m2/n3/n4/last", "x"); return nil }, func() bool { return r.b.has("dir/m2/n3/n4/last") }},
		{"a file of two names", func() error { return os.WriteFile(at(r.a, "b"), []byte("both changed"), 0o644) }, func() bool { return r.b.read("b") == "both changed" && r.b.read("dir/names/a") == "both changed" }},
		{"a file replaced by a directory", func() error {
			if err := os.Remove(at(r.a, "new")); err != nil {
				return err
			}
			r.a.write("new/file", "x")
			return nil
		}, func() bool { return r.b.has("new/file") }},
		{"a name with a newline and no UTF-8", func() error { r.a.write("dir/\n\xff -x/file", "x"); return nil }, func() bool { return r.b.has("dir/\n\xff -x/file") }},
		{"a file removed", func() error { return os.Remove(at(r.a, "dir/deep/er/file")) }, func() bool { return !r.b.has("dir/deep/er/file") }},
		{"a tree removed", func() error { return os.RemoveAll(at(r.a, "dir/m2")) }, func() bool { return !r.b.has("dir/m2") }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		eventually(t, step.what, step.done)
	}
	if !r.b.has("dir/deep/er/own.tmp") {
		t.Error("an excluded file of the other node is gone")
	}
	if v := r.a.view(); v.Failures != 0 || v.Unseen != "" {
		t.Errorf("%+v", v)
	}
	if rest := r.b.only("b", "dir/names/a", "dir/deep/er/own.tmp", "new/file", "dir/\n\xff -x/file"); len(rest) > 1 { // the last has a newline
		t.Errorf("the other node has %q too", rest)
	}
}

func newWatcher(t *testing.T, dir string) *watcher {
	t.Helper()
	w, err := watch([]string{dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.notify.Close() })
	return w
}

func TestLostEventsMeanThatEverythingIsCompared(t *testing.T) {
	dir := t.TempDir()
	w := newWatcher(t, dir)
	if c := w.take(); c.any() {
		t.Errorf("nothing has happened: %+v", c)
	}
	mustMkdir(t, filepath.Join(dir, "unseen"))
	w.lost(fsnotify.ErrEventOverflow)
	if c := w.take(); !c.all {
		t.Errorf("after an overflow: %+v", c)
	}
	if !w.dirs[filepath.Join(dir, "unseen")] {
		t.Error("a directory that was made meanwhile is not watched")
	}
}

// asWatched is where a copy of this program has limits of its own.
const asWatched = "XDPHA_MIRROR_TEST_WATCHED"

// In a user namespace of its own, where the kernel's limit can be lowered, and raised again, for nobody else.
func TestWhatCouldNotBeWatchedIsTriedAgain(t *testing.T) {
	if os.Getenv(asWatched) == "" {
		needRoot(t)
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), asWatched+"=1")
		self := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: self, GidMappings: self}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	limit := func(sysctl string, n int) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/user/"+sysctl, fmt.Appendln(nil, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	mustMkdir(t, filepath.Join(dir, "one/two/three"))
	s := newSender(&set{m: &Manager{Options: Options{Log: slog.New(slog.DiscardHandler)}}, cfg: &config.Mirror{Paths: []string{dir}, OnChange: true}}, serv1Owns)
	limit("max_inotify_instances", 0)
	s.keepWatching(t.Context())
	if got := s.state.Unseen; s.watcher != nil || !strings.Contains(got, "max_user_instances") {
		t.Fatalf("without an instance: %q", got)
	}
	limit("max_inotify_instances", 1)
	limit("max_inotify_watches", 2)
	s.keepWatching(t.Context())
	defer func() { s.unwatch() }()
	if s.watcher == nil || s.watcher.trouble() == nil || !strings.Contains(s.watcher.trouble().Error(), "max_user_watches") {
		t.Fatalf("with two watches for four directories: %+v", s.watcher)
	}
	s.watcher.take()
	limit("max_inotify_watches", 20)
	s.keepWatching(t.Context())
	eventually(t, "all is watched", func() bool { return s.watcher.trouble() == nil })
	if c := s.watcher.take(); !c.under[dir]["one/two/three"] {
		t.Errorf("what happened there meanwhile is not looked for: %+v", c)
	}
}

func TestManyChangesAreComparedAtOnce(t *testing.T) {
	w := newWatcher(t, t.TempDir())
	for i := range mostDirectories {
		w.mark(w.paths[0], fmt.Sprintf("%s/d%d", w.paths[0], i))
	}
	if c := w.take(); c.all || c.count() != mostDirectories {
		t.Errorf("%d directories, all %v", c.count(), c.all)
	}
	for i := range mostDirectories + 1 {
		w.mark(w.paths[0], fmt.Sprintf("%s/d%d", w.paths[0], i))
	}
	if c := w.take(); !c.all {
		t.Errorf("%d directories by name", c.count())
	}
}

func TestWhatFailedIsAmongWhatIsTriedNext(t *testing.T) {
	a := changes{under: map[string]map[string]bool{"/srv/a": {"x": true}}}
	a.join(changes{under: map[string]map[string]bool{"/srv/a": {"y": true}, "/srv/b": {"": true}}})
	want := changes{under: map[string]map[string]bool{"/srv/a": {"x": true, "y": true}, "/srv/b": {"": true}}}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("%+v", a)
	}
	a.join(changes{all: true})
	if !a.all || a.count() != 0 {
		t.Errorf("%+v", a)
	}
}

func TestAFailedRunIsTriedAgainEverMoreSeldom(t *testing.T) {
	s := &sender{}
	last := time.Duration(0)
	for range 20 {
		s.retry = s.after(os.ErrClosed)
		if s.retry < last || s.retry > lastRetry {
			t.Fatalf("after %v comes %v", last, s.retry)
		}
		last = s.retry
	}
	if last != lastRetry || s.after(nil) != 0 || (&sender{}).after(stale("", 1)) != lastRetry {
		t.Errorf("at last %v", last)
	}
}

func TestChangesOfNothingThatIsCopiedAreLookedAtEverMoreSeldom(t *testing.T) {
	s := &sender{}
	last := time.Duration(0)
	for range 20 {
		p := s.pause(Stats{Took: time.Millisecond}, nil, kindChanges)
		if p < last || p > longestPause {
			t.Fatalf("after %v comes %v", last, p)
		}
		last = p
	}
	if last != longestPause {
		t.Errorf("at last %v", last)
	}
	if p := s.pause(Stats{Took: time.Second, Copied: 1}, nil, kindChanges); p != time.Second {
		t.Errorf("after a run that copied something: %v", p)
	}
}
