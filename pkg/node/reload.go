// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
)

// watchHangup reloads at every SIGHUP.
func (n *node) watchHangup(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.Hangup:
			_ = n.reload(ctx) // the event tells
		}
	}
}

// reload follows the configuration as it is in its files now: all that has changed, or nothing.
func (n *node) reload(ctx context.Context) error {
	file, err := n.Load()
	if err != nil {
		err = fmt.Errorf("%w: %w", control.ErrInvalid, err)
		n.tell(loader.Now(), "reload-refused", -1, err.Error(), nil)
		return err
	}
	done := make(chan error, 1)
	n.post(func() { done <- n.follow(file) })
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", control.ErrUnavailable, ctx.Err())
	case err := <-done:
		return err
	}
}

// follow runs in the loop, which alone knows what is in force.
func (n *node) follow(file *config.Config) error {
	running := n.loop.config
	err := n.mayFollow(running, file)
	if err == nil {
		err = n.dp.SetKeys(datapathKeys(file))
		if errors.Is(err, loader.ErrKeyNumber) {
			err = errors.New("secret_file: a new secret cannot be told from one that was in force earlier (same key id); replace it by another line made by xdpha keygen")
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: nothing is changed: %w", control.ErrRefused, err)
		n.tell(loader.Now(), "reload-refused", -1, err.Error(), nil)
		return err
	}
	n.hooks.use(file.Hooks.Events)
	n.loop.config = file
	if err := n.useLineKeys(); err != nil {
		n.tell(loader.Now(), "secret-failed", -1, err.Error(), nil)
	}
	n.tell(loader.Now(), "reloaded", -1, whatChanged(running, file), nil)
	return nil
}

func (n *node) mayFollow(running, file *config.Config) error {
	if names := config.NeedRestart(running, file); len(names) > 0 {
		return fmt.Errorf("%s: restart the daemon (it hands over first), then the other nodes', one after the other", strings.Join(names, ", "))
	}
	s := n.dp.State(0)
	for _, node := range n.Config.Others() {
		if err := mayRotate(running.Keys, file.Keys, n.Config.Nodes[node].Name, &s.Peers[node]); err != nil {
			return err
		}
	}
	return nil
}

// mayRotate refuses secrets with which this node and a peer would not hear each other any more. The
// peer says which key it signs with, and whether it accepts another one.
func mayRotate(have, want []config.Key, name string, p *loader.Peer) error {
	const order = "a new secret is first added as the second line on all nodes, then made the first one, and only then the old one is removed"
	ids := func(keys []config.Key) (list []uint8) {
		for _, k := range keys {
			list = append(list, k.ID)
		}
		return list
	}
	switch {
	case !slices.ContainsFunc(want, func(k config.Key) bool { return slices.Contains(have, k) }):
		return fmt.Errorf("secret_file: no secret of it is in force here: %s", order)
	case !heardPeer(p):
		return nil
	case want[0] != have[0] && p.Key != want[0].ID && !p.Flags.TwoKeys:
		return fmt.Errorf("secret_file: %s does not accept the first secret of it yet: %s", name, order)
	case !slices.Contains(ids(want), p.Key):
		return fmt.Errorf("secret_file: %s still signs with a secret that is left out of it: %s", name, order)
	}
	return nil
}

func whatChanged(running, file *config.Config) string {
	var parts []string
	if !slices.Equal(running.Keys, file.Keys) {
		text := fmt.Sprintf("secret_file: signs with key %02x", file.Keys[0].ID)
		if len(file.Keys) > 1 {
			text += fmt.Sprintf(", accepts %02x too", file.Keys[1].ID)
		}
		parts = append(parts, text)
	}
	if running.Hooks != file.Hooks {
		parts = append(parts, "hooks.events: "+file.Hooks.Events)
	}
	if len(parts) == 0 {
		return "nothing has changed"
	}
	return strings.Join(parts, "; ")
}

func datapathKeys(cfg *config.Config) (keys []loader.Key) {
	for _, k := range cfg.Keys {
		keys = append(keys, loader.Key{K0: k.K0, K1: k.K1, ID: k.ID})
	}
	return keys
}
