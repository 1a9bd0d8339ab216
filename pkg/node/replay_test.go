// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/wire"
)

// recordLen is how many frames of each kind a listener on a cable has.
const recordLen = 20

// record takes down what serv2 says to serv1 on a cable.
func (c *cluster) record(t *testing.T, p lab.Port, keys []wire.Key) map[wire.Direction][][]byte {
	t.Helper()
	capture, err := c.Capture(p.Switch, p.Name())
	must(t, err)
	defer func() { _, _ = capture.Stop() }()
	var record map[wire.Direction][][]byte
	await(t, "heartbeats on "+p.Name(), func() error {
		record = map[wire.Direction][][]byte{}
		all, _ := capture.Frames()
		for _, raw := range all {
			if f, err := wire.Parse(raw.Raw, keys...); err == nil && f.Sender == 1 && len(record[f.Direction]) < recordLen {
				record[f.Direction] = append(record[f.Direction], raw.Raw)
			}
		}
		if p, r := len(record[wire.Probe]), len(record[wire.Reply]); p < recordLen || r < recordLen {
			return fmt.Errorf("%d probes and %d replies", p, r)
		}
		return nil
	})
	return record
}

// TestAReplayAcrossRestartsComesToNothing plays an authentic record again after either side, or both,
// started anew: the daemon, which finds its kernel's part at work, or the whole machine.
func TestAReplayAcrossRestartsComesToNothing(t *testing.T) {
	c := running(t, lab.Scene{})
	keys := c.keys(t)
	roles := map[string]lab.Role{"crossover": lab.Crossover, "lan": lab.LAN, "spare": lab.Spare}
	restart := func(node string) {
		must(t, c.Node(node).Kill())
		must(t, c.Node(node).Restart())
	}
	reboot := func(ids ...lab.Identity) {
		for _, id := range ids {
			within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, id); return err })
		}
		for _, id := range ids {
			within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, id) })
		}
	}
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"nothing happened", func() {}},
		{"the receiver's daemon started anew", func() { restart(lab.Serv1) }},
		{"the receiver booted", func() { reboot(files) }},
		{"the sender's daemon started anew", func() { restart(lab.Serv2) }},
		{"the sender booted", func() { reboot(mail) }},
		{"both booted", func() { reboot(files, mail) }},
	} {
		t.Run(event.name, func(t *testing.T) {
			records := map[string]map[wire.Direction][][]byte{}
			ports := map[string]lab.Port{}
			for link, role := range roles {
				p, err := lab.FindPort(lab.Serv1, role)
				must(t, err)
				ports[link], records[link] = p, c.record(t, p, keys)
			}
			event.do()
			c.bringHome(t)
			for link, record := range records {
				for direction, name := range map[wire.Direction]string{wire.Probe: "probes", wire.Reply: "replies"} {
					t.Run(name+" on "+link, func(t *testing.T) { c.replayed(t, link, ports[link], record[direction], keys) })
				}
			}
			must(t, c.settled(atHome))
		})
	}
}

// replayed plays frames to serv1, and holds that each is dropped and none answered.
func (c *cluster) replayed(t *testing.T, link string, p lab.Port, record [][]byte, keys []wire.Key) {
	t.Helper()
	type question struct{ seq, nonce uint64 }
	asked := map[question]bool{}
	for _, b := range record {
		f, err := wire.Parse(b, keys...)
		must(t, err)
		if f.Direction == wire.Probe { // a reply bears the number of another one's probe
			asked[question{f.Seq, f.Nonce}] = true
		}
	}
	labels := []string{`link="` + link + `"`, `kind="heartbeat"`, `verdict="dropped"`}
	before, was := c.mustStatus(t, lab.Serv1), frames(c.mustMetrics(t, lab.Serv1), labels...)
	capture, err := c.Capture(p.Switch, p.Name())
	must(t, err)
	must(t, c.inject(p.Name(), p.Switch, record...))
	await(t, "the record is dropped", func() error {
		m, err := c.metrics(lab.Serv1)
		if err != nil {
			return err
		}
		if n := frames(m, labels...) - was; n != float64(len(record)) {
			return fmt.Errorf("%v frames of %d are", n, len(record))
		}
		return nil
	})
	all, err := capture.Stop()
	must(t, err)
	for _, raw := range all {
		if f, err := wire.Parse(raw.Raw, keys...); err == nil && !raw.Outgoing && f.Direction == wire.Reply && asked[question{f.Seq, f.Echo}] {
			t.Errorf("number %d was answered", f.Seq)
		}
	}
	after := c.mustStatus(t, lab.Serv1)
	if before.Peer.State != after.Peer.State || before.Peer.BootID != after.Peer.BootID {
		t.Errorf("the peer was %+v and is %+v", before.Peer, after.Peer)
	}
	for i := range before.Identities {
		if b, a := before.Identities[i], after.Identities[i]; b.Owner != a.Owner || b.Generation != a.Generation || b.Gate != a.Gate {
			t.Errorf("the identity was %+v and is %+v", b, a)
		}
	}
}
