// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// execDriver runs the commands of the configuration.
type execDriver struct {
	commands
	cfg config.Service
}

// start begins with a stop where processes are left of which nobody knew: an earlier daemon's, whose
// service is not to be adopted. Two of it would be worse than none.
func (d *execDriver) start(ctx context.Context, env Env, l leave) error {
	if d.group != nil && d.group.populated() {
		d.lines.log.Warn("processes of the service are left from before: it is stopped first")
		if err := d.stop(ctx, env); err != nil {
			return err
		}
	}
	r := active
	if d.cfg.Warm {
		r = standby
	}
	c := d.command("start", d.cfg.Start, env, r, d.cfg.Timeout.Start)
	c.whole, c.leave = true, l
	return d.runKeeping(ctx, c)
}

func (d *execDriver) promote(ctx context.Context, env Env, l leave) error {
	c := d.command("promote", d.cfg.Promote, env, active, d.cfg.Timeout.Start)
	c.leave = l
	return d.run(ctx, c, d.lines)
}

func (d *execDriver) demote(ctx context.Context, env Env) error {
	return d.run(ctx, d.command("demote", d.cfg.Demote, env, standby, d.cfg.Timeout.Stop), d.lines)
}

// stop runs the command, and then ends what is left in the cgroup: also after a command that fails,
// so that the service does not go on here while another node starts it.
func (d *execDriver) stop(ctx context.Context, env Env) error {
	began := time.Now()
	var err error
	if d.cfg.Stop != "" {
		err = d.run(ctx, d.command("stop", d.cfg.Stop, env, gone, d.cfg.Timeout.Stop), d.lines)
	}
	if d.group != nil && d.group.populated() {
		ctx, cancel := context.WithDeadline(ctx, began.Add(d.cfg.Timeout.Stop))
		defer cancel()
		err = errors.Join(err, d.group.end(ctx))
	}
	if err == nil {
		d.keep(nil)
	}
	return err
}

func (d *execDriver) command(verb, script string, env Env, r role, limit time.Duration) command {
	return command{verb: verb, argv: shell(script), env: d.environ(env, r), limit: limit, group: d.group}
}

// look runs the check. What it prints is not logged: it would be, for ever; the last line goes into
// its error. It is no part of the service, nor of its cgroup.
func (d *execDriver) look(ctx context.Context, env Env, want role) error {
	if d.cfg.Check == "" {
		return nil
	}
	return d.run(ctx, command{verb: "check", argv: shell(d.cfg.Check), env: d.environ(env, want), limit: d.cfg.Timeout.Check}, nil)
}

// find asks the check, or looks for processes in the cgroup. Neither tells whether a warm service
// is promoted; to promote it again is harmless.
func (d *execDriver) find(ctx context.Context, env Env) (role, error) {
	r := active
	if d.cfg.Warm {
		r = standby
	}
	switch {
	case d.cfg.Check != "":
		if d.look(ctx, env, r) != nil {
			return gone, nil
		}
		return r, nil
	case d.group != nil && d.group.populated():
		return r, nil
	}
	return gone, errUnknown
}

func (d *execDriver) every(role) time.Duration {
	if d.cfg.Check == "" {
		return 0
	}
	return d.cfg.Every
}

func (d *execDriver) changed() <-chan struct{}      { return nil }
func (d *execDriver) startLimit() time.Duration     { return d.cfg.Timeout.Start }
func (d *execDriver) prepare(context.Context) error { return nil }
