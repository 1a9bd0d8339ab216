// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

// bring returns when what is in an identity's paths now is on the other node too. That is what the
// configuration's mirrors are for; without them it is done here.
func (s *scene) bring(ctx context.Context, id lab.Identity, from *lab.Node, paths []string) error {
	i := slices.IndexFunc(s.cfg.Identities, func(v config.Identity) bool { return v.Name == id.Name })
	if len(s.cfg.Identities[i].Mirror) > 0 {
		return s.awaitMirrored(ctx, from, paths)
	}
	return s.synchronise(ctx, from, paths)
}

// awaitMirrored returns when the other node's disk holds whatever this one's holds now. It does not go by
// what the daemons say of it.
func (s *scene) awaitMirrored(ctx context.Context, from *lab.Node, paths []string) error {
	to := s.Peer(from.Name)
	for _, path := range paths {
		wanted, err := contents(onDisk(from, path))
		if err != nil {
			return err
		}
		err = s.await(ctx, fmt.Sprintf("mirror of %s from %s", path, from.Name), func() string {
			there, err := contents(onDisk(to, path))
			if err != nil {
				return err.Error()
			}
			for content, name := range wanted {
				if there[content] == "" {
					return name + " is not there"
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// contents are the names of all files by their checksums: Dovecot renames a mail that was seen. What it keeps
// beside them changes without an end, and can be made anew.
func contents(path string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), "dovecot") {
			return ignoreMissing(err) // it was renamed since
		}
		b, err := os.ReadFile(name)
		if err == nil {
			all[sum(string(b))] = name
		}
		return ignoreMissing(err)
	})
	return all, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// synchronise brings paths from one node's disk to the other's, over the crossover, by rsync.
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
