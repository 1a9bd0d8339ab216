// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
)

// maxMeta is the most that is read of what an agent says of itself.
const maxMeta = 1 << 20

// ocfRoot is where distributions put resource agents (OCF_ROOT).
const ocfRoot = "/usr/lib/ocf"

// What an action's exit status means (ClusterLabs OCF Resource Agent API 1.1, 3.3.1).
const (
	ocfSuccess       = 0
	ocfUnimplemented = 3
	ocfNotRunning    = 7
	ocfPromoted      = 8
	ocfFailed        = 9 // while promoted
	ocfDegraded      = 190
	ocfDegradedProm  = 191
)

var ocfCodes = map[int]string{
	1:                "OCF_ERR_GENERIC: a failure of another kind",
	2:                "OCF_ERR_ARGS: its parameters are not right for this host",
	ocfUnimplemented: "OCF_ERR_UNIMPLEMENTED: the agent has no such action",
	4:                "OCF_ERR_PERM: it lacks privileges; agents expect to run as root",
	5:                "OCF_ERR_INSTALLED: something that it needs is not installed on this host",
	6:                "OCF_ERR_CONFIGURED: its parameters are not right on any host",
	ocfNotRunning:    "OCF_NOT_RUNNING: it is stopped",
	ocfPromoted:      "OCF_RUNNING_PROMOTED: it runs promoted",
	ocfFailed:        "OCF_FAILED_PROMOTED: it is promoted and has failed",
	ocfDegraded:      "OCF_DEGRADED: it runs and will fail soon",
	ocfDegradedProm:  "OCF_DEGRADED_PROMOTED: it runs promoted and will fail soon",
}

// agentError is an action that did not exit with 0.
type agentError struct {
	verb   string
	status int
	reason string // in the agent's words; may be empty
}

func (e *agentError) Error() string {
	s := fmt.Sprintf("%s: exit status %d", e.verb, e.status)
	if name := ocfCodes[e.status]; name != "" {
		s = fmt.Sprintf("%s: exit status %d, %s", e.verb, e.status, name)
	}
	if e.reason != "" {
		s += ": " + e.reason
	}
	return s
}

// Is: those that stay as they are until somebody changes something on this host.
func (e *agentError) Is(target error) bool {
	return target == errInVain && e.status >= 2 && e.status <= 6
}

// ocfDriver runs a resource agent. Its processes run in a cgroup, which measures them; what a stop
// leaves is the agent's to say: a helper that another service uses too may be among it.
type ocfDriver struct {
	commands
	cfg   config.Service
	root  string // OCF_ROOT
	agent string
	tools string // directory of stand-ins for Pacemaker's commands

	mu   sync.Mutex
	meta *agentMeta // nil until it was read
	warn int        // the status that a monitor warned of last
	tool bool       // the tools are written
}

func newOCFDriver(c commands, s config.Service, dir string) *ocfDriver {
	return &ocfDriver{
		commands: c, cfg: s, root: ocfRoot,
		agent: filepath.Join(ocfRoot, "resource.d", s.OCF.Provider, s.OCF.Type),
		tools: filepath.Join(dir, "ocf-tools"),
	}
}

func (d *ocfDriver) start(ctx context.Context, env Env, l leave) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.notify(ctx, env, "pre", "start")
	err := d.action(ctx, "start", env, gone, d.limit("start", d.cfg.Timeout.Start), func(ctx context.Context, c command) error {
		c.leave = l
		return d.runKeeping(ctx, c)
	})
	if err == nil {
		d.notify(ctx, env, "post", "start")
	}
	return err
}

func (d *ocfDriver) promote(ctx context.Context, env Env, l leave) error {
	return d.rankTo(ctx, env, "promote", standby, d.cfg.Timeout.Start, l)
}

// demote is harmless if nothing runs: then there is nothing to demote.
func (d *ocfDriver) demote(ctx context.Context, env Env) error {
	err := d.rankTo(ctx, env, "demote", active, d.cfg.Timeout.Stop, nil)
	if status(err) == ocfNotRunning {
		return nil
	}
	return err
}

func (d *ocfDriver) rankTo(ctx context.Context, env Env, verb string, from role, limit time.Duration, l leave) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.notify(ctx, env, "pre", verb)
	err := d.action(ctx, verb, env, from, d.limit(verb, limit), func(ctx context.Context, c command) error {
		c.leave = l
		return d.runLogged(ctx, c)
	})
	if err == nil {
		d.notify(ctx, env, "post", verb)
	}
	return err
}

func (d *ocfDriver) stop(ctx context.Context, env Env) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.notify(ctx, env, "pre", "stop")
	err := d.action(ctx, "stop", env, standby, d.limit("stop", d.cfg.Timeout.Stop), d.runLogged)
	if err != nil && status(err) != ocfNotRunning {
		return err
	}
	d.notify(ctx, env, "post", "stop")
	d.keep(nil)
	return nil
}

// look monitors. An agent that says that nothing runs is sure.
func (d *ocfDriver) look(ctx context.Context, env Env, want role) error {
	got, err := d.monitor(ctx, env, want, d.every(want))
	switch {
	case err != nil:
		return err
	case got == gone:
		return fmt.Errorf("monitor: exit status %d, %s: it %w", ocfNotRunning, ocfCodes[ocfNotRunning], errGone)
	case got != want:
		return fmt.Errorf("monitor: it is %s and should be %s: it %w so", got, want, errGone)
	}
	return nil
}

func (d *ocfDriver) find(ctx context.Context, env Env) (role, error) {
	if err := d.ready(ctx); err != nil {
		return gone, errors.Join(errUnknown, err)
	}
	return d.monitor(ctx, env, gone, 0)
}

// monitor returns what runs. By an interval of 0 the agent sees that this is the first look, for
// which it is no failure that nothing runs.
func (d *ocfDriver) monitor(ctx context.Context, env Env, want role, every time.Duration) (role, error) {
	if err := d.ready(ctx); err != nil {
		return gone, err
	}
	err := d.action(ctx, "monitor", env, want, d.limit("monitor", d.cfg.Timeout.Check), func(ctx context.Context, c command) error {
		c.group = nil // it is no part of the service
		c.env = append(c.env, "OCF_RESKEY_CRM_meta_interval="+millis(every))
		return d.run(ctx, c, nil)
	})
	found := standby
	switch s := status(err); s {
	case ocfSuccess:
		d.degraded(0, nil)
	case ocfDegraded:
		d.degraded(s, err)
	case ocfPromoted:
		found = active
		d.degraded(0, nil)
	case ocfDegradedProm:
		found = active
		d.degraded(s, err)
	case ocfNotRunning:
		return gone, nil
	default:
		return gone, err
	}
	if !d.cfg.Warm { // it has no roles here
		found = active
	}
	return found, nil
}

// degraded tells once of what the agent foresees.
func (d *ocfDriver) degraded(status int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if status != 0 && d.warn != status {
		d.lines.log.Warn("service is degraded", "error", err)
	}
	d.warn = status
}

// notify tells an agent that wants it what happens to its clones. What other nodes do, this
// one does not know: the lists name this node alone.
func (d *ocfDriver) notify(ctx context.Context, env Env, when, verb string) {
	if !d.cfg.Warm || !d.meta.has("notify") {
		return
	}
	c := d.command("notify", env, standby, d.limit("notify", 0))
	c.env = append(c.env, "OCF_RESKEY_CRM_meta_notify_type="+when, "OCF_RESKEY_CRM_meta_notify_operation="+verb,
		"OCF_RESKEY_CRM_meta_notify_"+verb+"_uname="+env.Node, "OCF_RESKEY_CRM_meta_notify_"+verb+"_resource="+d.service+":0")
	promoted := verb == "promote" && when == "post" || verb == "demote" && when == "pre"
	for _, list := range []string{"active", "start", "stop", "master", "promoted", "slave", "unpromoted"} {
		here := list == "active" || (list == "master" || list == "promoted") == promoted && list != "start" && list != "stop"
		if here && !(verb == "start" && when == "pre") && !(verb == "stop" && when == "post") {
			c.env = append(c.env, "OCF_RESKEY_CRM_meta_notify_"+list+"_uname="+env.Node, "OCF_RESKEY_CRM_meta_notify_"+list+"_resource="+d.service+":0")
		}
	}
	if err := d.run(ctx, c, d.lines); err != nil { // Pacemaker takes no notice of it either
		d.lines.log.Warn("agent failed to take a notification", "notification", when+"-"+verb, "error", err)
	}
}

// action runs one of the agent's actions.
func (d *ocfDriver) action(ctx context.Context, verb string, env Env, r role, limit time.Duration, run func(context.Context, command) error) error {
	if verb != "validate-all" { // which changes nothing
		if err := d.writeTools(); err != nil {
			return err
		}
	}
	err := run(ctx, d.command(verb, env, r, limit))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Exited() || errors.Is(err, errTimeLimit) || ctx.Err() != nil {
		return err
	}
	e := &agentError{verb: verb, status: exit.ExitCode()}
	var line *lineError
	if errors.As(err, &line) {
		e.reason = line.line
	}
	return e
}

func (d *ocfDriver) runLogged(ctx context.Context, c command) error { return d.run(ctx, c, d.lines) }

// status is an action's exit status: 0 without an error, -1 if there is none.
func status(err error) int {
	var e *agentError
	switch {
	case err == nil:
		return ocfSuccess
	case errors.As(err, &e):
		return e.status
	}
	return -1
}

func (d *ocfDriver) command(verb string, env Env, r role, limit time.Duration) command {
	return command{verb: verb, argv: []string{d.agent, verb}, limit: limit, group: d.group, env: append(d.environ(env, r), d.agentEnviron(verb, env, r, limit)...)}
}

// agentEnviron is what the API and Pacemaker give an agent.
func (d *ocfDriver) agentEnviron(verb string, env Env, r role, limit time.Duration) []string {
	e := []string{
		"OCF_ROOT=" + d.root, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1", "OCF_OUTPUT_FORMAT=text",
		"OCF_RESOURCE_INSTANCE=" + d.service, "OCF_RESOURCE_PROVIDER=" + d.cfg.OCF.Provider, "OCF_RESOURCE_TYPE=" + d.cfg.OCF.Type,
		"OCF_RESKEY_crm_feature_set=3.17.4", // of Pacemaker 2.1.6, whose words these are
		"OCF_RESKEY_CRM_meta_name=" + verb, "OCF_RESKEY_CRM_meta_timeout=" + millis(limit), "OCF_RESKEY_CRM_meta_on_node=" + env.Node,
		"HA_LOGFACILITY=none", "HA_LOGTAG=" + d.service, // what it logs goes to its output
		"HA_SBIN_DIR=" + d.tools, "PATH=" + d.tools + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
	}
	if verb == "monitor" || verb == "validate-all" {
		depth := d.cfg.OCF.Depth
		if verb == "validate-all" {
			depth = 10 // also what can be seen on this host alone (1.1)
		}
		e = append(e, "OCF_CHECK_LEVEL="+strconv.Itoa(depth))
	}
	if d.cfg.Warm {
		word := map[role]string{gone: "Stopped", standby: "Unpromoted", active: "Promoted"}[r]
		e = append(e, "OCF_RESKEY_CRM_meta_role="+word, "OCF_RESKEY_CRM_meta_clone=0", "OCF_RESKEY_CRM_meta_clone_max=2", "OCF_RESKEY_CRM_meta_clone_node_max=1",
			"OCF_RESKEY_CRM_meta_promotable=true", "OCF_RESKEY_CRM_meta_promoted_max=1", "OCF_RESKEY_CRM_meta_promoted_node_max=1",
			"OCF_RESKEY_CRM_meta_master_max=1", "OCF_RESKEY_CRM_meta_master_node_max=1", // the same, as it was called before 1.1
			"OCF_RESKEY_CRM_meta_globally_unique=false", "OCF_RESKEY_CRM_meta_interleave=true", "OCF_RESKEY_CRM_meta_notify=true")
	}
	for _, p := range d.cfg.OCF.Params {
		e = append(e, "OCF_RESKEY_"+p.Name+"="+p.Value)
	}
	return e
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// limit is an action's: as configured, or as the agent advises.
func (d *ocfDriver) limit(action string, configured time.Duration) time.Duration {
	if configured > 0 {
		return configured
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.meta == nil {
		return defaultActionTimeout
	}
	return d.meta.timeout(action)
}

func (d *ocfDriver) every(r role) time.Duration {
	if d.cfg.Every > 0 {
		return d.cfg.Every
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.meta == nil {
		return defaultMonitorInterval
	}
	return d.meta.interval(r, d.cfg.OCF.Depth)
}

func (d *ocfDriver) changed() <-chan struct{}  { return nil }
func (d *ocfDriver) startLimit() time.Duration { return d.limit("start", d.cfg.Timeout.Start) }

// ready reads the agent's meta-data, once: no action runs without.
func (d *ocfDriver) ready(ctx context.Context) error {
	d.mu.Lock()
	known := d.meta != nil
	d.mu.Unlock()
	if known {
		return nil
	}
	text, err := d.metaData(ctx)
	if err != nil {
		return err
	}
	meta, err := parseMeta(text)
	if err == nil {
		err = meta.fits(&d.cfg)
	}
	if err != nil {
		return inVain{fmt.Errorf("%s: %w", d.cfg.OCF.Agent(), err)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.meta == nil { // once: who has seen it reads it without the lock
		d.meta = meta
	}
	return nil
}

// metaData is what the agent prints of itself. It takes no part in the log.
func (d *ocfDriver) metaData(ctx context.Context) ([]byte, error) {
	if _, err := os.Stat(d.agent); errors.Is(err, fs.ErrNotExist) {
		return nil, inVain{fmt.Errorf("%s: there is no %s on this host: install the package that has it, resource-agents for ocf:heartbeat", d.cfg.OCF.Agent(), d.agent)}
	}
	fd, err := unix.MemfdCreate("xdpha-meta-data", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create file for meta-data: %w", err)
	}
	out := os.NewFile(uintptr(fd), "meta-data")
	defer out.Close()
	c := d.command("meta-data", Env{}, gone, defaultActionTimeout)
	c.group, c.quiet = nil, true
	if err := c.run(ctx, out); err != nil {
		return nil, fmt.Errorf("%s: %w", d.cfg.OCF.Agent(), err)
	}
	return io.ReadAll(io.NewSectionReader(out, 0, maxMeta))
}

// prepare validates the parameters on this host.
func (d *ocfDriver) prepare(ctx context.Context) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	if !d.meta.has("validate-all") {
		return nil
	}
	err := d.action(ctx, "validate-all", Env{}, gone, d.limit("validate-all", 0), func(ctx context.Context, c command) error {
		c.group = nil
		return d.run(ctx, c, nil)
	})
	if err != nil && status(err) != ocfUnimplemented {
		return fmt.Errorf("%s: %w", d.cfg.OCF.Agent(), err)
	}
	return nil
}

// tool stands in for those of Pacemaker's commands that agents call.
//
//go:embed ocftool.sh
var tool []byte

var toolNames = []string{"crm_attribute", "crm_master", "crm_node", "crm_resource"}

func (d *ocfDriver) writeTools() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.tool {
		if err := writeTools(d.tools); err != nil {
			return err
		}
		d.tool = true
	}
	return nil
}

// writeTools puts them where an agent finds them before any others.
func writeTools(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write tools for OCF agents: %w", err)
	}
	for _, name := range toolNames {
		file := filepath.Join(dir, name)
		if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, tool) {
			continue
		}
		tmp, err := os.CreateTemp(dir, "."+name) // several services may write it at once
		if err == nil {
			_, err = tmp.Write(tool)
			err = errors.Join(err, tmp.Chmod(0o755), tmp.Close(), os.Rename(tmp.Name(), file))
		}
		if err != nil {
			return fmt.Errorf("write tools for OCF agents: %w", err)
		}
	}
	return nil
}
