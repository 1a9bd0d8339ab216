// SPDX-License-Identifier: Apache-2.0

package article

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/lab"
)

// own are the directories of which a node has its own, filled as this machine's are: those that
// Debian's packages use. /run is one more, empty at every boot.
var own = []string{"/etc", "/srv", "/var/lib/samba", "/var/lib/postfix", "/var/lib/dovecot", "/var/cache", "/var/log", "/var/mail", "/var/spool"}

// empty are those of which a node gets the directories alone.
var empty = []string{"/srv", "/var/cache", "/var/log", "/var/mail", "/var/spool"}

//go:embed node.sh
var nodeScript string

//go:embed once.sh
var onceScript string

// root is a node's disk.
func root(n *lab.Node) string { return filepath.Join(n.Dir, "root") }

// onDisk is where a node has a path, as this program sees it.
func onDisk(n *lab.Node, path string) string { return filepath.Join(root(n), path) }

// install fills both nodes' disks: what the distribution has, and over it the example.
func (s *scene) install() error {
	if err := os.MkdirAll(s.locks(), 0o700); err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if err := s.installNode(n); err != nil {
			return fmt.Errorf("install %s: %w", n.Name, err)
		}
	}
	return nil
}

func (s *scene) installNode(n *lab.Node) error {
	for _, dir := range own {
		to := onDisk(n, dir)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		copy := []string{"-a"}
		if slices.Contains(empty, dir) {
			copy = append(copy, "-f+ */", "-f- *")
		}
		if err := command("rsync", append(copy, dir+"/", to)...); err != nil {
			return err
		}
	}
	for _, sub := range []string{"etc", "srv"} {
		if err := command("cp", "-a", "--no-preserve=ownership", filepath.Join(s.opt.Example, sub)+"/.", onDisk(n, sub)); err != nil {
			return err
		}
	}
	if err := command(filepath.Join(s.opt.Example, "prepare"), root(n)); err != nil {
		return err
	}
	if err := os.WriteFile(onDisk(n, secretPath), s.secret, 0o600); err != nil {
		return err
	}
	return s.stand(n)
}

// stand puts a guard before the program of every service that must run once.
func (s *scene) stand(n *lab.Node) error {
	programs, behind := onDisk(n, programsDir), onDisk(n, onceDir)
	if err := os.MkdirAll(behind, 0o755); err != nil {
		return err
	}
	for _, name := range s.exclusive {
		if err := os.Rename(filepath.Join(programs, name), filepath.Join(behind, name)); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(programs, name), []byte(onceScript), 0o755); err != nil {
			return err
		}
	}
	return nil
}

const (
	configPath  = "/etc/xdpha/xdpha.yaml"
	secretPath  = "/etc/xdpha/secret"
	programsDir = "/etc/xdpha/services"
	onceDir     = "/etc/xdpha/once" // of the same, behind their guards
)

// start runs the daemon on a node, in its own mount namespace; the lab starts it again in the same way.
func (s *scene) start(n *lab.Node) error {
	argv := []string{
		"--mount", "--uts", "--propagation", "slave", "/bin/sh", "-ec", nodeScript, "node",
		n.Name, root(n), filepath.Join(n.RunDir, "run"), s.Dir, s.locks(), strings.Join(own, " "), s.opt.Executable,
		"--config", configPath, "--node", n.Name, "--run-dir", n.RunDir, "--state-dir", n.StateDir, "--pin-dir", n.PinDir, "run",
	}
	return n.StartProgram("/usr/bin/unshare", argv...)
}

// command runs a program of this machine to its end.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("%s %v: %w", name, args, err), errors.New(string(out)))
	}
	return nil
}
