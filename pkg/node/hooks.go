// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/pkg/control"
)

const (
	hookQueue = 64
	hookTime  = 10 * time.Second
)

// hooks tells a program of events, one at a time; a slow one misses some, which is logged.
type hooks struct {
	path  atomic.Pointer[string]
	queue chan control.Event
	log   *slog.Logger
}

func newHooks(path string, log *slog.Logger) *hooks {
	h := &hooks{queue: make(chan control.Event, hookQueue), log: log}
	h.use(path)
	return h
}

// use names the program that is told from now on; empty: none.
func (h *hooks) use(path string) { h.path.Store(&path) }

func (h *hooks) tell(e control.Event) {
	if *h.path.Load() == "" {
		return
	}
	select {
	case h.queue <- e:
	default:
		h.log.Warn("hook is too slow, event not told", "hook", *h.path.Load(), "kind", e.Kind)
	}
}

func (h *hooks) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-h.queue:
			h.call(ctx, e)
		}
	}
}

func (h *hooks) call(ctx context.Context, e control.Event) {
	path := *h.path.Load()
	if path == "" {
		return
	}
	b, err := json.Marshal(e)
	if err != nil {
		h.log.Error("encode event for hook", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin = bytes.NewReader(b)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		h.log.Warn("hook failed", "hook", path, "kind", e.Kind, "err", err, "output", string(out[:min(len(out), 512)]))
	}
}
