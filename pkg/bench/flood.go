// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/wire"
)

// Stretch is how a pair of nodes fared while one of them was flooded on one of its NICs, as fast as
// one thread can send, and the other one's kernel went on sending heartbeats.
type Stretch struct {
	Flood      string    `json:"flood"` // of what; empty: a quiet stretch
	Link       string    `json:"link"`  // the flooded one; empty: the same
	Seconds    float64   `json:"seconds"`
	Sent       uint64    `json:"sent"`
	PerSecond  float64   `json:"per_second"`
	Refused    uint64    `json:"refused"` // by the sender's own NIC: its ring was full
	Counted    []Counted `json:"counted"` // what became of it at the flooded node
	Probes     uint64    `json:"probes"`  // of the flooded node, on each link
	Crossover  Line      `json:"crossover"`
	Lan        Line      `json:"lan"`
	Spare      Line      `json:"spare"`
	SilenceNS  uint64    `json:"silence_ns"` // the longest on all links at once, of both nodes
	Suspects   uint64    `json:"suspects"`   // of both nodes
	Refuted    uint64    `json:"refuted"`
	SelfStalls uint64    `json:"self_stalls"`
	Takeovers  int       `json:"takeovers"` // identities that changed their owner: none should
}

// Counted is how often the flooded node's programs took an exit on that NIC.
type Counted struct {
	Exit  string `json:"exit"`
	Count uint64 `json:"count"`
}

// Line is the heartbeat on one link, as the flooded node saw it.
type Line struct {
	Unanswered int64  `json:"unanswered"` // probes
	GapNS      uint64 `json:"gap_ns"`     // the longest between two frames
}

// flood bounds a stretch by whatever comes first.
type flood struct {
	time   time.Duration
	frames uint64
}

var (
	shortFlood = flood{400 * time.Millisecond, 1_000_000}
	longFlood  = flood{5 * time.Second, 20_000_000}
)

// foreignMAC is who claims an address that is not his.
var foreignMAC = wire.MAC{0x02, 0xbe, 0, 0, 0, 0x66}

func flooded(ctx context.Context, s size, res *Result) error {
	d, err := newDuo(ctx, s.after)
	if err != nil {
		return err
	}
	defer d.close()
	floods, err := forgeries()
	if err != nil {
		return err
	}
	for _, f := range floods {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := d.stretch(s.flood, f)
		if err != nil {
			return err
		}
		res.Stretches = append(res.Stretches, x)
	}
	return nil
}

// forgery is a frame that a link is flooded with; without one it is quiet.
type forgery struct {
	name  string
	link  int
	frame []byte
}

// forgeries are what anybody can send, each on the links where it does something of its own.
func forgeries() ([]forgery, error) {
	list := []forgery{{}}
	for link := range loader.Links {
		b, err := forgedHeartbeat(link)
		if err != nil {
			return nil, err
		}
		other := slices.Clone(b)
		other[wire.OffsetKeyID]++
		list = append(list, forgery{"heartbeats with a wrong tag", link, b}, forgery{"heartbeats of another key", link, other})
	}
	noise := slices.Concat(vipMAC[:], foreignMAC[:], make([]byte, 60))
	return append(list,
		forgery{"ARP requests for an address", loader.Lan, arpRequest(askIP, vip)},
		forgery{"ARP claims of an address", loader.Lan, arpClaim(foreignMAC, vip)},
		forgery{"ARP requests for an address", loader.Spare, arpRequest(askIP, vip)},
		forgery{"noise to a virtual MAC", loader.Lan, noise}, forgery{"noise to a virtual MAC", loader.Crossover, noise}, forgery{},
	), nil
}

func forgedHeartbeat(link int) ([]byte, error) {
	f := wire.Frame{
		SrcMAC: peerMAC, DstMAC: nodeMAC, SrcIP: ends[1].on[link], DstIP: ends[0].on[link], Sender: 1, Link: uint8(link),
		ClusterID: clusterID, BootID: peerBoot, Nonce: peerNonce, Digest: digest, Words: []uint64{firstGeneration, firstGeneration},
	}
	b, err := f.Marshal(key)
	if err != nil {
		return nil, err
	}
	b[len(b)-1] ^= 1
	return b, nil
}

// arpClaim is an answer that nobody asked for.
func arpClaim(mac wire.MAC, ip netip.Addr) []byte {
	b := arpRequest(ip, ip)
	copy(b[6:], mac[:])
	copy(b[offsetARPMAC:], mac[:])
	b[offsetARPOp+1] = 2
	return b
}

// reading is what is read before and after a stretch.
type reading struct {
	state    [2]loader.State
	counters map[string]uint64 // of the flooded node's NIC
	replies  map[string]uint64 // accepted by it, by link
}

func (d *duo) read(link int) (r reading, err error) {
	for i, n := range d.nodes {
		r.state[i] = n.dp.State(len(vips))
	}
	r.counters, r.replies = map[string]uint64{}, map[string]uint64{}
	all, err := d.nodes[0].dp.Counters()
	for _, c := range all {
		switch {
		case c.Kind == "reply":
			r.replies[c.Link] = c.Count
		case c.Link == loader.LinkNames[link] && c.Kind != "probe" && c.Kind != "other": // its own probes, going out
			r.counters[c.Kind+" "+c.Verdict+" "+c.Name] = c.Count
		}
	}
	return r, err
}

// stretch floods, or is quiet for as long.
func (d *duo) stretch(limit flood, f forgery) (x Stretch, err error) {
	for _, n := range d.nodes {
		n.dp.ForgetGaps()
	}
	before, err := d.read(f.link)
	if err != nil {
		return x, err
	}
	start := time.Now()
	if f.frame == nil {
		time.Sleep(limit.time)
	} else {
		x.Flood, x.Link = f.name, loader.LinkNames[f.link]
		x.Sent, x.Refused = d.attack[f.link].flood(f.frame, limit)
	}
	x.Seconds = time.Since(start).Seconds()
	x.PerSecond = float64(x.Sent) / x.Seconds
	time.Sleep(10 * duoProbe) // what is under way arrives
	after, err := d.read(f.link)
	if err != nil {
		return x, err
	}
	x.compare(before, after)
	return x, nil
}

func (x *Stretch) compare(before, after reading) {
	for exit, n := range after.counters {
		if n -= before.counters[exit]; n > 0 {
			x.Counted = append(x.Counted, Counted{exit, n})
		}
	}
	slices.SortFunc(x.Counted, func(a, b Counted) int { return int(b.Count) - int(a.Count) })
	now, then := &after.state[0], &before.state[0]
	x.Probes = now.Seq - then.Seq
	line := func(link int) Line {
		name := loader.LinkNames[link]
		missing := int64(x.Probes) - int64(after.replies[name]-before.replies[name])
		return Line{max(missing, 0), now.Peers[1].Links[link].GapMaxNS} // the answer to a probe of before may come within
	}
	x.Crossover, x.Lan, x.Spare = line(loader.Crossover), line(loader.Lan), line(loader.Spare)
	for i := range after.state {
		now, then := &after.state[i], &before.state[i]
		is, was := &now.Peers[1-i], &then.Peers[1-i]
		x.SilenceNS = max(x.SilenceNS, is.Silence.MaxNS)
		x.Suspects += is.Suspects - was.Suspects
		x.Refuted += is.Refuted - was.Refuted
		x.SelfStalls += now.SelfStalls - then.SelfStalls
	}
	for id := range vips {
		gen := func(r reading, node int) uint64 { return r.state[node].Words[id].Gen() }
		if gen(after, 0) != gen(before, 0) || gen(after, 1) != gen(before, 1) {
			x.Takeovers++
		}
	}
}

func printStretches(w io.Writer, r Result) {
	fmt.Fprintf(w, "\nflood of\tsent a second\tworst gap: crossover, lan, spare, all\tprobes unanswered: crossover, lan, spare\tsuspects\ttakeovers\n")
	for _, x := range r.Stretches {
		name := x.Flood + " (" + x.Link + ")"
		if x.Flood == "" {
			name = "nothing"
		}
		verdict := ""
		if x.Takeovers > 0 {
			verdict = "  WRONG"
		}
		fmt.Fprintf(w, "%s, %.1f s\t%.0f\t%.1f, %.1f, %.1f, %.1f ms\t%d, %d, %d of %d\t%d\t%d%s\n", name, x.Seconds, x.PerSecond,
			ms(x.Crossover.GapNS), ms(x.Lan.GapNS), ms(x.Spare.GapNS), ms(x.SilenceNS),
			x.Crossover.Unanswered, x.Lan.Unanswered, x.Spare.Unanswered, x.Probes, x.Suspects, x.Takeovers, verdict)
	}
	fmt.Fprintf(w, "\nwhat became of it\tframes\n")
	for _, x := range r.Stretches {
		if x.Flood == "" {
			continue
		}
		fmt.Fprintf(w, "%s (%s): sent\t%d\n  refused by the sender's NIC\t%d\n", x.Flood, x.Link, x.Sent, x.Refused)
		for _, c := range x.Counted {
			fmt.Fprintf(w, "  %s\t%d\n", c.Exit, c.Count)
		}
	}
}

func ms(ns uint64) float64 { return float64(ns) / 1e6 }
