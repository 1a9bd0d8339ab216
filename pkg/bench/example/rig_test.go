// SPDX-License-Identifier: Apache-2.0

package example

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// cluster is an example on the lab's nodes.
type cluster struct {
	*lab.Lab
	t       *testing.T
	program string
	disks   map[string]Disk
}

// newCluster installs an example on both nodes. It needs programs of the distribution, and root.
func newCluster(t *testing.T, name string, d Disk, programs ...string) *cluster {
	t.Helper()
	mayNeed(t, programs)
	folder := filepath.Join(examples, name)
	readAll(t, folder)
	program := filepath.Join(t.TempDir(), "xdpha")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/xdpha/xdpha/ctl/xdpha")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdpha: %v\n%s", err, out)
	}
	l, err := lab.New(context.Background(), lab.Options{Executable: program})
	must(t, err)
	c := &cluster{Lab: l, t: t, program: program, disks: map[string]Disk{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(pair.Logs(l))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	key := make([]byte, 32)
	rand.Read(key)
	for _, n := range l.Nodes {
		d := d
		d.Lab, d.Node = l, n
		must(t, d.Install(folder, []byte(hex.EncodeToString(key)+"\n")))
		c.disks[n.Name] = d
		c.edit(n.Name, ConfigPath, "profile: balanced", "profile: cautious\n  supervisor_lease: 10s\n  boot_hold: 6s")
	}
	return c
}

// readAll shows go test what the result depends on: the copies are made by other programs.
func readAll(t *testing.T, folder string) {
	t.Helper()
	must(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			_, err = os.ReadFile(path)
		}
		return err
	}))
}

// edit replaces something in a file of a node's. Profiles are for machines that are not shared: on this one
// everything may stand still for longer than the balanced one's dead_after.
func (c *cluster) edit(node, path, old, new string) {
	c.t.Helper()
	path = Path(c.Node(node), path)
	b, err := os.ReadFile(path)
	must(c.t, err)
	if strings.Count(string(b), old) != 1 {
		c.t.Fatalf("%q is not in %s once", old, path)
	}
	must(c.t, os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o644))
}

// mayNeed skips a test on a developer's machine that lacks root or the programs.
func mayNeed(t *testing.T, programs []string) {
	t.Helper()
	missing := func(why string) {
		t.Helper()
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if os.Geteuid() != 0 {
		missing("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(p + " is not installed: run scripts/setup --article")
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds every wait; a machine with all CPUs busy needs some.
const patience = 60 * time.Second

func (c *cluster) await(what string, f func() error) {
	c.t.Helper()
	began := time.Now()
	for {
		err := f()
		if err == nil {
			c.t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what)
			return
		}
		if time.Since(began) > patience {
			c.t.Fatalf("%s: not after %s: %v", what, patience, err)
		}
		must(c.t, pair.Pause(c.t.Context(), 50*time.Millisecond))
	}
}

func (c *cluster) start(nodes ...string) {
	c.t.Helper()
	for _, n := range nodes {
		must(c.t, c.disks[n].Start(c.program))
	}
}

// run runs a program on a node.
func (c *cluster) run(node string, argv ...string) string {
	c.t.Helper()
	out, err := c.disks[node].Run(argv...)
	must(c.t, err)
	return out
}

// ask runs a client's program; it fails when it takes too long for one that is served.
func (c *cluster) ask(env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.WaitDelay = &out, &out, append(os.Environ(), env...), time.Second
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err := c.Do(lab.Client, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %v: %w: %s", name, args, err, out.String())
	}
	return out.String(), nil
}

// status asks a node's daemon.
func (c *cluster) status(node string) (control.Status, error) {
	n := c.Node(node)
	if !n.Alive() {
		c.t.Fatalf("the daemon of %s ended", node)
	}
	return pair.Status(c.t.Context(), n)
}

// awaitOwners returns when each identity is served by its owner, and, if there are two nodes, the other
// one is ready to take it.
func (c *cluster) awaitOwners(owners map[string]string, nodes ...string) {
	c.t.Helper()
	c.await(fmt.Sprintf("at rest with %v on %v", owners, nodes), func() error {
		for _, node := range nodes {
			s, err := c.status(node)
			if err != nil {
				return err
			}
			if err := atRest(s, owners, len(nodes) > 1); err != nil {
				return fmt.Errorf("%s: %w", node, err)
			}
		}
		return nil
	})
}

func atRest(s control.Status, owners map[string]string, armed bool) error {
	for _, id := range s.Identities {
		here := id.Owner == s.Node
		switch {
		case id.Owner != owners[id.Name]:
			return fmt.Errorf("%s is owned by %q, not by %s", id.Name, id.Owner, owners[id.Name])
		case here && id.Gate != control.GateOpen:
			return fmt.Errorf("the gate of %s is %s: %s", id.Name, id.Gate, id.Reason)
		case !here && armed && !id.Armed:
			return fmt.Errorf("it is not ready to take %s: %s", id.Name, id.Reason)
		}
	}
	for _, v := range s.Services {
		if !slices.Contains([]string{"up", "standby", "stopped"}, v.State) || v.State == "stopped" && owns(s) {
			return fmt.Errorf("service %s is %s: %s", v.Name, v.State, v.Reason)
		}
	}
	return nil
}

func owns(s control.Status) bool {
	return slices.ContainsFunc(s.Identities, func(id control.Identity) bool { return id.Owner == s.Node })
}

// breaks and heals do so to a node; identities here have other names than the lab's.
func (c *cluster) breaks(kind lab.Fault, home string) {
	c.t.Helper()
	_, err := c.Inject(c.t.Context(), kind, c.at(home))
	must(c.t, err)
}

func (c *cluster) heals(kind lab.Fault, home string) {
	c.t.Helper()
	must(c.t, c.Heal(c.t.Context(), kind, c.at(home)))
}

// moves orders an identity to a node, as long as it is refused.
func (c *cluster) moves(identity, to string) {
	c.t.Helper()
	client := control.NewClient(c.Node(to).RunDir)
	defer client.Close()
	c.await("order to move "+identity+" to "+to, func() error { return client.Move(c.t.Context(), identity, to, false) })
}

func (c *cluster) at(home string) lab.Identity {
	return lab.Identities[slices.IndexFunc(lab.Identities[:], func(id lab.Identity) bool { return id.Home == home })]
}
