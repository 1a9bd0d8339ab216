// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/announce"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/metrics"
	"github.com/xdpha/xdpha/pkg/service"
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
	metrics  *metrics.Collector
	store    *store
	journal  *journal
	pacer    *pacer
	hooks    *hooks

	inbox   chan any        // events for the core, and func() to run in the loop
	ended   <-chan struct{} // nobody reads the inbox any more
	clean   bool            // close takes everything away: nothing is owned here
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
	unlock, err := lock(filepath.Join(o.RunDir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	unlockHost, err := lockHost(host.Mark(o.Config.Cluster, o.Config.Nodes[o.Config.Self].Name))
	if err != nil {
		return err
	}
	defer unlockHost()
	n := &node{Options: o, hub: control.NewHub(4096), inbox: make(chan any, inboxSize), shared: newShared()}
	if o.Config.Arbiter.None {
		o.Log.Warn("arbiter none: a broken network between the nodes makes two owners; list hosts under arbiter.reach")
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

// lock keeps a second daemon of the same node out.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another daemon holds %s: end it first, or give this one a --run-dir of its own", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// lockHost keeps a second daemon of the same node out, whatever directories it
// was given: it would take the first one's devices for its own. An abstract
// socket belongs to the network namespace, and goes with the process.
func lockHost(mark string) (unlock func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket to lock the host: %w", err)
	}
	// A hash, because a name has at most 107 bytes.
	name := fmt.Sprintf("@xdpha-%x", sha256.Sum256([]byte(mark)))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("another daemon runs as %s in this network namespace: end it first", mark)
		}
		return nil, fmt.Errorf("lock the host as %s: %w", mark, err)
	}
	return func() { unix.Close(fd) }, nil
}

// prepare puts everything in place that the node needs before its first step.
func (n *node) prepare() (err error) {
	cfg := n.Config
	if n.store, err = openStore(n.StateDir, cfg); err != nil {
		return err
	}
	if n.journal, err = openJournal(filepath.Join(n.StateDir, "journal")); err != nil {
		return err
	}
	if n.host, err = host.New(n.Log, host.Mark(cfg.Cluster, cfg.Nodes[cfg.Self].Name)); err != nil {
		return err
	}
	tick, err := n.prepareHost()
	if err != nil {
		return err
	}
	if err := n.prepareDatapath(tick.end); err != nil {
		return err
	}
	n.announce = announce.New(n.Log)
	for _, id := range cfg.Identities {
		if err := n.announce.Prepare(host.DeviceName(id.Name)); err != nil {
			return fmt.Errorf("prepare announcements: %w", err)
		}
	}
	n.services = service.New(cfg.Services, n.Log, n.serviceChanged)
	n.metrics = metrics.NewCollector(source{n})
	n.hooks = newHooks(cfg.Hooks.Events, n.Log)
	n.pacer, err = newPacer(n, tick.start)
	if err != nil {
		return err
	}
	n.loop = newLoopState(cfg, n.store.saved, n.dp.Floor)
	n.loop.flags = n.dp.Flags()
	for i := range n.loop.unseen {
		n.loop.unseen[i] = n.dp.Adopted()
	}
	n.restoreChanges()
	for role := range loader.Links { // the watch tells of changes from here on
		if name := nic(cfg.Nodes[cfg.Self], role); name != "" {
			l, err := n.host.LinkInfo(name)
			if err != nil {
				return err
			}
			n.loop.linkUp[role] = l.Up && l.Carrier
		}
	}
	return nil
}

// serve runs all parts until ctx ends and the core has left.
func (n *node) serve(ctx context.Context) error {
	work, stop := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	defer func() {
		stop(nil)
		wg.Wait()
	}()
	n.ended = work.Done()
	part := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(work); err != nil && work.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	n.effects.start(n, work, &wg)
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
	part("hooks", n.hooks.run)
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
	var errs []error
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
			errs = append(errs, n.host.RemoveAll(host.Mark(n.Config.Cluster, n.Config.Nodes[n.Config.Self].Name)))
		}
		errs = append(errs, n.host.Close())
	}
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
