// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheHighestGenerationOutlivesTheDaemon(t *testing.T) {
	dir := t.TempDir()
	m, err := openMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []uint64{4, 9, 7} {
		if err := m.raise("data", g); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.note("data", "/srv", directory{"/ ext4 1", true}); err != nil {
		t.Fatal(err)
	}
	if m, err = openMemory(dir); err != nil {
		t.Fatal(err)
	}
	d, known := m.directory("data", "/srv")
	if g := m.generation("data"); g != 9 || !known || d != (directory{"/ ext4 1", true}) || m.generation("other") != 0 {
		t.Errorf("generation %d, %+v %v", g, d, known)
	}
}

func TestAGenerationThatCannotBeWrittenIsInForceAllTheSame(t *testing.T) {
	m, err := openMemory(filepath.Join(t.TempDir(), "missing"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // and is not taken for written the next time
		if err := m.raise("data", 4); err == nil || m.generation("data") != 4 {
			t.Errorf("%v, generation %d", err, m.generation("data"))
		}
	}
	mustMkdir(t, filepath.Dir(m.path))
	if err := m.raise("data", 4); err != nil {
		t.Error(err)
	}
	if m, err = openMemory(filepath.Dir(m.path)); err != nil || m.generation("data") != 4 {
		t.Errorf("%v, generation %d", err, m.generation("data"))
	}
}

func TestADamagedMemoryIsNotBelieved(t *testing.T) {
	dir := t.TempDir()
	m, err := openMemory(dir)
	if err == nil {
		err = m.raise("data", 1234)
	}
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"emptied": nil, "cut short": good[:len(good)/2], "with another number": bytes.Replace(good, []byte("1234"), []byte("1233"), 1),
	} {
		if err := os.WriteFile(m.path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openMemory(dir); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatADirectoryIsNowIsComparedWithWhatItWas(t *testing.T) {
	now := func(fs string, empty bool) *root { return &root{path: "/srv/x", fs: fs, empty: empty} }
	for name, tt := range map[string]struct {
		now   *root
		was   directory
		sends bool
		want  string
	}{
		"the same":                 {now("/srv ext4 1", false), directory{"/srv ext4 1", true}, true, ""},
		"filled meanwhile":         {now("/srv ext4 1", false), directory{"/srv ext4 1", false}, true, ""},
		"always empty":             {now("/srv ext4 1", true), directory{"/srv ext4 1", false}, true, ""},
		"empty on the receiver":    {now("/srv ext4 1", true), directory{"/srv ext4 1", true}, false, ""},
		"empty on the sender":      {now("/srv ext4 1", true), directory{"/srv ext4 1", true}, true, "is empty and was not before"},
		"not mounted":              {now("/ ext4 2", false), directory{"/srv ext4 1", true}, false, "was on the file system mounted on /srv and is now on that of /: mount it"},
		"another disk":             {now("/srv ext4 2", false), directory{"/srv ext4 1", true}, true, "is on another file system than before"},
		"another file system type": {now("/srv xfs 1", false), directory{"/srv ext4 1", true}, true, "is on another file system than before"},
	} {
		err := suspicious(tt.now, tt.was, tt.sends)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestWhoseDataAnOwnerGoesOnFromIsKnown(t *testing.T) {
	dir := t.TempDir()
	m, err := openMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() error{
		func() error { return m.own("data", 2) }, // the first owner goes on from nothing
		func() error { return m.own("data", 2) }, // after a restart, too
		func() error { return m.got("data", m.past("data").begin(3)) },
		func() error { return m.own("data", 6) },
		func() error { return m.own("data", 8) },   // alone
		func() error { return m.alone("data", 6) }, // which is over
		func() error { return m.alone("data", 8) },
		func() error { return m.gave("data", term{Generation: 8, Draw: "another"}) },
		func() error { return m.gave("data", m.past("data").last()) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if m, err = openMemory(dir); err != nil {
		t.Fatal(err)
	}
	var got []term
	for _, x := range m.past("data") {
		got = append(got, term{Generation: x.Generation, Both: x.Both})
	}
	if want := []term{{2, "", false}, {3, "", true}, {6, "", false}, {8, "", false}, {8, "", true}}; !slices.Equal(got, want) || m.whole("data") != 8 {
		t.Errorf("it has gone through %v, want %v", got, want)
	}
}

// A run's copy may take minutes to be on the disk, and its owner may die meanwhile.
func TestACopyThatIsOnTheDiskTooLateIsNotGoneBackTo(t *testing.T) {
	m, err := openMemory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	theirs := past(nil).begin(3)
	for _, f := range []func() error{
		func() error { return m.raise("data", 3) },
		func() error { return m.got("data", theirs) },
		func() error { return m.raise("data", 4) }, // this node takes over
		func() error { return m.own("data", 4) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.got("data", theirs.begin(3)); !isRefused(err, refusedStale) {
		t.Errorf("got a copy of an earlier owner: %v", err)
	}
	if theirs.holds(m.past("data").last()) || !m.past("data").holds(theirs.last()) {
		t.Errorf("of %v: what was served at 4 may be overwritten by whoever has what was at 3", m.past("data"))
	}
}

// The daemon's loop reads it, and earns the supervisor's lease: a disk that hangs must not end that.
func TestWhatIsKnownIsReadWhileTheDiskHangs(t *testing.T) {
	m, err := openMemory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	disk := m.path + ".tmp"
	if err := unix.Mkfifo(disk, 0o600); err != nil { // opened for writing, it waits for a reader
		t.Fatal(err)
	}
	written, read := make(chan error, 1), make(chan uint64, 1)
	go func() { written <- m.own("data", 4) }()
	go func() {
		for {
			if m.whole("data") == 4 {
				read <- m.generation("data")
				return
			}
			runtime.Gosched()
		}
	}()
	select {
	case <-read:
	case <-time.After(30 * time.Second):
		t.Error("it cannot be read while it is written")
	}
	select {
	case err := <-written:
		t.Errorf("the disk did not hang: %v", err)
	default:
	}
	r, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := <-written; err == nil { // it cannot be synced
		t.Error("what is not on the disk counts as written")
	}
}
