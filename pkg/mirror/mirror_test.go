// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
)

// Generations are even while serv1 owns, odd while serv2 does.
const (
	serv1Owns = 10
	serv2Next = 11
	serv1Back = 12
)

// flows tells both whose the set is.
func (r *rig) flows(t testing.TB, generation uint64) {
	t.Helper()
	sender, receiver := r.a, r.b
	if ownerOf(generation) == 1 {
		sender, receiver = r.b, r.a
	}
	receiver.follow(generation, Standby)
	sender.follow(generation, Owner)
}

// syncError is why a run on demand fails.
func (n *node) syncError() string {
	n.t.Helper()
	err := n.try("Sync", time.Minute, &Stats{})
	var said rpc.ServerError
	if !errors.As(err, &said) {
		n.t.Fatalf("a run that should fail: %v", err)
	}
	return string(said)
}

func refuses(t testing.TB, n *node, want string) {
	t.Helper()
	if got := n.syncError(); !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// only reports what a node has beside dirs and the named files.
func (n *node) only(names ...string) (others []string) {
	n.t.Helper()
	err := filepath.WalkDir(n.data, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(n.data, p)
		if err == nil && !d.IsDir() && !strings.Contains("\n"+strings.Join(names, "\n")+"\n", "\n"+rel+"\n") {
			others = append(others, rel)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return others
}

func TestWhatTheOwnerHasTheOtherNodeHasAndNothingElse(t *testing.T) {
	r := newRig(t, config.Mirror{Exclude: []string{"*.tmp", "/cache/"}})
	r.a.write("sub/file", "content")
	r.a.write("sub/own.tmp", "excluded")
	r.a.write("cache/big", "excluded")
	r.b.write("extraneous/file", "of old times")
	r.b.write("sub/other.tmp", "excluded, so the other node's own")
	r.flows(t, serv1Owns)
	s := r.a.sync()
	if got := r.b.read("sub/file"); got != "content" {
		t.Errorf("the copy has %q", got)
	}
	if rest := r.b.only("sub/file", "sub/other.tmp"); rest != nil {
		t.Errorf("the other node has %q too", rest)
	}
	if r.b.has("extraneous") {
		t.Error("a directory that the owner has not is still there")
	}
	if s.Files != 3 || s.Bytes != 7 || s.Took == 0 {
		t.Errorf("compared %+v, want two directories and a file of 7 bytes", s)
	}
	for _, n := range []*node{r.a, r.b} {
		if v := n.view(); !v.Known || v.Error != "" || v.Link != line.Crossover || v.Runs == 0 || v.Failures != 0 {
			t.Errorf("%s: %+v", n.cfg.Nodes[n.cfg.Self].Name, v)
		}
	}
}

// run runs a program of the distribution.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// attributes are of a file as it stands: all that a copy has to keep.
func attributes(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	target, _ := os.Readlink(path)
	s := fmt.Sprintf("%s mode %o owner %d:%d links %d device %x size %d modified %d.%09d -> %q", name, st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, st.Size, st.Mtim.Sec, st.Mtim.Nsec, target)
	if target == "" {
		cmd := exec.Command("getfacl", "-n", "-p", "--omit-header", path)
		acl, err := cmd.Output()
		if err != nil {
			t.Fatalf("getfacl %s: %v", path, err)
		}
		cmd = exec.Command("getfattr", "-d", "-m", "^(user|trusted|security.capability)", "--absolute-names", name)
		cmd.Dir = dir
		xattrs, err := cmd.Output()
		if err != nil {
			t.Fatalf("getfattr %s: %v", path, err)
		}
		s += " acl " + strings.Join(strings.Fields(string(acl)), ",") + " xattrs " + strings.Join(strings.Fields(string(xattrs)), ",")
	}
	return s
}

func TestACopyKeepsAllThatAFileIs(t *testing.T) {
	r := newRig(t, config.Mirror{})
	for path, set := range map[string]string{"trusted.note": "kept too", "trusted.overlay.opaque": "y"} { // root's alone
		mustMkdir(t, filepath.Join(r.a.data, "dir"))
		if err := unix.Setxattr(filepath.Join(r.a.data, "dir"), path, []byte(set), 0); err != nil {
			t.Fatal(err)
		}
	}
	keepsAll(t, r)
}

func TestADaemonWithAUserOfItsOwnKeepsAllToo(t *testing.T) {
	keepsAll(t, newUserRig(t, config.Mirror{}))
}

func keepsAll(t *testing.T, r *rig) {
	at := func(name string) string { return filepath.Join(r.a.data, name) }
	r.a.write("plain", "x")
	r.a.write("dir/inside", "y")
	r.a.write("program", "z")
	for _, err := range []error{
		os.Chown(at("plain"), 64998, 64997), os.Chmod(at("plain"), os.ModeSetuid|0o751),
		os.Chown(at("dir"), 64996, 64995), os.Chmod(at("dir"), os.ModeSetgid|os.ModeSticky|0o770),
		os.Link(at("plain"), at("dir/second-name")), os.Symlink("/nowhere/at all", at("symlink")), os.Lchown(at("symlink"), 64994, 64993),
		unix.Mkfifo(at("fifo"), 0o640), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Setxattr(at("dir/inside"), "user.note", []byte("kept"), 0),
		os.Truncate(at("dir/inside"), 1<<30), // a hole
		os.Chtimes(at("program"), time.Time{}, time.Unix(1e9, 123456789)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, "setfacl", "-m", "u:64992:rw,g:64991:r", at("program"))
	run(t, "setfacl", "-d", "-m", "u:64992:rwx", at("dir"))
	run(t, "setcap", "cap_net_raw+ep", at("program"))
	r.flows(t, serv1Owns)
	r.a.sync()
	for _, name := range []string{"plain", "dir", "dir/inside", "dir/second-name", "program", "symlink", "fifo", "null"} {
		if want, got := attributes(t, r.a.data, name), attributes(t, r.b.data, name); got != want {
			t.Errorf("the copy differs:\n have %s\n want %s", got, want)
		}
	}
	var one, other, sparse unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"plain": &one, "dir/second-name": &other, "dir/inside": &sparse} {
		if err := unix.Lstat(filepath.Join(r.b.data, name), st); err != nil {
			t.Fatal(err)
		}
	}
	if one.Ino != other.Ino {
		t.Error("two names of one file have become two files")
	}
	if sparse.Blocks*512 > 1<<20 {
		t.Errorf("the hole takes %d bytes of the disk", sparse.Blocks*512)
	}
}

func TestAStaleOwnerIsRefusedBeforeAByteIsWritten(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "as serv1 left it")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.follow(serv2Next, Owner) // serv1 is not told
	r.b.write("file", "as serv2 goes on")
	r.a.write("file", "of the past")
	refuses(t, r.a, "serv2 refuses: serv2 has seen generation 11, this is 10")
	r.b.restart() // what was seen is on disk
	refuses(t, r.a, "serv2 refuses: serv2 has seen generation 11, this is 10")
	if err := r.b.try("Follow", Told{serv1Owns, Standby}, &Nothing{}); err == nil || !strings.Contains(err.Error(), ErrStale.Error()) {
		t.Errorf("a lower generation is followed: %v", err)
	}
	refuses(t, r.a, "serv2 refuses: serv2 has seen generation 11, this is 10")
	if got := r.b.read("file"); got != "as serv2 goes on" {
		t.Errorf("serv2 has %q", got)
	}
	r.flows(t, serv2Next)
	eventually(t, "serv1 gets what serv2 has", func() bool { return r.a.read("file") == "as serv2 goes on" })
}

// Both have booted, and serv1, which knows nothing of serv2's time, owns it first: what serv2's clients
// wrote is not deleted for that.
func TestNewerDataIsNotOverwrittenUnasked(t *testing.T) {
	const serv1Again = serv2Next + 1
	r := newRig(t, config.Mirror{})
	r.a.write("file", "as serv1 left it")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.follow(serv2Next, Owner) // serv1 is not told
	r.b.write("file", "as serv2 went on")
	r.b.restart()
	if !r.a.peerIsNewer() || r.b.peerIsNewer() {
		t.Error("that serv2 has the newer data is not what both say when they are asked")
	}
	r.flows(t, serv1Again)
	refuses(t, r.a, "the data on serv2 is of generation 11, and serv1's is of generation 12; both go on from that of generation 10: each has what the other has not")
	if got := r.b.read("file"); got != "as serv2 went on" {
		t.Fatalf("serv2 has %q", got)
	}
	if r.b.view().Whole || !r.a.view().Whole {
		t.Error("what serv2 has counts as a copy of serv1's")
	}
	overwrite := filepath.Join(r.b.state, "mirror-data.overwrite")
	run(t, "touch", overwrite)
	r.a.sync()
	if got := r.b.read("file"); got != "as serv1 left it" || !r.b.view().Whole {
		t.Errorf("serv2 has %q, %+v", got, r.b.view())
	}
	if there(overwrite) {
		t.Error("the word holds for the next time, too")
	}
	r.b.restart()
	if !r.b.view().Whole {
		t.Error("that the copy is whole was forgotten")
	}
	r.b.follow(serv2Next+2, Standby) // of an owner that is not heard of further
	if r.b.view().Whole {
		t.Error("a copy of an earlier generation counts for a later one")
	}
}

// serv1 is away; serv2 serves older data by force, and more than once.
func TestARefusalOutlivesTheNextGeneration(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "as serv1 left it")
	r.a.follow(serv1Owns, Owner)
	r.b.write("file", "older, served by force")
	for _, generation := range []uint64{serv2Next, serv2Next + 2, serv2Next + 4} {
		r.b.restart()
		r.flows(t, generation)
		refuses(t, r.b, "each has what the other has not")
		if got := r.a.read("file"); got != "as serv1 left it" {
			t.Fatalf("at generation %d serv1's newer data is overwritten unasked: %q", generation, got)
		}
	}
}

// No frame passes, and both reach who decides: each owns it, at its own generation, for as long as that lasts.
func TestWhatBothHaveServedAtOnceIsNotOverwrittenUnasked(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "before the split")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.a.do("Alone", uint64(serv1Owns))
	r.a.write("file", "serv1's clients")
	r.b.follow(serv2Next, Owner)
	r.b.write("file", "serv2's clients")
	r.a.follow(serv2Next, Standby)
	refuses(t, r.b, "the data on serv1 is of generation 10, and serv2's is of generation 11; both go on from that of generation 10")
	if got := r.a.read("file"); got != "serv1's clients" {
		t.Errorf("serv1 has %q", got)
	}
}

// What a node alone has served many times is one node's doing: the other one's copy is a part of it.
func TestAnOwnerThatBootsAloneIsNotRefused(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "as serv1 left it")
	r.flows(t, serv1Owns)
	r.a.sync()
	for _, generation := range []uint64{serv1Back, serv1Back + 2, serv1Back + 4} {
		r.a.restart()
		r.a.follow(generation, Owner)
		r.a.do("Alone", generation)
	}
	r.a.write("file", "as serv1 went on")
	r.b.restart()
	r.b.follow(serv1Back+4, Standby)
	r.a.sync()
	if got := r.b.read("file"); got != "as serv1 went on" {
		t.Errorf("serv2 has %q", got)
	}
}

// serv1's disk is replaced while serv2 is away: by its numbers it goes on from what serv2 has.
func TestAReplacedDiskOverwritesNothing(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "the only copy")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.a.do("Stop", Nothing{})
	run(t, "rm", filepath.Join(r.a.state, "mirrors.json"), filepath.Join(r.a.data, "file"))
	r.a.start()
	r.a.write("other", "from nothing")
	r.a.follow(serv1Owns, Owner)
	r.flows(t, serv1Back)
	refuses(t, r.a, "serv1's is of generation 12; they have no owner's time in common")
	if got := r.b.read("file"); got != "the only copy" {
		t.Errorf("serv2 has %q", got)
	}
}

// An administrator says that a path is meant to be as it is, on either node and for another reason.
func TestAWordOnADiskIsNoneOnNewerData(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "as serv1 left it")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.follow(serv2Next, Owner)
	r.b.write("file", "as serv2 went on")
	r.b.restart()
	for _, n := range []*node{r.a, r.b} {
		run(t, "touch", filepath.Join(n.state, "mirror-data.accept"))
	}
	run(t, "touch", filepath.Join(r.a.state, "mirror-data.overwrite")) // the sender's own data is not asked for
	r.flows(t, serv1Back)
	refuses(t, r.a, "if serv1's shall be kept, run on serv2: touch "+filepath.Join(r.b.state, "mirror-data.overwrite"))
	if got := r.b.read("file"); got != "as serv2 went on" {
		t.Errorf("serv2 has %q", got)
	}
	if there(filepath.Join(r.a.state, "mirror-data.overwrite")) {
		t.Error("a word on what was there before holds for what is served since")
	}
}

func TestAGenerationIsItsOwnersAlone(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.b.write("file", "serv2's")
	r.b.follow(serv1Owns, Standby)
	r.a.follow(serv2Next, Owner) // which cannot be
	refuses(t, r.a, "generation 11 is serv2's own")
	if got := r.b.read("file"); got != "serv2's" {
		t.Errorf("serv2 has %q", got)
	}
}

// slow is a set whose first file takes minutes.
func slow(t testing.TB) *rig {
	t.Helper()
	r := newRig(t, config.Mirror{BytesPerSecond: 200_000})
	noise := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstu\n"), 1<<20)
	for i := range noise {
		noise[i] ^= byte(i * i >> 7)
	}
	r.a.write("huge", string(noise))
	return r
}

// unfinished is whether a node has the beginning of a file that is being written, under rsync's name.
func (n *node) unfinished() bool {
	found, err := filepath.Glob(filepath.Join(n.data, ".huge.*"))
	return err == nil && len(found) > 0
}

func TestARunEndsWhenAHigherGenerationAppears(t *testing.T) {
	r := slow(t)
	r.flows(t, serv1Owns)
	eventually(t, "a run is under way", func() bool { return r.b.unfinished() && r.a.view().Progress.Bytes > 0 })
	r.b.follow(serv2Next, Owner)
	// From here on nothing may write: not a moment later.
	if r.b.unfinished() || r.b.has("huge") {
		t.Errorf("serv2 has %q of the run that ended", r.b.only())
	}
	if v := r.b.view(); v.Running && v.Role == Standby {
		t.Errorf("serv2: %+v", v)
	}
	eventually(t, "serv1 is told why", func() bool { return strings.Contains(r.a.view().Error, "has seen generation 11") })
	r.a.follow(serv2Next, Standby)
	eventually(t, "serv2, which never had all of it, is refused", func() bool {
		return !r.a.has("huge") || strings.Contains(r.b.view().Error, "they have no owner's time in common: each has what the other has not")
	})
	if !r.a.has("huge") {
		t.Error("an owner that never had the data made the other node's empty")
	}
}

func TestASendersRoleEndsItsRunToo(t *testing.T) {
	r := slow(t)
	r.flows(t, serv1Owns)
	eventually(t, "a run is under way", r.b.unfinished)
	r.a.follow(serv2Next, None)
	eventually(t, "serv2's half of it is gone", func() bool { return !r.b.unfinished() && !r.b.view().Running })
	if v := r.a.view(); v.Running || v.Failures != 0 || v.Error != "" {
		t.Errorf("a run that was ended counts as failed: %+v", v)
	}
}

func TestADaemonsDeathEndsTheOtherNodesHalf(t *testing.T) {
	r := slow(t)
	r.flows(t, serv1Owns)
	eventually(t, "a run is under way", r.b.unfinished)
	if err := r.a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "serv2's half of it is gone", func() bool { return !r.b.unfinished() && !r.b.view().Running })
}

func TestTheReceiverMustBeInStandby(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "x")
	r.a.follow(serv1Owns, Owner)
	refuses(t, r.a, "serv2 is not in standby for mirror set data yet")
	if r.b.has("file") {
		t.Error("it was written all the same")
	}
	r.b.follow(serv1Owns, Standby)
	eventually(t, "it is tried again by itself", func() bool { return r.b.has("file") })
	if err := r.b.try("Sync", time.Second, &Stats{}); err == nil || !strings.Contains(err.Error(), "serv2 does not own it: ask the owner") {
		t.Errorf("the standby may send: %v", err)
	}
}

func TestAnEstimateChangesNothing(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("same", "same")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.a.write("new/file", "12345")
	r.b.write("old", "x")
	var s Stats
	if err := r.a.try("Estimate", Nothing{}, &s); err != nil {
		t.Fatal(err)
	}
	if s.Copied != 1 || s.CopiedBytes != 5 || s.Deleted != 1 || s.Files != 4 {
		t.Errorf("estimated %+v, want a file of 5 bytes to copy, one to delete", s)
	}
	if r.b.has("new") || !r.b.has("old") {
		t.Error("it was done, not estimated")
	}
}

func TestTheIntervalFindsWhatNobodyTellsOf(t *testing.T) {
	r := newRig(t, config.Mirror{Every: 50 * time.Millisecond})
	r.flows(t, serv1Owns)
	r.a.sync()
	r.a.write("file", "x")
	eventually(t, "the file is there", func() bool { return r.b.has("file") })
}

func TestDirectoriesWithoutTheirContentAreNotCopied(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(r *rig)
		want  string
	}{
		"unmounted": {func(r *rig) { r.a.do("Unmount", r.path) }, "mount it; or, if it is meant, run on serv1: touch "},
		"missing": {func(r *rig) {
			r.a.do("Unmount", r.path)
			run(t, "rmdir", r.path)
		}, "is missing: mount what belongs there, or make the directory"},
		"emptied": {func(r *rig) { run(t, "find", r.a.data, "-mindepth", "1", "-delete") }, "is empty and was not before: put its content back; or, if it is meant, run on serv1: touch "},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Mirror{OnChange: true})
			r.a.write("sub/file", "x")
			r.flows(t, serv1Owns)
			r.a.sync()
			r.a.restart() // what it was is known after a reboot, too
			tt.spoil(r)
			r.flows(t, serv1Owns)
			refuses(t, r.a, tt.want)
			if r.b.read("sub/file") != "x" {
				t.Error("the copy is gone")
			}
			if name != "emptied" {
				return
			}
			run(t, "touch", filepath.Join(r.a.state, "mirror-data.accept"))
			r.a.sync()
			if r.b.has("sub") {
				t.Error("what was meant to go is still there")
			}
			if _, err := os.Stat(filepath.Join(r.a.state, "mirror-data.accept")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the word holds for the next time, too: %v", err)
			}
		})
	}
}

func TestAReceiverWritesToTheFileSystemThatItKnows(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "x")
	r.flows(t, serv1Owns)
	r.a.sync()
	r.b.do("Unmount", r.path)
	r.a.write("file", "y")
	refuses(t, r.a, "run on serv2: touch "+filepath.Join(r.b.state, "mirror-data.accept"))
	if entries, err := os.ReadDir(r.path); err != nil || len(entries) != 0 {
		t.Errorf("below the mount point: %v, %v", entries, err)
	}
}

func TestANewOwnersEmptyDiskDeletesNothing(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.b.write("file", "the only copy")
	r.flows(t, serv1Owns)
	refuses(t, r.a, "is empty on serv1 and not on serv2: put its content back; or, if all of it shall be deleted, run on serv1: touch ")
	if !r.b.has("file") {
		t.Error("it is deleted")
	}
}

func TestAPathThroughASymbolicLinkIsRefused(t *testing.T) {
	dir := t.TempDir()
	mustMkdir(t, filepath.Join(dir, "real/below"))
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"link": "goes through a symbolic link", "link/below": "goes through a symbolic link", "real/missing": "is missing", "real/below": ""} {
		r, err := openRoot(filepath.Join(dir, path))
		if err == nil {
			r.Close()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openRoot(filepath.Join(dir, "file")); err == nil || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("a file: %v", err)
	}
}
