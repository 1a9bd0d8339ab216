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

// End ends services of the daemon that has its files in dir, an absolute path, its services' cgroups in
// groupsDir, and its Locks in locks, from another process, because that daemon does not: first all that runs in the cgroups
// and in units of systemd's is killed, so that nothing goes on for as long as a stop may take; then each
// service is stopped, for what lives elsewhere: what an agent set up, or a command had others start. It
// returns when that is done, or with what was not. When ctx ends nothing more is done, for what then runs
// is the daemon's.
func End(ctx context.Context, services []config.Service, env Env, dir, groupsDir, locks string, log *slog.Logger) error {
	m := newManager(services, dir, log, nil, nil) // its commands are not in the cgroups, where they would be killed
	defer m.Close()
	m.Locks, m.patience = locks, endPatience
	var own *groups
	if groupsDir != "" {
		own = &groups{dir: groupsDir}
	}
	errs := make([]error, len(m.names))
	var wg sync.WaitGroup
	for i, name := range m.names {
		u := m.units[name]
		u.state.Env = env
		wg.Go(func() { errs[i] = u.driver.kill(ctx, own.of(name)) })
	}
	wg.Wait()
	return errors.Join(append(errs, m.Stop(ctx, m.names))...)
}

// kill ends all that runs in it at once. It returns when nothing lives there.
func (c *cgroup) kill() error {
	if c == nil {
		return nil
	}
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
