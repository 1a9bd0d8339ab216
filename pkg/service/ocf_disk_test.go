// SPDX-License-Identifier: Apache-2.0

package service

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

const inOwnNamespaces = "XDPHA_TEST_IN_OWN_NAMESPACES"

// inNamespaces runs the test in namespaces of its own, and says whether it is there. Whatever ends it, nothing
// that it has started or mounted is left.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inOwnNamespaces) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount-proc", "--net", "--ipc", "--pid", "--fork", "--kill-child", os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inOwnNamespaces+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

func (r *rig) shell(command string) string {
	r.t.Helper()
	out, err := exec.Command("/bin/sh", "-ec", strings.ReplaceAll(command, "$D", r.dir)).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loopDisk is a file system in a file, with its image made.
func loopDisk(change func(*config.Service)) config.Service {
	return ocfSvc("disk", "Filesystem", change, "device", "$D/disk.img", "directory", "$D/mount", "fstype", "ext4", "options", "loop,noatime")
}

func (r *rig) makeDisk(size string) {
	r.t.Helper()
	r.shell("truncate -s " + size + " $D/disk.img; mkfs.ext4 -q $D/disk.img; mkdir $D/mount")
}

func TestAFileSystemInAFileIsMountedByTheDistributionsAgentAndKeepsItsData(t *testing.T) {
	// At depth 20 the agent writes and reads on it: rarely, as nobody can unmount it then.
	r := newOCFRig(t, loopDisk(func(s *config.Service) { s.OCF.Depth, s.Every = 20, time.Second }))
	if !inNamespaces(t) {
		return
	}
	r.makeDisk("16M")
	names := []string{"disk"}
	r.ok(r.Prepare(t.Context()))
	for _, content := range []string{"", "kept"} {
		r.ok(r.Start(t.Context(), names, Env{}))
		if got := r.shell("findmnt -n -o FSTYPE $D/mount"); got != "ext4" {
			t.Errorf("mounted is %q", got)
		}
		if got := strings.Join(r.read("mount/file"), " "); got != content {
			t.Errorf("the file holds %q, not %q", got, content)
		}
		r.write("mount/file", "kept")
		r.ok(r.Stop(t.Context(), names))
		if r.read("mount/file") != nil {
			t.Error("it is there although nothing is mounted")
		}
	}
	if got := r.shell("losetup -j $D/disk.img"); got != "" {
		t.Errorf("after the stop the loop device is there: %s", got)
	}
	r.ok(r.Start(t.Context(), names, Env{}))
	r.shell("umount $D/mount") // by somebody else
	if s := r.until("disk", Failed); !strings.Contains(s.Reason, "OCF_NOT_RUNNING") {
		t.Error(s.Reason)
	}
	r.ok(r.Stop(t.Context(), names))
}

// postgres are the directories with the distribution's programs.
func postgres(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("postgresql is not installed: run scripts/setup --article")
		}
		t.Skip("needs the package postgresql: run scripts/setup --article")
	}
	return all[len(all)-1]
}

func TestPostgreSQLRunsOnAFileSystemInAFileByTheDistributionsAgents(t *testing.T) {
	bin := postgres(t)
	r := newOCFRig(t, loopDisk(nil), ocfSvc("database", "pgsql", func(s *config.Service) { s.After, s.Timeout.Start = []string{"disk"}, 30*time.Second },
		"pgctl", bin+"/pg_ctl", "psql", bin+"/psql", "pgdata", "$D/mount/main", "config", "$D/postgresql.conf", "socketdir", "$D/sockets", "logfile", "$D/sockets/log"))
	if !inNamespaces(t) {
		return
	}
	r.makeDisk("256M")
	// The agent's validate-all looks for the data also while the disk is not mounted, as on a standby.
	r.shell("ip link set lo up; chmod 755 $D $D/..; install -d -o postgres $D/sockets; install -d -o postgres $D/mount/main")
	names := []string{"disk", "database"}
	as := "cd /; setpriv --reuid postgres --regid postgres --init-groups "
	r.ok(r.Start(t.Context(), names[:1], Env{}))
	r.shell("install -d -o postgres -m 700 $D/mount/main; " + as + bin + "/initdb --no-sync --locale C.UTF-8 --auth trust -D $D/mount/main")
	r.shell("cp $D/mount/main/postgresql.conf $D; chmod 644 $D/postgresql.conf; echo \"unix_socket_directories = '$D/sockets'\" >>$D/postgresql.conf")
	r.ok(r.Stop(t.Context(), names[:1]))

	ask := func(query string) string {
		t.Helper()
		return r.shell(as + bin + `/psql -XAtq -h $D/sockets -c "` + query + `" postgres`)
	}
	r.ok(r.Prepare(t.Context()))
	r.ok(r.Start(t.Context(), names, Env{}))
	ask("CREATE TABLE orders AS SELECT 'bread' AS name")
	r.ok(r.Stop(t.Context(), names))
	if _, err := os.Stat(filepath.Join(r.dir, "mount/main/PG_VERSION")); err == nil {
		t.Error("the disk is mounted after the stop")
	}
	r.ok(r.Start(t.Context(), names, Env{}))
	if got := ask("SELECT name FROM orders"); got != "bread" {
		t.Errorf("the table holds %q", got)
	}
	r.ok(r.Stop(t.Context(), names))
}
