// SPDX-License-Identifier: Apache-2.0

package article

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/xdpha/xdpha/pkg/bench/example"
	"github.com/xdpha/xdpha/pkg/lab"
)

// filled are the directories of which a node has its own, as this machine has them: those that Debian's
// packages use. Of the bare ones it has the directories alone.
var (
	filled = []string{"/etc", "/var/lib/samba", "/var/lib/postfix", "/var/lib/dovecot"}
	bare   = []string{"/srv", "/var/cache", "/var/log", "/var/mail", "/var/spool"}
)

//go:embed once.sh
var onceScript string

func root(n *lab.Node) string { return example.Root(n) }

// onDisk is where a node has a path, as this program sees it.
func onDisk(n *lab.Node, path string) string { return example.Path(n, path) }

func (s *scene) disk(n *lab.Node) example.Disk {
	return example.Disk{Lab: s.Lab, Node: n, Filled: filled, Bare: bare}
}

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
	if err := s.disk(n).Install(s.opt.Example, s.secret); err != nil {
		return err
	}
	prepare := exec.Command(filepath.Join(s.opt.Example, "prepare"), root(n))
	if out, err := prepare.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", prepare.Args, err, out)
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
	configPath  = example.ConfigPath
	programsDir = example.ProgramsDir
	onceDir     = "/etc/xdpha/once" // of the same, behind their guards
)

// start runs the daemon on a node; the guards find their locks by a variable.
func (s *scene) start(n *lab.Node) error {
	return s.disk(n).Start(s.opt.Executable, "ARTICLE_LOCKS="+s.locks())
}
