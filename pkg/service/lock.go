// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stopPatience = 20 * time.Second       // of a daemon whose guard stops the same service
	endPatience  = 200 * time.Millisecond // of the guard: what the daemon's stop ran it has killed; who has the lock still may stand still for ever
	lockPoll     = 20 * time.Millisecond
)

// stopAlone waits until no other process stops the service, so that two stops, the daemon's and its
// guard's, do not hinder each other. It waits for as long as this process has patience, and then for
// nobody: a stop that hinders another one is better than none.
func (u *unit) stopAlone(ctx context.Context) (over func()) {
	if u.m.Locks == "" {
		return func() {}
	}
	f, err := os.OpenFile(filepath.Join(u.m.Locks, "stop-"+u.cfg.Name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil { // the directory may have gone with a daemon that has died
		u.m.log.Debug("service is stopped without a lock", "service", u.cfg.Name, "error", err)
		return func() {}
	}
	for waited := time.Duration(0); ; waited += lockPoll {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if waited == 0 && errors.Is(err, unix.EWOULDBLOCK) {
			u.m.log.Info("another process stops the service: it is waited for", "service", u.cfg.Name, "most", u.m.patience)
		}
		if err == nil || waited >= u.m.patience || !pause(ctx, lockPoll) { // nothing tells of a lock that ends, but a wait that cannot be given up
			return func() { f.Close() }
		}
	}
}
