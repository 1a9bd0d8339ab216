// SPDX-License-Identifier: Apache-2.0

package node

import (
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/control"
)

// History is how near the peer's silences came to a takeover.
func (b backend) History() control.History {
	n := b.n
	s, now, wall := n.dp.State(len(n.Config.Identities)), loader.Now(), time.Now()
	h := control.History{
		Node: n.self(), Time: wall, ProbeUS: n.Config.Timing.Probe.Microseconds(), DeadAfterUS: n.Config.Timing.DeadAfter.Microseconds(),
		SinceStart: control.SinceStart{Time: wall.Add(time.Duration(n.dp.StartedNS() - now)), SelfStalls: s.SelfStalls},
	}
	for _, node := range n.Config.Others() {
		p, all := &s.Peers[node], &h.SinceStart
		all.Silence.Add(histogram(p.Silence.Buckets, p.Silence.MaxNS))
		all.SilenceMaxUS = max(all.SilenceMaxUS, int64(p.Silence.MaxNS/1000))
		all.Suspects, all.Refuted, all.Reverted = all.Suspects+p.Suspects, all.Refuted+p.Refuted, all.Reverted+p.Reverted
	}
	for _, m := range n.dp.Minutes() {
		h.Minutes = append(h.Minutes, n.minute(m, now, wall))
	}
	return h
}

// minute is one minute of the kernel's clock, with the time on the wall.
func (n *node) minute(m loader.Minute, now int64, wall time.Time) control.Minute {
	out := control.Minute{
		Time: wall.Add(time.Duration(m.Minute*int64(time.Minute) - now)), MinutesAgo: now/int64(time.Minute) - m.Minute,
		SilenceUS: m.Silence.Microseconds(), StallUS: m.Stall.Microseconds(), LinksUS: map[string]int64{},
	}
	for role, name := range loader.LinkNames {
		if n.dp.Mode(role) != "" {
			out.LinksUS[name] = m.Gap[role].Microseconds()
		}
	}
	return out
}
