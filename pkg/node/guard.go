// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

const (
	guardFirstFD  = 3 // the datapath's maps, as exec.Cmd passes them on
	guardPoll     = 20 * time.Millisecond
	guardPriority = 1               // above what is not real time, and below all that is
	guardRetry    = time.Second     // after services that did not end
	guardReplace  = 5 * time.Second // for an earlier guard to end by itself
	guardReady    = "ready"
	guardEnd      = "end"
)

// guardTask is what a daemon tells its guard, as the first line on its standard input. After it comes
// the word end, if the daemon leaves in order; a daemon that dies says nothing.
type guardTask struct {
	Node, StateDir              string
	Groups, Locks               string // of service.Manager
	SupervisorLost, EndServices time.Duration
	Identities                  []guardedIdentity
}

// guardedIdentity has the services that must run once.
type guardedIdentity struct {
	Name     string
	Services []config.Service
}

// guard ends what must run once where the daemon does not. It decides by the truth that the gates go
// by, in the kernel's maps, and nothing else.
type guard struct {
	task    guardTask
	dp      guarded
	log     *slog.Logger
	watched []watched
	wg      sync.WaitGroup
}

// guarded is what a guard sees of the datapath; a loader.Shared is one.
type guarded interface {
	Word(identity int) core.Word
	RenewedNS() int64
	Frozen() bool
	RightUntil(identity int) int64
	Running(identity int) uint64
	Ended(identity int, running uint64, all bool)
}

// watched is what a guard remembers of an identity.
type watched struct {
	rightlessNS int64 // since when it is owned and was never let; 0: it is not so
	retryNS     atomic.Int64
	busy        atomic.Bool        // its services are being ended
	cancel      context.CancelFunc // of that
}

// Guard is the guard of the daemon that has started this process, and goes on when that one is
// stopped, killed, or hangs. It returns when that daemon leaves in order, or another one's guard asks it to.
func Guard(ctx context.Context, in io.Reader, out io.Writer, log *slog.Logger) error {
	outlive()
	orders := bufio.NewReader(in)
	line, err := orders.ReadBytes('\n')
	g := &guard{log: log}
	if err == nil {
		err = json.Unmarshal(line, &g.task)
	}
	if err != nil {
		return fmt.Errorf("%s: read the task: %w: only the daemon runs this", GuardCommand, err)
	}
	g.watched = make([]watched, len(g.task.Identities))
	unlock, err := replaceGuard(ctx, filepath.Join(g.task.StateDir, "guard.lock"))
	if err != nil {
		return fmt.Errorf("%s: %w", GuardCommand, err)
	}
	defer unlock()
	if g.dp, err = loader.OpenShared(guardFirstFD); err != nil {
		return fmt.Errorf("%s: %w", GuardCommand, err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Debug("the guard's memory is not locked: it may be late under memory pressure", "error", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if word, _ := orders.ReadString('\n'); word == guardEnd+"\n" {
			stop()
		}
	}()
	if _, err := fmt.Fprintln(out, guardReady); err != nil {
		log.Debug("nobody waits for the guard", "error", err)
	}
	g.watch(ctx)
	g.wg.Wait()
	return nil
}

// outlive lets this process go on when who reads its log, or the terminal, ends with the daemon. Its
// commands inherit nothing of that, as they would if it ignored these signals (signal(7)).
func outlive() { signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGPIPE) }

// watch looks until ctx ends. The thread is its own, so that it comes to run among ordinary ones.
func (g *guard) watch(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: the thread's scheduling ends with it
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: guardPriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		g.log.Debug("the guard has no real-time priority: it may be late under load", "error", err)
	}
	for ctx.Err() == nil {
		g.look(ctx, loader.Now())
		ts := unix.NsecToTimespec(int64(guardPoll))
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // woken early it looks early
	}
}

// look begins to end what must end, and leaves to the daemon what it may run.
func (g *guard) look(ctx context.Context, now int64) {
	for i := range g.task.Identities {
		w, running := &g.watched[i], g.dp.Running(i)
		why := g.why(i, now)
		switch {
		case w.busy.Load():
			if why == "" {
				w.cancel()
			}
		case running != 0 && why != "" && now >= w.retryNS.Load():
			var ending context.Context
			ending, w.cancel = context.WithCancel(ctx)
			w.busy.Store(true)
			g.wg.Go(func() {
				defer w.busy.Store(false)
				g.end(ending, i, running, why)
			})
		}
	}
}

// why is why an identity's services must end; empty: they need not, or the daemon sees to it.
func (g *guard) why(i int, now int64) string {
	w, until := &g.watched[i], g.dp.RightUntil(i)
	if !g.dp.Word(i).Has(core.Owner) {
		w.rightlessNS = 0
		if silent := time.Duration(now - g.dp.RenewedNS()); silent >= g.task.SupervisorLost {
			return fmt.Sprintf("this node does not own it any more, and its daemon has not acted for %v", silent.Round(time.Millisecond))
		}
		return ""
	}
	switch {
	case until > now, g.dp.Frozen():
		w.rightlessNS = 0
		return ""
	case until == 0 && w.rightlessNS == 0: // nothing tells since when
		w.rightlessNS = now
	}
	if now-max(until, w.rightlessNS) < int64(g.task.EndServices) {
		return ""
	}
	return fmt.Sprintf("for %v neither another node nor the arbiter has let this one serve it", g.task.EndServices)
}

// end ends an identity's services, and says so in the kernel's map: frames tell the other nodes, and
// the daemon finds it there if it comes back.
func (g *guard) end(ctx context.Context, i int, running uint64, why string) {
	id := g.task.Identities[i]
	g.log.Warn("services are ended", "identity", id.Name, "reason", why)
	env := service.Env{Identity: id.Name, Generation: g.dp.Word(i).Gen(), Node: g.task.Node}
	err := service.End(ctx, id.Services, env, g.task.StateDir, g.task.Groups, g.task.Locks, g.log)
	if err != nil {
		g.watched[i].retryNS.Store(loader.Now() + int64(guardRetry))
		g.log.Error("services did not end: it is tried again", "identity", id.Name, "error", err)
	}
	// Meanwhile the daemon may have come back, and started them anew as the owner: then ctx has ended, or
	// what runs is not what ran.
	all := err == nil && ctx.Err() == nil
	g.dp.Ended(i, running, all)
	g.log.Info("services have ended", "identity", id.Name, "all", all)
}

// replaceGuard takes the lock that one guard of a daemon's has at a time. An earlier daemon's that
// holds it is asked to end: this process's daemon acts.
func replaceGuard(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	asked := loader.Now()
	for sig := unix.SIGTERM; ; {
		// A lock of the process's (fcntl(2)): the kernel says who holds it.
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) || ctx.Err() != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, ctx.Err()))
		}
		if loader.Now()-asked > int64(guardReplace) {
			sig = unix.SIGKILL
		}
		if err := signalHolder(f, sig); err != nil {
			f.Close()
			return nil, fmt.Errorf("end the guard that holds %s: %w", path, err)
		}
		time.Sleep(guardPoll) // nothing tells of a lock that ends, but a wait for it, which cannot be given up
	}
}

// signalHolder sends a signal to the process that holds a file's lock, if there is one, and to no
// other that has got its number meanwhile.
func signalHolder(f *os.File, sig unix.Signal) error {
	holder := func() int {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock) != nil || lock.Type == unix.F_UNLCK {
			return 0
		}
		return int(lock.Pid)
	}
	pid := holder()
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if holder() != pid {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", sig, pid, err)
	}
	return nil
}
