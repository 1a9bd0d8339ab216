// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/xdpha/xdpha/pkg/config"
)

// Groups is the directory of the cgroups of this daemon's services; empty: they have none.
func (m *Manager) Groups() string {
	if m.groups == nil {
		return ""
	}
	return m.groups.dir
}

// End ends services of the daemon that has its files in dir, an absolute path, and its services' cgroups
// in groupsDir, from another process, because that daemon does not: first all that runs in the cgroups
// is killed, so that nothing goes on for as long as a stop may take; then each service is stopped, for
// what is not in a cgroup: a unit of systemd's, or what an agent set up. It returns when that is done, or
// with what was not. When ctx ends nothing more is done, for what then runs is the daemon's.
func End(ctx context.Context, services []config.Service, env Env, dir, groupsDir string, log *slog.Logger) error {
	errs := make([]error, len(services))
	if groupsDir != "" {
		own := &groups{dir: groupsDir}
		var wg sync.WaitGroup
		for i, s := range services {
			wg.Go(func() { errs[i] = own.of(s.Name).kill() })
		}
		wg.Wait()
	}
	m := newManager(services, dir, log, nil, nil)
	defer m.Close()
	for _, u := range m.units {
		u.state.Env = env
	}
	return errors.Join(append(errs, m.Stop(ctx, m.names))...)
}

// kill ends all that runs in it at once. It returns when nothing lives there.
func (c *cgroup) kill() error {
	err := os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is none
	}
	if err != nil {
		return fmt.Errorf("kill what runs in cgroup: %w", err)
	}
	// A process that waits for a disk dies when the disk answers.
	dying, cancel := context.WithTimeout(context.Background(), killAfter)
	defer cancel()
	if c.empty(dying) != nil {
		return fmt.Errorf("killed, and still there after %v: processes %v; a device or a file server that does not answer may hold them", killAfter, c.processes())
	}
	return nil
}
