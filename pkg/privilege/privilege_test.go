// SPDX-License-Identifier: Apache-2.0

package privilege

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// role tells a copy of this program what to do instead of testing.
const role = "XDPHA_PRIVILEGE_TEST"

func TestMain(m *testing.M) {
	debug.SetTraceback("crash")
	switch os.Getenv(role) {
	case "crash hidden":
		if err := HideMemory(); err != nil {
			os.Exit(3)
		}
		panic("as wanted")
	case "crash":
		panic("as wanted")
	}
	os.Exit(m.Run())
}

func TestACrashLeavesNoCoreOfHiddenMemory(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	handled := len(pattern) < 2 || pattern[0] == '|' // whether there is a core is up to another program, or there never is one
	for kind, dumped := range map[string]bool{"crash": true, "crash hidden": false} {
		c := exec.Command("/bin/sh", "-c", `ulimit -c unlimited && exec "$0"`, os.Args[0])
		c.Dir, c.Env = t.TempDir(), append(os.Environ(), role+"="+kind)
		var exit *exec.ExitError
		if err := c.Run(); !errors.As(err, &exit) {
			t.Fatalf("%s: %v", kind, err)
		}
		status, ok := exit.Sys().(syscall.WaitStatus)
		if !ok || status.Signal() != syscall.SIGABRT {
			t.Fatalf("%s: it ended by %v, want SIGABRT", kind, exit)
		}
		if status.CoreDump() != dumped && !(dumped && handled) {
			t.Errorf("%s: a core was written: %v, want %v", kind, status.CoreDump(), dumped)
		}
	}
}

func TestEveryCapabilityHasItsReasonAndRemedy(t *testing.T) {
	seen := map[uint]bool{}
	for _, c := range slices.Concat([]Capability{Realtime}, Needed, Mirror) {
		if !strings.HasPrefix(c.Name, "CAP_") || c.Why == "" || seen[c.Bit] || !strings.Contains(c.Remedy(), "AmbientCapabilities="+c.Name) {
			t.Errorf("%+v is incomplete, or listed twice", c)
		}
		seen[c.Bit] = true
	}
}

// TestTheUnitGrantsWhatIsListedAndNoMore keeps the lists the same: the unit's, and what is added for mirrors.
func TestTheUnitGrantsWhatIsListedAndNoMore(t *testing.T) {
	for file, list := range map[string][]Capability{"xdpha.service": Needed, "mirrors.conf": Mirror} {
		b, err := os.ReadFile(filepath.Join("..", "..", "scripts", "packaging", file))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range list {
			names = append(names, c.Name)
		}
		for _, key := range []string{"AmbientCapabilities=", "CapabilityBoundingSet="} {
			if want := "\n" + key + strings.Join(names, " ") + "\n"; strings.Count(string(b), want) != 1 || strings.Count(string(b), "\n"+key) != 1 {
				t.Errorf("%s has not, once, %q", file, want)
			}
		}
	}
}

func TestOnlyAUnixSocketTellsWhoItsPeerIs(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := Admit(a); err == nil || errors.Is(err, ErrStranger) {
		t.Errorf("a pipe without credentials: %v", err)
	}
}
