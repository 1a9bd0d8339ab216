// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/service"
)

// GuardCommand is the word after the program's name by which it is a daemon's guard.
const GuardCommand = "guard"

const (
	guardStart = 15 * time.Second // more than it takes to replace another one
	guardAgain = time.Second      // before another one is started
)

// itsGuard is the daemon's guard. Until there is one, or none is to be had, no service is started.
type itsGuard struct {
	known  chan struct{} // closed then
	first  sync.Once
	orders io.Writer       // of the one that runs; keepGuard's until the daemon's work is done
	gone   <-chan struct{} // closed when it has ended; nil: it was never started
}

func (n *node) guardTask() guardTask {
	t := guardTask{Node: n.self(), StateDir: n.StateDir, Groups: n.services.Groups(), Locks: n.services.Locks, SupervisorLost: n.Config.Timing.SupervisorLost, EndServices: n.Config.Timing.EndServices}
	if dir, err := filepath.Abs(n.StateDir); err == nil {
		t.StateDir = dir
	}
	for _, id := range n.Config.Identities {
		g := guardedIdentity{Name: id.Name}
		for _, s := range n.Config.Services {
			if slices.Contains(id.Services, s.Name) {
				g.Services = append(g.Services, s)
			}
		}
		t.Identities = append(t.Identities, g)
	}
	return t
}

// keepGuard has a guard as long as the daemon works.
func (n *node) keepGuard(ctx context.Context) error {
	if !slices.ContainsFunc(n.Config.Identities, func(id config.Identity) bool { return len(id.Services) > 0 }) {
		return nil
	}
	for ctx.Err() == nil {
		err := n.runGuard(ctx)
		n.guard.first.Do(func() { close(n.guard.known) })
		if ctx.Err() != nil {
			return nil
		}
		n.tellTrouble(troubleGuard, 0, fmt.Sprintf("the guard does not run (%v): if this daemon is stopped or killed, nobody ends its services; it is started again every %v", err, guardAgain), "")
		select {
		case <-ctx.Done():
		case <-time.After(guardAgain):
		}
	}
	return nil
}

// runGuard starts a guard, and returns when it has ended, or ctx: then it is left alone.
func (n *node) runGuard(ctx context.Context) error {
	maps, err := n.dp.Share()
	if err != nil {
		return err
	}
	task, err := json.Marshal(n.guardTask())
	if err != nil {
		return fmt.Errorf("write its task: %w", err)
	}
	cmd := exec.Command("/proc/self/exe") // the very program that runs, whatever is installed meanwhile
	cmd.Args = append([]string{"xdpha", GuardCommand}, n.GuardFlags...)
	cmd.ExtraFiles, cmd.Stderr = maps, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} // what is sent to the daemon's group or terminal is not for it
	orders, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	err = cmd.Start()
	for _, f := range maps {
		f.Close()
	}
	if err != nil {
		return err
	}
	ready, gone, ended := make(chan struct{}), make(chan struct{}), error(nil)
	n.guard.orders, n.guard.gone = orders, gone
	go func() {
		defer close(gone)
		if line, _ := bufio.NewReader(said).ReadString('\n'); line == guardReady+"\n" {
			close(ready)
		}
		ended = cmd.Wait()
	}()
	if _, err := orders.Write(append(task, '\n')); err != nil {
		_ = cmd.Process.Kill() // it has ended, or is of no use
	}
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
		n.guard.first.Do(func() { close(n.guard.known) })
		n.tellTrouble(troubleGuard, 0, "", "the guard runs")
	case <-gone:
	case <-time.After(guardStart):
		_ = cmd.Process.Kill()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-gone:
		return errors.Join(errors.New("it has ended"), ended)
	}
}

// endGuard ends it with the daemon that leaves in order: then nothing is left for it to end.
func (n *node) endGuard() error {
	if n.guard.gone == nil {
		return nil
	}
	_, _ = io.WriteString(n.guard.orders, guardEnd+"\n") // it may have ended by itself
	select {
	case <-n.guard.gone:
		return nil
	case <-time.After(guardStart):
		return fmt.Errorf("the guard did not end within %v", guardStart)
	}
}

// mayRunHere: an earlier daemon has started services of an identity here, as far as the kernel's map tells.
func (n *node) mayRunHere(identity int) bool { return n.dp.Adopted() && n.dp.Running(identity) != 0 }

// mayStart permits the start of a service to its identity's owner, at the generation that it was
// ordered for: the order may be older than a time in which this daemon did not run. What starts is
// known to run before it does, to the guard and to the other nodes. Asked again while it runs it tells
// whether it may go on.
func (n *node) mayStart(env service.Env) error {
	i := slices.IndexFunc(n.Config.Identities, func(id config.Identity) bool { return id.Name == env.Identity })
	if i < 0 {
		return nil // it runs on every node
	}
	why := func() error {
		switch w := n.dp.Word(i); {
		case !w.Has(core.Owner) || w.Gen() != env.Generation:
			return fmt.Errorf("this node does not own %s at generation %d any more", env.Identity, env.Generation)
		case n.dp.RightUntil(i) <= loader.Now():
			return fmt.Errorf("neither another node nor the arbiter lets this one serve %s", env.Identity)
		}
		return nil
	}
	if err := why(); err != nil {
		return err
	}
	n.dp.AddRunning(i)
	return why() // what was lost before that, was lost without anybody's knowing what runs
}

// followGuard tells the core what the guard has ended while this daemon did not act.
func (n *node) followGuard(snap core.Snapshot) {
	for i, id := range snap.Identities {
		if len(n.Config.Identities[i].Services) > 0 && (id.Services == "running" || id.Services == "starting") && n.dp.Guarded(i) {
			n.step(core.ServicesEnded{Identity: i})
		}
	}
}
