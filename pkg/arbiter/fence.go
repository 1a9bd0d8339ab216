// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"context"
	"fmt"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// Agent switches one node off.
type Agent struct {
	agent   string
	node    string
	params  []config.FenceParam
	timeout time.Duration
	retries int
	now     func() int64
	poll    time.Duration // between questions whether the node is off by now
}

// New returns the agent that switches a node of that number off. Times are the given clock's.
func New(cfg *config.Config, node int, now func() int64) *Agent {
	f := cfg.Arbiter.Fence
	return &Agent{
		agent: f.Agent, node: cfg.Nodes[node].Name, params: f.Nodes[node].Params,
		timeout: f.Timeout, retries: f.Retries, now: now, poll: time.Second,
	}
}

// Limit is how long Off takes at most: each time an order, a while of questions, and the last of them.
func (a *Agent) Limit() time.Duration {
	return time.Duration(a.retries+1) * 3 * (a.timeout + killWait)
}

// Off switches the node off, and asks until it is off. It returns when the question was asked
// that was answered so: the node was off at some time after it.
func (a *Agent) Off(ctx context.Context) (at int64, err error) {
	for range a.retries + 1 {
		var failed error
		if at, failed = a.off(ctx); failed == nil {
			return at, nil
		}
		err = failed
		if ctx.Err() != nil {
			break
		}
	}
	return 0, err
}

func (a *Agent) off(ctx context.Context) (int64, error) {
	if status, err := a.run(ctx, "off"); err != nil {
		return 0, err
	} else if status.code != 0 {
		return 0, a.failed("off", status)
	}
	for end := time.Now().Add(a.timeout); ; {
		at := a.now()
		on, err := a.On(ctx)
		if err == nil && !on {
			return at, nil
		}
		if err == nil {
			err = fmt.Errorf("%s says that %s is on still, although it has switched it off", a.agent, a.node)
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return 0, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.poll):
		}
	}
}

// The exit status of the action status (FenceAgentAPI): 1 is a failure.
const (
	statusOn  = 0
	statusOff = 2
)

// On asks whether the node has power.
func (a *Agent) On(ctx context.Context) (bool, error) {
	status, err := a.run(ctx, "status")
	if err != nil {
		return false, err
	}
	switch status.code {
	case statusOn:
		return true, nil
	case statusOff:
		return false, nil
	}
	return false, a.failed("status", status)
}

func (a *Agent) failed(action string, r result) error {
	said := r.said
	if said == "" {
		said = "it said nothing"
	}
	return fmt.Errorf("%s, action %s for %s: exit status %d: %s", a.agent, action, a.node, r.code, said)
}

// run runs the agent for one action. Its input is built for this run alone: a secret may have changed.
func (a *Agent) run(ctx context.Context, action string) (result, error) {
	in, secrets, err := a.input(action)
	if err != nil {
		return result{}, err
	}
	r, err := runAgent(ctx, a.agent, in, a.timeout)
	r.said = redact(r.said, secrets)
	if err != nil {
		return r, fmt.Errorf("%s, action %s for %s: %w", a.agent, action, a.node, err)
	}
	return r, nil
}
