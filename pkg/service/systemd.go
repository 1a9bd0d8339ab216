// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/xdpha/xdpha/pkg/config"
)

// systemdDriver has systemd start and stop a unit. Its state is what systemd's signals said last.
type systemdDriver struct {
	bus  *bus
	unit *busUnit
	cfg  config.Service
}

func (d *systemdDriver) start(ctx context.Context, _ Env, l leave) error {
	return d.job(ctx, "start", d.cfg.Timeout.Start, func(ctx context.Context, c *connection, done chan<- string) (int, error) {
		if err := l.before(ctx); err != nil {
			return 0, err
		}
		job, err := c.StartUnitContext(ctx, d.unit.name, "replace", done)
		if err == nil {
			err = l.after()
		}
		return job, err
	})
}

func (d *systemdDriver) stop(ctx context.Context, _ Env) error {
	err := d.job(ctx, "stop", d.cfg.Timeout.Stop, func(ctx context.Context, c *connection, done chan<- string) (int, error) {
		return c.StopUnitContext(ctx, d.unit.name, "replace", done)
	})
	if isNamed(err, noSuchUnit) {
		return nil // it is not there, so it does not run
	}
	return err
}

// kill queues the stop before it kills: systemd starts nothing anew, by Restart=, for which a stop waits.
func (d *systemdDriver) kill(ctx context.Context, _ *cgroup) error {
	ctx, cancel := context.WithTimeout(ctx, busAnswer)
	defer cancel()
	c, err := d.bus.connected(ctx)
	if err != nil {
		return fmt.Errorf("kill %s: %w", d.unit.name, err)
	}
	_, err = c.StopUnitContext(ctx, d.unit.name, "replace", nil)
	killed := c.KillUnitWithTarget(ctx, d.unit.name, systemd.All, int32(syscall.SIGKILL))
	if isNamed(killed, noSuchUnit) || isNamed(killed, "org.freedesktop.DBus.Error.NotSupported") {
		return nil // none is loaded, or it is of a type that has no processes
	}
	if err = errors.Join(err, killed); err != nil {
		return fmt.Errorf("kill %s: %w", d.unit.name, refusal(err))
	}
	return nil
}

const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

// A unit has no roles: the configuration refuses to make it warm.
func (d *systemdDriver) promote(context.Context, Env, leave) error { return nil }
func (d *systemdDriver) demote(context.Context, Env) error         { return nil }

// job has systemd do something, and waits until it says that this is done.
func (d *systemdDriver) job(ctx context.Context, verb string, limit time.Duration, queue func(context.Context, *connection, chan<- string) (int, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeLimit)
	defer cancel()
	c, err := d.bus.connected(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, d.unit.name, err)
	}
	done := make(chan string, 1)
	if _, err := queue(ctx, c, done); err != nil {
		return fmt.Errorf("%s %s: %w", verb, d.unit.name, refusal(err))
	}
	var result string
	select {
	case result = <-done:
	case <-c.lost:
		return fmt.Errorf("%s %s: the connection to systemd was lost", verb, d.unit.name)
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), errTimeLimit) {
			return fmt.Errorf("%s %s: %w: systemd has not done it within %v", verb, d.unit.name, errTimeLimit, limit)
		}
		return fmt.Errorf("%s %s: %w", verb, d.unit.name, context.Cause(ctx))
	}
	if err := d.unit.ask(ctx, c); err != nil { // the job's end may come before the signal of its effect
		return fmt.Errorf("%s: %w", verb, err)
	}
	if result != "done" && result != "skipped" { // skipped: it is so already
		return fmt.Errorf("%s %s: systemd says %s: see journalctl -u %s", verb, d.unit.name, result, d.unit.name)
	}
	return nil
}

// refusal adds what to do about an error by which systemd refuses a job for good.
func refusal(err error) error {
	for name, remedy := range map[string]string{
		noSuchUnit:                                                    "install it, or correct systemd: in the configuration",
		"org.freedesktop.systemd1.LoadFailed":                         "correct it, see systemctl status",
		"org.freedesktop.systemd1.UnitMasked":                         "systemctl unmask it",
		"org.freedesktop.DBus.Error.AccessDenied":                     "name it in /etc/polkit-1/rules.d/50-xdpha.rules",
		"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": "name it in /etc/polkit-1/rules.d/50-xdpha.rules",
	} {
		if isNamed(err, name) {
			return inVain{fmt.Errorf("%w: %s", err, remedy)}
		}
	}
	return err
}

func isNamed(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// look goes by the last signal. A unit that has ended is asked for once more: one that systemd is
// about to restart by itself was signalled as failed on the way to that.
func (d *systemdDriver) look(ctx context.Context, _ Env, _ role) error {
	for confirmed := false; ; confirmed = true {
		s, known := d.unit.now()
		if !known {
			return fmt.Errorf("%s: %w: there is no connection to systemd", d.unit.name, errNotLooked)
		}
		err := s.good(d.unit.name)
		if confirmed || !errors.Is(err, errGone) {
			return err
		}
		c, err := d.bus.connected(ctx)
		if err == nil {
			err = d.unit.ask(ctx, c)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errNotLooked, err)
		}
	}
}

// good is nil for a unit that does its work. systemd may be starting it anew by itself: that is no
// end yet.
func (s unitState) good(name string) error {
	switch {
	case s.active == "active", s.active == "reloading", s.active == "refreshing":
		return nil
	case s.active == "activating", s.active == "deactivating", s.active == "maintenance", strings.HasSuffix(s.sub, "-before-auto-restart"):
		return fmt.Errorf("%s is %s (%s)", name, s.active, s.sub)
	case s.load != "loaded":
		return fmt.Errorf("%s %w: its unit is %s", name, errGone, s.load)
	}
	return fmt.Errorf("%s %w: it is %s (%s): see journalctl -u %s; a oneshot unit needs RemainAfterExit=yes", name, errGone, s.active, s.sub, name)
}

func (d *systemdDriver) find(ctx context.Context, _ Env) (role, error) {
	c, err := d.bus.connected(ctx)
	if err != nil {
		return gone, errors.Join(errUnknown, err)
	}
	if err := d.unit.ask(ctx, c); err != nil {
		return gone, errors.Join(errUnknown, err)
	}
	s, _ := d.unit.now()
	if errors.Is(s.good(d.unit.name), errGone) || s.active == "deactivating" {
		return gone, nil
	}
	return active, nil
}

func (d *systemdDriver) every(role) time.Duration  { return d.cfg.Every } // of what is in memory
func (d *systemdDriver) changed() <-chan struct{}  { return d.unit.changed }
func (d *systemdDriver) startLimit() time.Duration { return d.cfg.Timeout.Start }
func (d *systemdDriver) close()                    {}

// prepare loads the unit, and sees that nobody else starts it.
func (d *systemdDriver) prepare(ctx context.Context) error {
	c, err := d.bus.connected(ctx)
	if err != nil {
		return err
	}
	p, err := c.GetUnitPropertiesContext(ctx, d.unit.name)
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", d.unit.name, err)
	}
	switch load, _ := p["LoadState"].(string); load {
	case "loaded":
	case "not-found":
		return fmt.Errorf("systemd knows no unit %s: install it, or correct systemd: in the configuration", d.unit.name)
	default:
		return fmt.Errorf("%s is %s: see systemctl status %s", d.unit.name, load, d.unit.name)
	}
	if file, _ := p["UnitFileState"].(string); file == "enabled" && !d.cfg.Concurrent {
		return fmt.Errorf("%s is enabled, so systemd starts it at boot, whoever owns: systemctl disable %s", d.unit.name, d.unit.name)
	}
	return nil
}

// cgroupDir asks for the unit's own (org.freedesktop.systemd1(5), ControlGroup).
func (d *systemdDriver) cgroupDir(ctx context.Context) (string, error) {
	c, err := d.bus.connected(ctx)
	if err != nil {
		return "", err
	}
	kind := strings.TrimPrefix(path.Ext(d.unit.name), ".")
	p, err := c.GetUnitTypePropertyContext(ctx, d.unit.name, strings.ToUpper(kind[:1])+kind[1:], "ControlGroup")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotMeasured, err)
	}
	group, _ := p.Value.Value().(string)
	if group == "" {
		return "", fmt.Errorf("%w: %s has no cgroup: it does not run", ErrNotMeasured, d.unit.name)
	}
	dir, err := cgroupFile(group)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotMeasured, err)
	}
	return dir, nil
}
