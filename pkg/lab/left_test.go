// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdpha/xdpha/pkg/service"
)

// world is what a lab must leave as it was.
func world(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		fmt.Fprintln(&b, "link", l.Attrs().Index, l.Attrs().Name, l.Attrs().Flags)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root) {
			fmt.Fprint(&b, "mount ", line)
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "*"))
	must(t, err)
	for _, f := range files {
		if filepath.Base(f) != "guard" {
			fmt.Fprintln(&b, "file", f)
		}
	}
	if own, err := ownCgroup(); err == nil {
		dirs, err := filepath.Glob(filepath.Join(own, fmt.Sprintf("%s.%d-*", mark, os.Getpid())))
		must(t, err)
		fmt.Fprintln(&b, "cgroups", dirs)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "net:") {
			fmt.Fprintln(&b, "descriptor", to)
		}
	}
	return b.String()
}

func TestALabComesQuicklyAndLeavesNothing(t *testing.T) {
	needRoot(t)
	root := labRoot(t)
	before := world(t, root)
	for range 2 {
		began := time.Now()
		l, err := New(t.Context(), Options{root: root})
		must(t, err)
		built := time.Since(began)
		must(t, l.Node(Serv1).StartProgram("/bin/sh", "-c", "setsid sleep 3600 & wait"))
		_, err = l.Inject(t.Context(), FaultPause, Identities[0])
		must(t, err)
		began = time.Now()
		must(t, l.Close())
		must(t, l.Close())
		t.Logf("built in %v, closed in %v", built, time.Since(began))
		if built > 5*time.Second {
			t.Errorf("building took %v", built)
		}
	}
	if after := world(t, root); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestALabEndsWithItsContext(t *testing.T) {
	needRoot(t)
	root := labRoot(t)
	before := world(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := New(ctx, Options{root: root})
	must(t, err)
	cancel()
	must(t, l.Close()) // waits for the one that cancel began
	if after := world(t, root); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestACrashedLabIsRemovedByTheNext(t *testing.T) {
	needRoot(t)
	root := labRoot(t)
	before := world(t, root)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "XDPHA_LAB_TEST=crash", "XDPHA_LAB_ROOT="+root)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	dir, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	dir = strings.TrimSpace(dir)
	alive, err := New(t.Context(), Options{root: root})
	must(t, err)
	defer alive.Close()
	if _, err := os.Stat(filepath.Join(dir, "ns", Serv1)); err != nil {
		t.Fatalf("a second lab disturbed the first: %v", err)
	}
	cgroup, frozen := os.Readlink(filepath.Join(dir, cgroupLink))
	if _, err := os.Stat(cgroup); frozen == nil && err != nil {
		t.Fatal(err)
	}
	services, err := serviceCgroup(filepath.Join(dir, Serv1, stateName))
	must(t, err)
	must(t, cmd.Process.Kill())
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	next, err := New(t.Context(), Options{root: root})
	must(t, err)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the crashed lab's directory is still there: %v", err)
	}
	if _, err := os.Stat(cgroup); frozen == nil && !os.IsNotExist(err) {
		t.Errorf("the crashed lab's cgroup is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(services)); !os.IsNotExist(err) {
		t.Errorf("its services' cgroup is still there: %v", err)
	}
	must(t, next.Close())
	must(t, alive.Close())
	if after := world(t, root); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// serviceCgroup makes a cgroup as a daemon with that state directory makes one for a service.
func serviceCgroup(stateDir string) (dir string, err error) {
	own, err := ownCgroup()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(own, service.CgroupName(stateDir), "filesd")
	return dir, os.MkdirAll(filepath.Join(dir, "of-its-own"), 0o755)
}

func TestTheServicesCgroupsOfANodeWithoutPowerGoWithTheLabAndNobodyElses(t *testing.T) {
	needRoot(t)
	l, err := New(t.Context(), Options{root: labRoot(t)})
	must(t, err)
	n := l.Node(Serv1)
	mine, err := serviceCgroup(n.StateDir)
	must(t, err)
	theirs, err := serviceCgroup(n.StateDir + "/another")
	must(t, err)
	t.Cleanup(func() {
		for _, dir := range []string{filepath.Join(theirs, "of-its-own"), theirs, filepath.Dir(theirs)} {
			must(t, os.Remove(dir))
		}
	})
	must(t, n.StartProgram("/bin/sh", "-c", `echo $$ >"$1/cgroup.procs" && exec sleep 3600`, "sh", filepath.Join(mine, "of-its-own")))
	must(t, awaitCgroup(mine, "populated 1"))
	_, err = l.Inject(t.Context(), FaultPower, Identities[0])
	must(t, err)
	must(t, l.Close())
	if _, err := os.Stat(filepath.Dir(mine)); !os.IsNotExist(err) {
		t.Errorf("the lab's is still there: %v", err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Errorf("another one's is gone: %v", err)
	}
}

func TestWhatIsNotTheLabsStays(t *testing.T) {
	needRoot(t)
	root := labRoot(t)
	theirs := filepath.Join(root, "theirs")
	must(t, os.Mkdir(theirs, 0o700))
	must(t, os.WriteFile(filepath.Join(theirs, "data"), nil, 0o600))
	must(t, os.WriteFile(theirs+lockSuffix, nil, 0o600))
	if l, err := New(t.Context(), Options{root: root}); err == nil {
		_ = l.Close()
		t.Error("a directory without the lab's mark was not complained about")
	}
	if _, err := os.Stat(filepath.Join(theirs, "data")); err != nil {
		t.Error(err)
	}
}
