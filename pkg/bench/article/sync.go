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
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

// bring returns when what is in an identity's paths now is on the other node too. That is what the
// configuration's mirrors are for; without them it is done here.
func (s *scene) bring(ctx context.Context, id lab.Identity, from *lab.Node, paths []string) error {
	i := slices.IndexFunc(s.cfg.Identities, func(v config.Identity) bool { return v.Name == id.Name })
	if sets := s.cfg.Identities[i].Mirror; len(sets) > 0 {
		return s.awaitMirrored(ctx, from, sets, paths)
	}
	return s.synchronise(ctx, from, paths)
}

// awaitMirrored returns when every set has been copied by a run that began after the last change.
func (s *scene) awaitMirrored(ctx context.Context, from *lab.Node, sets, paths []string) error {
	var newest time.Time
	for _, path := range paths {
		changed, err := lastChange(onDisk(from, path))
		if err != nil {
			return err
		}
		if changed.After(newest) {
			newest = changed
		}
	}
	return s.await(ctx, fmt.Sprintf("mirrors %v of %s", sets, from.Name), func() string {
		st, err := pair.Status(ctx, from)
		if err != nil {
			return err.Error()
		}
		copied := 0
		for _, m := range st.Mirrors {
			if !slices.Contains(sets, m.Name) {
				continue
			}
			if began := time.Now().Add(-time.Duration(m.LagS * 1e9)); m.LagS < 0 || !began.After(newest) {
				return fmt.Sprintf("%s is %s, %.1f s old", m.Name, m.Direction, m.LagS)
			}
			copied++
		}
		if copied < len(sets) {
			return fmt.Sprintf("the status knows %d of them", copied)
		}
		return ""
	})
}

// lastChange is when anything below a path was changed last.
func lastChange(path string) (last time.Time, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err) // it was renamed since
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
		return ignoreMissing(err)
	})
	return last, err
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
