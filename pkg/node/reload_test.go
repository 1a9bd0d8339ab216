// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// keys are those of the secret file, as it is now.
func (c *cluster) keys(t *testing.T) (keys []wire.Key) {
	t.Helper()
	cfg, err := config.Load(c.ConfigPath(), config.Options{Node: lab.Serv1})
	must(t, err)
	for _, k := range cfg.Keys {
		keys = append(keys, wire.Key{ID: k.ID, K0: k.K0, K1: k.K1})
	}
	return keys
}

func (c *cluster) secretPath() string { return filepath.Join(c.Dir, "secret") }

func (c *cluster) writeSecrets(t *testing.T, lines ...string) {
	t.Helper()
	must(t, os.WriteFile(c.secretPath(), []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

// newSecret makes one that can be told from others by its number.
func (c *cluster) newSecret(t *testing.T, others ...string) string {
	t.Helper()
	for {
		s, err := config.NewSecret()
		must(t, err)
		free := true
		for _, o := range others {
			c.writeSecrets(t, o, s)
			_, err := config.Load(c.ConfigPath(), config.Options{Node: lab.Serv1})
			free = free && err == nil
		}
		if free {
			return s
		}
	}
}

// reload asks the first node by the API, the second by a signal.
func (c *cluster) reload(t *testing.T, node string) {
	t.Helper()
	since := c.lastEvent(t, node)
	if node == lab.Serv1 {
		within(t, c.api[node].Reload)
	} else {
		must(t, c.Node(node).Signal(unix.SIGHUP))
	}
	await(t, node+" has reloaded", func() error { return c.hasEvent(node, since, "reloaded", "") })
}

// beats is how heartbeats went since a node started.
type beats struct {
	probes           float64
	answered         [loader.Links]float64
	unknown, badTag  float64
	suspects, undone float64
}

func (c *cluster) beats(t *testing.T, node string) (b beats) {
	t.Helper()
	m := c.mustMetrics(t, node)
	b.probes = frames(m, `kind="tick"`, `verdict="sent"`)
	for role, name := range loader.LinkNames {
		b.answered[role] = frames(m, `link="`+name+`"`, `kind="reply"`)
	}
	b.unknown, b.badTag = frames(m, `reason="unknown_key"`), frames(m, `reason="bad_tag"`)
	b.suspects, b.undone = m["xdpha_suspects_total"], m["xdpha_suspects_refuted_total"]
	return b
}

// atOnce is what may be under way while counters are read one after the other.
const atOnce = 4

// awaitBeats returns when so many more probes of a node are answered on each link.
func (c *cluster) awaitBeats(t *testing.T, node string, more float64) {
	t.Helper()
	was := c.beats(t, node)
	await(t, "heartbeats of "+node+" are answered on each link", func() error {
		now := c.beats(t, node)
		for role := range now.answered {
			if now.answered[role] < was.answered[role]+more {
				return fmt.Errorf("%v on %s", now.answered[role]-was.answered[role], loader.LinkNames[role])
			}
		}
		return nil
	})
}

// noneMissed compares what a node sent with what was answered since.
func (c *cluster) noneMissed(t *testing.T, node string, was beats, links ...int) {
	t.Helper()
	var now beats
	await(t, "what was sent is answered", func() error { // one that is missed stays so
		now = c.beats(t, node)
		for _, role := range links {
			missed := (now.probes - was.probes) - (now.answered[role] - was.answered[role])
			if missed > atOnce || now.probes-was.probes < 10 {
				return fmt.Errorf("%s: on %s %v of %v probes were not answered", node, loader.LinkNames[role], missed, now.probes-was.probes)
			}
		}
		return nil
	})
	t.Logf("%s: %v probes, suspicions %v, refuted %v", node, now.probes-was.probes, now.suspects-was.suspects, now.undone-was.undone)
}

// nothingMoved fails if an identity changed its owner.
func (c *cluster) nothingMoved(t *testing.T, since map[string]uint64) {
	t.Helper()
	for node, seq := range since {
		for _, kind := range []string{"dead", "flip", "taken", "lapsed", "closed", "stood-down"} {
			if c.hasTold(t, node, seq, kind) {
				t.Errorf("%s tells of %s", node, kind)
			}
		}
	}
}

func (c *cluster) lastEvents(t *testing.T) map[string]uint64 {
	t.Helper()
	return map[string]uint64{lab.Serv1: c.lastEvent(t, lab.Serv1), lab.Serv2: c.lastEvent(t, lab.Serv2)}
}

// signsWith is the number of the key of a heartbeat of serv2 that is on the wire now.
func (c *cluster) signsWith(t *testing.T, keys ...wire.Key) uint8 {
	t.Helper()
	port, err := lab.FindPort(lab.Serv1, lab.LAN)
	must(t, err)
	f, err := wire.Parse(c.heard(t, port, wire.Probe, keys), keys...)
	must(t, err)
	return f.KeyID
}

// TestSecretsAreRotatedUnderTraffic goes through what xdpha keygen --help says, and what is refused on the way.
func TestSecretsAreRotatedUnderTraffic(t *testing.T) {
	s := lab.Scene{Profile: "cautious", SupervisorLease: "20s", UpDelay: updelay}
	c := running(t, s)
	raw, err := os.ReadFile(c.secretPath())
	must(t, err)
	first := strings.TrimSpace(string(raw))
	second := c.newSecret(t, first)
	third := c.newSecret(t, first, second)
	keyOf := func(secret string) wire.Key {
		c.writeSecrets(t, secret)
		return c.keys(t)[0]
	}
	oldKey, newKey := keyOf(first), keyOf(second)
	port, err := lab.FindPort(lab.Serv1, lab.LAN)
	must(t, err)
	recorded := c.heard(t, port, wire.Probe, []wire.Key{oldKey})

	t.Run("no heartbeat is missed, and the old secret ends", func(t *testing.T) {
		w := c.watch(t, files, lab.Serv1, lab.Serv2)
		since, was := c.lastEvents(t), map[string]beats{lab.Serv1: c.beats(t, lab.Serv1), lab.Serv2: c.beats(t, lab.Serv2)}
		for _, step := range [][]string{{first, second}, {second, first}, {second}} {
			c.writeSecrets(t, step...)
			for _, n := range c.Nodes {
				c.reload(t, n.Name)
				for _, n := range c.Nodes { // with the other one a step behind, too
					c.awaitBeats(t, n.Name, 10)
				}
			}
		}
		for node, b := range was {
			now := c.beats(t, node)
			if now.unknown != b.unknown || now.badTag != b.badTag {
				t.Errorf("%s: %v heartbeats of an unknown key, %v with a bad tag", node, now.unknown-b.unknown, now.badTag-b.badTag)
			}
			c.noneMissed(t, node, b, loader.Crossover, loader.Lan, loader.Spare)
		}
		c.nothingMoved(t, since)
		w.endLossless()
		if id := c.signsWith(t, oldKey, newKey); id != newKey.ID {
			t.Errorf("serv2 signs with key %d, want %d", id, newKey.ID)
		}
		before := c.beats(t, lab.Serv1)
		must(t, c.inject(port.Name(), port.Switch, recorded))
		await(t, "a frame of the old secret is of an unknown key", func() error {
			if n := c.beats(t, lab.Serv1).unknown - before.unknown; n != 1 {
				return fmt.Errorf("%v were counted", n)
			}
			return nil
		})
	})
	t.Run("what would part the nodes is refused", func(t *testing.T) { rotationsOutOfOrder(t, c, second, third, newKey, keyOf(third)) })
	t.Run("all or nothing is followed", func(t *testing.T) { halfAReload(t, c, s, second, third) })
	t.Run("a restart follows as well, and costs nothing", func(t *testing.T) {
		c.writeSecrets(t, third)
		for _, n := range c.Nodes {
			w, gen := c.watch(t, files, lab.Serv1, lab.Serv2), c.generation(t, lab.Serv1, "files")
			must(t, n.Kill())
			must(t, n.Restart())
			c.awaitSettled(t, atHome)
			if now := c.generation(t, lab.Serv1, "files"); now != gen {
				t.Errorf("the generation was %d and is %d", gen, now)
			}
			w.endLossless()
		}
	})
}

// refused asks for a reload that must not be followed.
func (c *cluster) refused(t *testing.T, node, what string, want error, says ...string) {
	t.Helper()
	since := c.lastEvent(t, node)
	err := c.api[node].Reload(t.Context())
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %v does not say %q", what, err, s)
		}
	}
	c.awaitEvent(t, node, since, "reload-refused", "")
}

// rotationsOutOfOrder begins with second in force on both nodes, and ends with third and second.
func rotationsOutOfOrder(t *testing.T, c *cluster, second, third string, secondKey, thirdKey wire.Key) {
	c.writeSecrets(t, third)
	c.refused(t, lab.Serv1, "a secret that nobody has", control.ErrRefused, "no secret of it is in force here")
	c.writeSecrets(t, third, second)
	c.refused(t, lab.Serv1, "to sign with what the peer does not accept", control.ErrRefused, "serv2 does not accept")
	c.writeSecrets(t, second, third)
	c.reload(t, lab.Serv1)
	c.reload(t, lab.Serv2)
	c.awaitBeats(t, lab.Serv1, 2) // it has heard that the peer accepts two
	c.awaitBeats(t, lab.Serv2, 2)
	c.writeSecrets(t, third, second)
	c.reload(t, lab.Serv1)
	c.awaitBeats(t, lab.Serv2, 2)
	c.writeSecrets(t, second)
	since := c.lastEvent(t, lab.Serv2)
	must(t, c.Node(lab.Serv2).Signal(unix.SIGHUP))
	await(t, "what the peer signs with is not left out", func() error {
		return c.hasEvent(lab.Serv2, since, "reload-refused", "serv1 still signs")
	})
	if id := c.signsWith(t, secondKey, thirdKey); id != secondKey.ID {
		t.Errorf("serv2 signs with key %d, want %d: it followed a refused file", id, secondKey.ID)
	}
	c.writeSecrets(t, third, second)
	c.reload(t, lab.Serv2)
	must(t, c.settled(atHome))
}

// halfAReload begins and ends with third and second in force.
func halfAReload(t *testing.T, c *cluster, s lab.Scene, second, third string) {
	good, err := os.ReadFile(c.ConfigPath())
	must(t, err)
	told := filepath.Join(c.Dir, "told")
	hook := filepath.Join(c.Dir, "hook")
	must(t, os.WriteFile(hook, []byte("#!/bin/sh\ncat >> "+told+"\n"), 0o700))
	s.Extra = "hooks: {events: " + hook + "}\n"
	must(t, c.WriteConfig(s))
	hooked, err := os.ReadFile(c.ConfigPath())
	must(t, err)
	was := c.mustStatus(t, lab.Serv1)

	c.writeSecrets(t, third)
	must(t, os.WriteFile(c.ConfigPath(), []byte(strings.Replace(string(hooked), ":9640", ":9641", 1)), 0o600))
	c.refused(t, lab.Serv1, "another address of the metrics", control.ErrRefused, "metrics.listen", "restart", "nothing is changed")
	must(t, os.WriteFile(c.ConfigPath(), []byte(strings.Replace(string(hooked), "cautious", "careless", 1)), 0o600))
	c.refused(t, lab.Serv1, "a wrong value", control.ErrInvalid, "careless", c.ConfigPath()+":")
	must(t, os.WriteFile(c.ConfigPath(), hooked, 0o600))
	must(t, os.Chmod(c.secretPath(), 0o644))
	c.refused(t, lab.Serv1, "a secret that others can read", control.ErrInvalid, "chmod 0600")
	must(t, os.Chmod(c.secretPath(), 0o600))
	if flags := c.accepts(t); flags != 2 {
		t.Errorf("serv1 says that it accepts %d secrets: it followed that of a refused file", flags)
	}
	c.writeSecrets(t, third, second)
	within(t, func(ctx context.Context) error { return c.api[lab.Serv1].Reload(ctx) })
	await(t, "the new hook is told", func() error {
		b, err := os.ReadFile(told)
		if err == nil && !strings.Contains(string(b), `"reloaded"`) {
			err = fmt.Errorf("it was told: %s", b)
		}
		return err
	})
	// Hooks are called one after the other: what a refused file's had been told would stand before.
	if b, err := os.ReadFile(told); err != nil || strings.Contains(string(b), `"reload-refused"`) {
		t.Errorf("the hook of a refused file was called: %s, %v", b, err)
	}
	if now := c.mustStatus(t, lab.Serv1); now.Peer.BootID != was.Peer.BootID || now.Identities[0].Generation != was.Identities[0].Generation {
		t.Errorf("the node was %+v and is %+v", was, now)
	}
	must(t, os.WriteFile(c.ConfigPath(), good, 0o600))
	c.reload(t, lab.Serv1)
}

// accepts is how many secrets serv1 says on the wire that it accepts.
func (c *cluster) accepts(t *testing.T) int {
	t.Helper()
	port, err := lab.FindPort(lab.Serv1, lab.LAN)
	must(t, err)
	capture, err := c.Capture(port.Switch, port.Name())
	must(t, err)
	defer func() { _, _ = capture.Stop() }()
	keys := c.keys(t)
	n := 0
	await(t, "a heartbeat of serv1", func() error {
		all, _ := capture.Frames()
		for _, raw := range all {
			if f, err := wire.Parse(raw.Raw, keys...); err == nil && f.Sender == 0 {
				n = 1 + int(f.Flags>>14&1)
				return nil
			}
		}
		return errors.New("none yet")
	})
	return n
}
