// SPDX-License-Identifier: Apache-2.0

package example

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/lab"
)

// Where a node has xdpha's files.
const (
	ConfigPath  = "/etc/xdpha/xdpha.yaml"
	SecretPath  = "/etc/xdpha/secret"
	ProgramsDir = "/etc/xdpha/services"
)

// Disk is what a node has of its own. /run is always that, and empty at first; so are devices.
type Disk struct {
	Lab    *lab.Lab
	Node   *lab.Node
	Filled []string // directories with what this machine has in them
	Bare   []string // directories with this machine's directories, and no file
}

//go:embed node.sh
var nodeScript string

// Root is where a node's disk is.
func Root(n *lab.Node) string { return filepath.Join(n.Dir, "root") }

// Path is where a node has a path, as this program sees it.
func Path(n *lab.Node, path string) string { return filepath.Join(Root(n), path) }

// Install fills the disk: what the distribution has, and over it the example and the cluster's secret.
func (d Disk) Install(folder string, secret []byte) error {
	for _, dir := range d.Filled {
		if err := d.copy(dir); err != nil {
			return err
		}
	}
	for _, dir := range d.Bare {
		if err := d.copy(dir, "-f+ */", "-f- *"); err != nil {
			return err
		}
	}
	for _, sub := range []string{"etc", "srv"} {
		from := filepath.Join(folder, sub)
		if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := command("cp", "-a", "--no-preserve=ownership", from+"/.", Path(d.Node, sub)); err != nil {
			return err
		}
	}
	return os.WriteFile(Path(d.Node, SecretPath), secret, 0o600)
}

func (d Disk) copy(dir string, filter ...string) error {
	to := Path(d.Node, dir)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return command("rsync", append(append([]string{"-a"}, filter...), dir+"/", to)...)
}

// Start runs the daemon on the node; the lab starts it again in the same way. env are further variables.
func (d Disk) Start(executable string, env ...string) error {
	n := d.Node
	argv := append([]string{"env"}, env...)
	argv = append(argv, executable, "--config", ConfigPath, "--node", n.Name, "--run-dir", n.RunDir, "--state-dir", n.StateDir, "--pin-dir", n.PinDir, "run")
	return n.StartProgram(unshare, d.arguments(argv)...)
}

// Run runs a program on the node to its end, beside the daemon, and returns what it printed.
func (d Disk) Run(argv ...string) (string, error) {
	cmd := exec.Command(unshare, d.arguments(argv)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err := d.Lab.Do(d.Node.Name, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s on %s: %w\n%s", strings.Join(argv, " "), d.Node.Name, err, out.String())
	}
	return out.String(), err
}

const unshare = "/usr/bin/unshare"

func (d Disk) arguments(argv []string) []string {
	n := d.Node
	own := strings.Join(append(append([]string{}, d.Filled...), d.Bare...), " ")
	return append([]string{
		"--mount", "--uts", "--ipc", "--propagation", "slave", "/bin/sh", "-ec", nodeScript, "node",
		n.Name, Root(n), filepath.Join(n.RunDir, "run"), d.Lab.Dir, own,
	}, argv...)
}

// command runs a program of this machine to its end.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}
