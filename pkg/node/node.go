// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/announce"
	"github.com/xdpha/xdpha/pkg/arbiter"
	"github.com/xdpha/xdpha/pkg/arbiter/etcd"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/journal"
	"github.com/xdpha/xdpha/pkg/line"
	"github.com/xdpha/xdpha/pkg/metrics"
	"github.com/xdpha/xdpha/pkg/mirror"
	"github.com/xdpha/xdpha/pkg/service"
	"github.com/xdpha/xdpha/pkg/tickle"
)

// Options are what Run needs.
type Options struct {
	Config   *config.Config
	Load     func() (*config.Config, error) // the configuration as it is in its files
	Hangup   <-chan os.Signal               // a value asks for a reload
	RunDir   string                         // control socket, lock
	StateDir string                         // generations, journal
	PinDir   string                         // on a bpffs
	Keep     bool                           // leave addresses, services and the datapath as they are when told to end
	Log      *slog.Logger
	Version  string
	// GuardFlags follow GuardCommand on the command line by which this program is started as the guard.
	GuardFlags []string
}

// leaveTime bounds the hand-over when the daemon is told to end: more than the core's
// own limits of it add up to, services that stop slowly included.
const leaveTime = 330 * time.Second

// inboxSize is more than all sources together have in flight.
const inboxSize = 1024

// node is the running daemon.
type node struct {
	Options
	hub      *control.Hub
	host     *host.Host
	dp       *loader.Datapath
	announce *announce.Announcer
	services *service.Manager
	line     *line.Line       // nil: nothing is said to other daemons
	mirrors  *mirror.Manager  // nil: there are no sets
	tickles  *tickle.Exchange // nil: no identity has any
	fence    *arbiter.Agent   // nil: the arbiter is another one
	keeper   *etcd.Keeper     // nil: the arbiter is another one
	metrics  *metrics.Collector
	store    *store
	journal  *journal.Writer
	pacer    *pacer
	hooks    *hooks
	places   places
	carriers carriers
	guard    itsGuard

	inbox   chan any        // events for the core, and func() to run in the loop
	told    row             // of services
	ended   <-chan struct{} // nobody reads the inbox any more
	working context.Context // while the daemon runs
	clean   bool            // close takes everything away: nothing is owned here
	hangs   bool            // something under way has not ended: nothing is taken away
	uses    uses
	goes    atomic.Bool // the daemon leaves: warm services are stopped, too
	effects effects
	loop    loopState

	mu     sync.Mutex // guards shared
	shared shared
}

// Run is the daemon: it prepares the node, runs until ctx ends, hands over and
// cleans up. With Keep it leaves everything to its successor.
func Run(ctx context.Context, o Options) (err error) {
	for _, dir := range []string{o.RunDir, o.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	unlock, err := locked(func() (func(), int, error) { return lock(filepath.Join(o.RunDir, "lock")) })
	if err != nil {
		return err
	}
	defer unlock()
	unlockHost, err := locked(func() (func(), int, error) { return lockHost(mark(o.Config)) })
	if err != nil {
		return err
	}
	defer unlockHost()
	n := &node{Options: o, hub: control.NewHub(4096), inbox: make(chan any, inboxSize), guard: itsGuard{known: make(chan struct{})}, shared: newShared(len(o.Config.Identities))}
	if o.Config.Arbiter.None {
		o.Log.Warn("arbiter none: a broken network between the nodes makes two owners; list hosts under arbiter.reach, or write arbiter.fence")
	}
	if o.Config.Arbiter.MutualKill() {
		o.Log.Warn("arbiter fence: if both nodes live and do not hear each other, each switches the other off at the same time; give one of them a longer delay")
	}
	_, noPins := os.Stat(o.PinDir)
	n.clean = errors.Is(noPins, fs.ErrNotExist) // a first start that fails leaves nothing
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.prepare(); err != nil {
		return err
	}
	n.clean = false
	return n.serve(ctx)
}

// prepare puts everything in place that the node needs before its first step.
func (n *node) prepare() (err error) {
	cfg := n.Config
	if n.store, err = openStore(n.StateDir, cfg); err != nil {
		return err
	}
	if n.journal, err = journal.Open(filepath.Join(n.StateDir, journal.Name)); err != nil {
		return err
	}
	if n.host, err = host.New(n.Log, mark(cfg)); err != nil {
		return err
	}
	n.hooks = newHooks(cfg.Hooks.Events, n.Log)
	if err := n.findNICs(); err != nil {
		return err
	}
	n.findCarriers(loader.Carriers(n.PinDir))
	tick, err := n.prepareDatapath()
	if err != nil {
		return err
	}
	if err := n.prepareIdentities(); err != nil {
		return err
	}
	n.announce = announce.New(n.Log)
	for i, id := range cfg.Identities {
		if n.carrierStands(i) != nil {
			continue
		}
		if err := n.announce.Prepare(host.DeviceName(id.Name)); err != nil {
			return fmt.Errorf("prepare announcements: %w", err)
		}
	}
	if cfg.Arbiter.Fence != nil {
		n.fence = arbiter.New(cfg, cfg.Peer(), loader.Now)
	}
	if err := n.prepareEtcd(); err != nil {
		return err
	}
	if err := n.prepareLine(); err != nil {
		return err
	}
	n.services = service.New(cfg.Services, n.StateDir, n.Log, n.serviceChanged)
	n.services.Permit = n.mayStart
	if n.services.Locks, err = filepath.Abs(n.RunDir); err != nil {
		return err
	}
	n.metrics = metrics.NewCollector(source{n})
	n.pacer, err = newPacer(n, tick.start)
	if err != nil {
		return err
	}
	up := n.loop.linkUp
	c := coreConfig(cfg, !n.dp.Adopted(), n.dp.Floor, n.aside, n.mayRunHere, n.fence)
	n.loop = newLoopState(c, cfg, n.store.saved)
	n.journal.Begin(journal.Start{
		Version: n.Version, Boot: bootID(), AtNS: loader.Now(), Wall: time.Now(), Config: c, Saved: n.store.saved,
	}, n.loop.machine)
	n.loop.linkUp = up // the watch tells of changes from here on
	n.loop.parts.mine = cfg.Parts()
	if n.loop.flags = n.dp.Flags(); n.loop.flags.Part {
		n.loop.flags.Part, n.loop.flags.Services = false, 0
	}
	for i := range n.loop.unseen {
		n.loop.unseen[i] = n.dp.Adopted()
	}
	n.restoreChanges()
	return nil
}

// bootID tells one boot's times from another's; where the kernel gives none, there is none.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// endTime is how long what is under way may take when the daemon ends.
const endTime = 30 * time.Second

// awaitEnd waits for what is under way: but a disk that hangs gives nothing back.
func (n *node) awaitEnd(wait func(), limit time.Duration) error {
	ended := make(chan struct{})
	go func() { wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		n.hangs = true
		return fmt.Errorf("end: what is under way has not ended within %v, for a disk or a process hangs; everything stays as it is until the supervisor's lease ends", limit)
	}
}

// serve runs all parts until ctx ends and the core has left.
func (n *node) serve(ctx context.Context) (err error) {
	work, stop := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	defer func() {
		stop(nil)
		err = errors.Join(err, n.awaitEnd(wg.Wait, endTime))
	}()
	n.ended, n.working = work.Done(), work
	part := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(work); err != nil && work.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	n.effects.start(n, work, &wg)
	wg.Go(func() { n.prepareServices(work) })
	socket, err := control.Listen(n.RunDir)
	if err != nil {
		return err
	}
	events, err := n.dp.Events()
	if err != nil {
		socket.Close()
		return err
	}
	var listener net.Listener
	if n.Config.Metrics.Listen != "" {
		if listener, err = net.Listen("tcp", n.Config.Metrics.Listen); err != nil {
			socket.Close()
			return errors.Join(fmt.Errorf("listen for metrics: %w", err), events.Close())
		}
	}
	part("control", func(ctx context.Context) error { return control.NewServer(backend{n}, n.Log).Serve(ctx, socket) })
	if listener != nil {
		part("metrics", func(ctx context.Context) error {
			h, err := metrics.Handler(n.metrics, backend{n}.Status, n.Log)
			if err != nil {
				return err
			}
			return metrics.Serve(ctx, listener, h, n.Log)
		})
	}
	part("pacer", n.pacer.run)
	part("kernel events", func(ctx context.Context) error { return n.readEvents(ctx, events) })
	part("host", n.watchHost)
	part("programs", n.watchPrograms)
	part("guard", n.keepGuard)
	part("hooks", n.hooks.run)
	part("use", n.watchUse)
	if n.keeper != nil {
		part("etcd", func(ctx context.Context) error { n.keeper.Run(ctx); return nil })
	}
	if n.line != nil {
		part("line", func(ctx context.Context) error { n.line.Run(ctx); return nil })
	}
	if n.tickles != nil {
		part("tickles", func(ctx context.Context) error { n.tickles.Run(ctx); return nil })
	}
	if n.mirrors != nil {
		part("mirrors", func(ctx context.Context) error { n.mirrors.Run(ctx); return nil })
	}
	part("reload", n.watchHangup)
	loopDone := make(chan struct{})
	part("loop", func(ctx context.Context) error {
		defer close(loopDone)
		return n.run(ctx)
	})
	n.post(core.Started{})
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // no supervisor listens: no error
	n.Log.Info("node runs", "node", n.Config.Nodes[n.Config.Self].Name, "adopted", n.dp.Adopted(), "modes", n.modes())

	select {
	case <-ctx.Done():
	case <-work.Done():
		return fmt.Errorf("%w: the kernel goes on until the supervisor's lease ends: start the daemon again", context.Cause(work))
	}
	if n.Keep {
		return nil
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	n.goes.Store(true)
	n.post(core.CmdLeave{Op: n.effects.commands.Add(1)})
	select {
	case <-loopDone:
		n.clean = !n.view().snapshot.Frozen // frozen: all stays as it is
		return nil
	case <-work.Done():
		return context.Cause(work)
	case <-time.After(leaveTime):
		return fmt.Errorf("leave: the hand-over did not end within %v; everything stays as it is until the supervisor's lease ends", leaveTime)
	}
}

func (n *node) modes() map[string]string {
	m := map[string]string{}
	for role, name := range loader.LinkNames {
		if mode := n.dp.Mode(role); mode != "" {
			m[name] = mode
		}
	}
	return m
}

// close leaves the host as it was; or as it is, with Keep and whenever something may
// still be served here: then the kernel's leases end it.
func (n *node) close() error {
	if n.hangs {
		return nil // what is under way uses it still
	}
	var errs []error
	if n.clean {
		errs = append(errs, n.endGuard())
	}
	if n.pacer != nil {
		errs = append(errs, n.pacer.close())
	}
	if n.announce != nil {
		errs = append(errs, n.announce.Close())
	}
	if n.services != nil {
		n.services.Close()
	}
	// Addresses go before the gate does: behind an absent gate they would answer beside the peer.
	if n.host != nil {
		if n.clean {
			errs = append(errs, n.removeDevices())
		}
		errs = append(errs, n.host.Close())
	}
	errs = append(errs, n.closeEtcd())
	if n.dp != nil {
		if n.clean {
			errs = append(errs, n.dp.Remove())
		}
		errs = append(errs, n.dp.Close())
	}
	if n.journal != nil {
		errs = append(errs, n.journal.Close())
	}
	n.hub.Close()
	return errors.Join(errs...)
}
