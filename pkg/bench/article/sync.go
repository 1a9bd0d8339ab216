// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

// synchronise brings paths from one node's disk to the other's, over the crossover, by rsync: what the
// configuration's mirrors are for. It stands here until the example has them.
func (s *scene) synchronise(ctx context.Context, from *lab.Node, paths []string) error {
	to := s.Peer(from.Name)
	conf := filepath.Join(s.Dir, "rsyncd-"+to.Name+".conf")
	text := fmt.Sprintf("use chroot = no\nuid = 0\ngid = 0\n[disk]\npath = %s\nread only = no\n", root(to))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	crossover := s.node(to).CrossAddr.Addr().String()
	server := exec.CommandContext(ctx, "rsync", "--daemon", "--no-detach", "--config="+conf, "--address="+crossover, "--log-file="+conf+".log")
	server.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := s.Do(to.Name, server.Start); err != nil {
		return fmt.Errorf("start rsync on %s: %w", to.Name, err)
	}
	defer func() {
		_ = server.Process.Kill() // gone already is as good
		_ = server.Wait()         // killed, it has no good end
	}()
	for _, path := range paths {
		err := s.await(ctx, "rsync of "+path+" from "+from.Name, func() string {
			_, err := s.programOn(ctx, from.Name, "", "rsync", "-a", "--delete", onDisk(from, path)+"/", "rsync://"+crossover+"/disk"+path)
			if err != nil {
				return err.Error()
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// node is a node as it is configured.
func (s *scene) node(n *lab.Node) config.Node {
	if s.cfg.Nodes[0].Name == n.Name {
		return s.cfg.Nodes[0]
	}
	return s.cfg.Nodes[1]
}
