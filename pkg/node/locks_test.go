// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon that is killed as it starts a process leaves a copy of itself that has not become that process
// yet, and has all that it had open.
func TestALockThatAKilledDaemonLeftIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, _, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	tries := 0
	again, err := locked(func() (func(), int, error) {
		if tries++; tries == 3 {
			unlock()
		}
		unlock, _, err := lock(path)
		if tries == 2 {
			return unlock, 0, err
		}
		return unlock, dead.Process.Pid, err
	})
	if err != nil || tries != 3 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
	defer again()
	_, err = locked(func() (func(), int, error) { tries++; return lock(path) })
	if err == nil || tries != 4 {
		t.Errorf("held by a process that lives, after %d tries: %v", tries, err)
	}
	_, err = locked(func() (func(), int, error) { tries++; return nil, 0, unix.EWOULDBLOCK })
	if !errors.Is(err, unix.EWOULDBLOCK) || tries != 5 {
		t.Errorf("held by nobody knows whom, after %d tries: %v", tries, err)
	}
}
