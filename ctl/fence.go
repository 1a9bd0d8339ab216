// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/arbiter"
	"github.com/xdpha/xdpha/pkg/config"
)

// fenceChecks asks the fence agent what it knows, and whether the peer is on. Nothing is switched.
func fenceChecks(ctx context.Context, cfg *config.Config) (out []hostCheck) {
	f := cfg.Arbiter.Fence
	if f == nil {
		return nil
	}
	for i, n := range cfg.Nodes {
		unknown, err := arbiter.New(cfg, i, loader.Now).Unknown(ctx)
		h := hostCheck{Name: "fence agent for " + n.Name, OK: err == nil && len(unknown) == 0, Detail: f.Agent + " knows all parameters"}
		switch {
		case err != nil:
			h.Detail, h.Remedy = err.Error(), "install the agent, or write another one as agent"
		case len(unknown) > 0:
			h.Detail = fmt.Sprintf("agent %s knows no parameter %s", f.Agent, strings.Join(unknown, ", "))
			h.Remedy = fmt.Sprintf("see which it knows: %s -o metadata", f.Agent)
		}
		out = append(out, h)
	}
	return append(out, powerCheck(ctx, cfg))
}

// powerCheck is the first half of what a takeover needs: the way to the peer's power.
func powerCheck(ctx context.Context, cfg *config.Config) hostCheck {
	peer := cfg.Nodes[cfg.Peer()].Name
	h := hostCheck{Name: "power of " + peer, OK: true}
	switch on, err := arbiter.New(cfg, cfg.Peer(), loader.Now).On(ctx); {
	case err != nil:
		h.OK, h.Detail, h.Remedy = false, err.Error(), "nothing of "+peer+" could be taken over: make the agent's action status work from this host"
	case on:
		h.Detail = cfg.Arbiter.Fence.Agent + " says that it is on"
	default:
		h.Detail = cfg.Arbiter.Fence.Agent + " says that it is off"
	}
	return h
}

// fenceWarnings tells of what an agent's parameters leave open.
func fenceWarnings(cfg *config.Config) (out []string) {
	f := cfg.Arbiter.Fence
	if f == nil {
		return nil
	}
	if cfg.Arbiter.MutualKill() {
		out = append(out, fmt.Sprintf("arbiter fence: if both nodes live and do not hear each other, each switches the other off at the same time; give the one that shall survive a delay, as in %s: {delay: 5s}, longer than the agent takes", cfg.Nodes[0].Name))
	}
	for i, n := range f.Nodes {
		if n.Delay > 0 {
			out = append(out, fmt.Sprintf("arbiter fence: when %s dies, %s waits %s before it switches it off, and then takes over", cfg.Nodes[i].Name, cfg.Nodes[1-i].Name, n.Delay))
		}
	}
	return append(out, fmt.Sprintf("arbiter fence: a node that has not heard its peer for boot_hold, %s, after its own start switches it off: write it longer than the nodes' boots differ", cfg.Timing.BootHold))
}

// fenceWords is what a takeover waits for beside the detector; "": nothing.
func fenceWords(cfg *config.Config, dead int) string {
	f := cfg.Arbiter.Fence
	if f == nil {
		return ""
	}
	wait := ""
	if d := f.Nodes[dead].Delay; d > 0 {
		wait = fmt.Sprintf("waits %s, ", d)
	}
	return fmt.Sprintf("%shas %s switch %s off,", wait, f.Agent, cfg.Nodes[dead].Name)
}

// fencedPartition says who survives if both nodes live and do not hear each other.
func fencedPartition(cfg *config.Config) string {
	const never = "; each keeps what it has until then, and never are there two owners"
	alone := ""
	if n := len(cfg.Arbiter.Reach); n > 0 {
		alone = fmt.Sprintf("a node that reaches fewer than %d of the %d listed hosts closes its gates and switches nobody off; if both reach them, ", n/2+1, n)
	}
	if cfg.Arbiter.MutualKill() {
		return alone + "each has the other switched off, at the same time" + never
	}
	winner := 0
	if d := cfg.Arbiter.Fence.Nodes; d[1].Delay > d[0].Delay {
		winner = 1
	}
	return fmt.Sprintf("%s%s is switched off, as %s has the longer delay, and %s takes everything%s", alone, cfg.Nodes[1-winner].Name, cfg.Nodes[winner].Name, cfg.Nodes[winner].Name, never)
}
