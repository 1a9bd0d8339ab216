// SPDX-License-Identifier: Apache-2.0

package example

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
)

func newNFS(t *testing.T) *cluster {
	t.Helper()
	if _, err := os.Stat("/usr/lib/ocf/resource.d/heartbeat/Filesystem"); err != nil {
		mayNeed(t, []string{"resource-agents: ocf:heartbeat:Filesystem"})
	}
	d := Disk{Filled: []string{"/etc", "/usr/lib/ocf/resource.d"}, Bare: []string{"/srv", "/var/log"}}
	c := newCluster(t, "nfs", d, "ganesha.nfsd", "nfs-cp", "nfs-cat", "losetup", "mkfs.ext4", "start-stop-daemon")
	content := t.TempDir()
	must(t, os.Mkdir(filepath.Join(content, "export"), 0o755))
	must(t, os.Chown(filepath.Join(content, "export"), user, user))
	image := filepath.Join(c.Dir, "drbd-"+filepath.Base(c.Dir)+".img")
	must(t, command("truncate", "-s", "64M", image))
	must(t, command("mkfs.ext4", "-q", "-d", content, image))
	agent, err := os.ReadFile("testdata/drbd")
	must(t, err)
	for _, n := range c.Nodes {
		at := Path(n, "/usr/lib/ocf/resource.d/linbit")
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(filepath.Join(at, "drbd"), []byte(strings.ReplaceAll(string(agent), "@IMAGE@", image)), 0o755))
		must(t, os.MkdirAll(Path(n, "/srv/nfs"), 0o755))
	}
	return c
}

// user is who uses the export: root is nobody there.
const user = 1000

func onExport(name string) string {
	return fmt.Sprintf("nfs://192.0.2.21/export/%s?version=4&uid=%d&gid=%d", name, user, user)
}

// writes has the client write a file by NFS: also what a client may have to wait for within the grace time.
func (c *cluster) writes(name, text string) {
	c.t.Helper()
	from := filepath.Join(c.t.TempDir(), name)
	must(c.t, os.WriteFile(from, []byte(text), 0o644))
	c.await("the client writes "+name, func() error {
		_, err := c.ask(nil, "nfs-cp", from, onExport(name))
		return err
	})
}

func (c *cluster) reads(name, text string) {
	c.t.Helper()
	c.await("the client reads "+name, func() error {
		got, err := c.ask(nil, "nfs-cat", onExport(name))
		if err == nil && got != text {
			err = fmt.Errorf("it holds %q, not %q", got, text)
		}
		return err
	})
}

func TestTheOtherNFSHeadServesWhatWasWritten(t *testing.T) {
	c := newNFS(t)
	c.start(lab.Serv1, lab.Serv2)
	c.awaitOwners(map[string]string{"export": lab.Serv1}, lab.Serv1, lab.Serv2)
	c.writes("before", "written to serv1\n")
	c.breaks(lab.FaultPower, lab.Serv1)
	c.awaitOwners(map[string]string{"export": lab.Serv2}, lab.Serv2)
	c.reads("before", "written to serv1\n")
	c.writes("after", "written to serv2\n")
	c.heals(lab.FaultPower, lab.Serv1)
	c.awaitOwners(map[string]string{"export": lab.Serv2}, lab.Serv1, lab.Serv2)
	c.moves("export", lab.Serv1) // unmounted and demoted there, which takes it apart in order
	c.awaitOwners(map[string]string{"export": lab.Serv1}, lab.Serv1, lab.Serv2)
	c.reads("before", "written to serv1\n")
	c.reads("after", "written to serv2\n")
}
