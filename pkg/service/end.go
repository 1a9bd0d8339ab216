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

// End ends services of the daemon that has its files in dir, from another process, because that daemon
// does not: first all that runs in their cgroups is killed, so that nothing of them goes on for as long
// as a stop may take; then each is stopped, as Manager.Stop does it, for what is not in a cgroup: a
// unit of systemd's, or what an agent set up. It returns when that is done, or with what was not.
func End(ctx context.Context, services []config.Service, env Env, dir string, log *slog.Logger) error {
	m, err := newManager(services, dir, log)
	if err != nil {
		log.Warn("services are ended without cgroups", "error", err)
	}
	defer m.Close()
	errs := make([]error, len(m.names))
	var wg sync.WaitGroup
	for i, name := range m.names {
		u := m.units[name]
		u.state.Env = env
		if m.groups != nil && u.cfg.Kind() != "systemd" {
			wg.Go(func() { errs[i] = m.groups.of(name).kill() })
		}
	}
	wg.Wait()
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
