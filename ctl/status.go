// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/control"
)

func statusCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "what this node knows: peers, links, identities, services, last takeover",
		Description: `A peer is one of
   up               its kernel answers and its daemon is well
   supervisor-lost  its kernel answers, but its daemon does not run: its lease is running out
   dead             nothing answered, on any path
   unknown          not heard since this node started

Of more than two nodes each is shown with the round trips to it; a link is up if all peers are heard on
it. In --json "peers" has all of them, and "peer" is the one that fares worst.

A gate is this node's, per identity: open means that packets pass here.

   xdpha status                the state now; exit status 1 if anything needs attention
   xdpha status --watch        redrawn every second, until Ctrl-C
   xdpha status --json | jq '.identities[] | {name, owner, generation}'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{DisableDefaultText: true, Name: "watch", Aliases: []string{"w"}, Usage: "redraw until Ctrl-C"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "time between two pictures of --watch"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			if c.Duration("interval") <= 0 {
				return usagef("status: --interval %s is not a time to wait", c.Duration("interval"))
			}
			return withClient(c, func(ctx context.Context, cl *control.Client) error {
				if c.Bool("watch") {
					return watchStatus(ctx, env, cl, c.Duration("interval"), c.Bool("json"))
				}
				s, err := askStatus(ctx, cl)
				if err == nil {
					err = printStatus(env.Stdout, s, c.Bool("json"))
				}
				if err == nil && len(attention(s)) > 0 {
					err = errBadNews
				}
				return err
			})
		},
	}
}

func askStatus(ctx context.Context, cl *control.Client) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return cl.Status(ctx)
}

func printStatus(w io.Writer, s control.Status, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(s)
	}
	_, err := io.WriteString(w, statusText(s))
	return err
}

// watchStatus redraws until ctx ends. A daemon that is away for a moment, as
// during an upgrade, is no reason to stop watching.
func watchStatus(ctx context.Context, env Env, cl *control.Client, every time.Duration, asJSON bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s, err := askStatus(ctx, cl)
		if ctx.Err() != nil {
			return nil
		}
		if env.Terminal != nil && !asJSON {
			fmt.Fprint(env.Stdout, "\x1b[H\x1b[2J")
		}
		if err == nil {
			err = printStatus(env.Stdout, s, asJSON)
			if err != nil {
				return err
			}
		} else {
			fmt.Fprintf(env.Stderr, "xdpha: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// statusText is the status for people.
func statusText(s control.Status) string {
	var b strings.Builder
	statusHead(&b, s)
	if len(everyPeer(s)) > 1 {
		statusNodes(&b, s)
	} else {
		statusPicture(&b, s)
	}
	statusLinks(&b, s)
	statusIdentities(&b, s)
	statusServices(&b, s)
	statusPeers(&b, s)
	statusServing(&b, s)
	statusArbiter(&b, s.Arbiter)
	statusTakeover(&b, s)
	for i, a := range attention(s) {
		if i == 0 {
			b.WriteString("\nneeds attention\n")
		}
		fmt.Fprintf(&b, "  ! %s\n", a)
	}
	return b.String()
}

func statusHead(b *strings.Builder, s control.Status) {
	fmt.Fprintf(b, "%s in cluster %s, xdpha %s, %s\n\n", s.Node, s.Cluster, s.Version, s.Time.Format(time.DateTime))
}

// everyPeer is who the node tells of; a daemon of an earlier version tells of one.
func everyPeer(s control.Status) []control.Peer {
	if len(s.Peers) == 0 {
		return []control.Peer{s.Peer}
	}
	return s.Peers
}

// statusNodes is the picture of more than two nodes: each with the round trips to it.
func statusNodes(b *strings.Builder, s control.Status) {
	table(b, func(w io.Writer) {
		header, own := "node\tstate", s.Node+"\t"+selfWord(s)
		for _, l := range s.Links {
			header, own = header+"\t"+l.Name, own+"\t"
		}
		fmt.Fprintf(w, "%s\n%s\n", header, own)
		for _, p := range s.Peers {
			fmt.Fprintf(w, "%s\t%s", p.Name, peerWord(p))
			for _, l := range p.Links {
				fmt.Fprintf(w, "\t%s", linkWord(l))
			}
			fmt.Fprintln(w)
		}
	})
}

func linkWord(l control.Link) string {
	if !l.Up {
		return "down"
	}
	return shortNS(l.RTTUS.P50 * 1e3)
}

// statusPicture draws the two nodes and the links between them.
func statusPicture(b *strings.Builder, s control.Status) {
	left := []string{s.Node, selfWord(s)}
	right := []string{orDash(s.Peer.Name), peerWord(s.Peer)}
	var middle []string
	for _, l := range s.Links {
		middle = append(middle, linkLine(l))
	}
	rows := max(2, len(middle))
	lw, mw, rw := width(left), width(middle), width(right)
	edge := func(open, end string) string {
		return "  " + open + strings.Repeat("─", lw+2) + end + strings.Repeat(" ", mw) + open + strings.Repeat("─", rw+2) + end + "\n"
	}
	b.WriteString(edge("┌", "┐"))
	for i := range rows {
		m := fill(at(middle, i), mw)
		l, r := "│", "│"
		if i < len(middle) {
			l, r = "├", "┤"
		}
		fmt.Fprintf(b, "  │ %s %s%s%s %s │\n", pad(at(left, i), lw), l, m, r, pad(at(right, i), rw))
	}
	b.WriteString(edge("└", "┘"))
}

// linkLine is a link in the picture; its numbers are in the table below.
func linkLine(l control.Link) string {
	if !l.Up {
		return "── ╳ ── " + l.Name + " "
	}
	return "─────── " + l.Name + ", " + shortNS(l.RTTUS.P50*1e3) + " "
}

func statusLinks(b *strings.Builder, s control.Status) {
	b.WriteString("\n")
	table(b, func(w io.Writer) {
		fmt.Fprintln(w, map[bool]string{true: "link to all", false: "link"}[len(everyPeer(s)) > 1]+"\tinterface\tXDP\tstate\tlast heard\tRTT p50\tp99\tmax\tlongest gap")
		for _, l := range s.Links {
			state := "up"
			if !l.Up {
				state = "down"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Interface, l.Mode, state, heard(l.LastHeardUS),
				shortNS(l.RTTUS.P50*1e3), shortNS(l.RTTUS.P99*1e3), shortNS(l.RTTUS.Max*1e3), shortNS(float64(l.GapMaxUS)*1e3))
		}
	})
}

func heard(us int64) string {
	if us < 0 {
		return "never"
	}
	return shortNS(float64(us)*1e3) + " ago"
}

func selfWord(s control.Status) string {
	switch {
	case s.Standby && s.Frozen:
		return "standby, frozen"
	case s.Standby:
		return "standby"
	case s.Frozen:
		return "frozen"
	}
	return "up (this node)"
}

func peerWord(p control.Peer) string {
	switch p.State {
	case control.PeerUp:
		return "up, supervisor " + shortNS(float64(p.SupervisorAgeUS)*1e3) + " ago"
	case control.PeerSupervisorLost:
		return "kernel answers, supervisor lost for " + shortNS(float64(p.SupervisorAgeUS)*1e3)
	}
	return p.State
}

func statusIdentities(b *strings.Builder, s control.Status) {
	b.WriteString("\n")
	table(b, func(w io.Writer) {
		many := len(everyPeer(s)) > 1
		fmt.Fprintf(w, "identity\thome%s\towner\tgeneration\tgate here\tready to take\tconnections\tMAC\taddresses\n", map[bool]string{true: ", then"}[many])
		for _, id := range s.Identities {
			home := id.Home
			if many {
				home = strings.Join(append([]string{home}, id.Prefer...), ", ")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", id.Name, home, orNobody(id.Owner), id.Generation, gateWord(id), readyWord(s, id), connections(id), id.MAC, shortList(id.Addresses, 3))
		}
	})
}

// connections are the TCP connections whose clients are told of a takeover.
func connections(id control.Identity) string {
	if id.Tickle == nil {
		return "-"
	}
	return strconv.Itoa(id.Tickle.Known)
}

func gateWord(id control.Identity) string {
	gate := id.Gate
	if id.Carrier != "" {
		gate += " on " + id.Carrier
	}
	if id.Reason == "" {
		return gate
	}
	return gate + ": " + id.Reason
}

func readyWord(s control.Status, id control.Identity) string {
	switch {
	case id.Owner == s.Node:
		return "owns it"
	case id.Armed:
		return "yes"
	case !mayTake(s, id):
		return "never"
	}
	return "no"
}

// mayTake reports whether an identity can come to this node. A daemon of an earlier version does not
// say who takes it: that is a pair's.
func mayTake(s control.Status, id control.Identity) bool {
	return len(id.Prefer) == 0 || id.Home == s.Node || slices.Contains(id.Prefer, s.Node)
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

func statusServices(b *strings.Builder, s control.Status) {
	if len(s.Services) > 0 {
		b.WriteString("\n")
		table(b, func(w io.Writer) {
			fmt.Fprintln(w, "service\tstate here\trestarts\t")
			for _, v := range s.Services {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", v.Name, v.State, v.Restarts, v.Reason)
			}
		})
	}
	if len(s.Mirrors) > 0 {
		b.WriteString("\n")
		table(b, func(w io.Writer) {
			fmt.Fprintln(w, "mirror\tdirection\tlag\t")
			for _, m := range s.Mirrors {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, m.Direction, mirrorLag(m), mirrorNote(m))
			}
		})
	}
}

func mirrorLag(m control.Mirror) string {
	if m.LagS < 0 {
		return "-"
	}
	return shortNS(m.LagS * 1e9)
}

// mirrorNote is what a set does now, and what keeps it from that.
func mirrorNote(m control.Mirror) string {
	var notes []string
	if p := m.Progress; p != nil {
		notes = append(notes, fmt.Sprintf("copying over the %s: %d %%, %d files left", m.Link, p.Percent, p.FilesLeft))
	}
	if m.Error != "" {
		notes = append(notes, m.Error)
	}
	return strings.Join(notes, "; ")
}

// statusPeers tells each peer's three values apart: its kernel, its daemon, its services. What is
// done about a lost supervisor is the same for all.
func statusPeers(b *strings.Builder, s control.Status) {
	b.WriteString("\n")
	peers, its, who := everyPeer(s), "its", "this node"
	for _, p := range peers {
		fmt.Fprintf(b, "peer %s: kernel %s, supervisor %s", orDash(p.Name), kernelWord(p), orDash(p.Supervisor))
		for _, id := range slices.Sorted(maps.Keys(p.Services)) {
			fmt.Fprintf(b, ", services of %s %s", id, p.Services[id])
		}
		if p.Solo {
			b.WriteString("; it serves by the arbiter's leave")
		}
		b.WriteString("\n")
	}
	if len(peers) > 1 {
		its, who = "a peer's", "the next candidate"
	}
	fmt.Fprintf(b, "  once %s supervisor is silent for %s: %s\n", its, us(peers[0].Policy.AfterUS), policyWord(peers[0].Policy, who))
}

func kernelWord(p control.Peer) string {
	if p.State == control.PeerSupervisorLost {
		return control.PeerUp
	}
	return orDash(p.State)
}

// policyWord says what is done once a peer's supervisor counts as lost, and who does it.
func policyWord(p control.Policy, who string) string {
	if p.SupervisorLost == control.PolicyTakeover {
		return who + " demands of its kernel what it owns, and takes it"
	}
	return "nothing, until its kernel releases what it owns by itself"
}

// statusServing is what the kernel needs to detect in time and to serve.
func statusServing(b *strings.Builder, s control.Status) {
	p := s.Pacer
	fmt.Fprintf(b, "pacer %s, wanted %s: last tick %s, longest gap %s, tokens sent %d\n", orDash(p.Mode), orDash(p.Wanted), heard(p.LastTickUS), shortUS(p.GapMaxUS), p.TokensSent)
	switch right := s.RightToServeUS; {
	case right == nil:
		fmt.Fprintf(b, "right to serve: not asked for (arbiter %s)\n", s.Arbiter.Kind)
	case *right == 0:
		b.WriteString("right to serve: has run out, the gates are closed\n")
	default:
		fmt.Fprintf(b, "right to serve: %s left\n", shortUS(*right))
	}
}

func statusArbiter(b *strings.Builder, a control.Arbiter) {
	fmt.Fprintf(b, "arbiter %s", a.Kind)
	if len(a.Hosts) > 0 {
		fmt.Fprintf(b, ": reaches %d of %d hosts, needs %d", a.Reached, len(a.Hosts), a.Needed)
		for i, h := range a.Hosts {
			sep := ", "
			if i == 0 {
				sep = " ("
			}
			b.WriteString(sep + h.Address)
			if !h.Reached {
				b.WriteString(" silent")
			}
		}
		b.WriteString(")")
	}
	b.WriteString("\n")
	if e := a.Etcd; e != nil {
		etcdText(b, e)
	}
	if f := a.Fence; f != nil {
		fmt.Fprintf(b, "fence agent %s: %s%s\n", f.Agent, fenceStates[f.State], fenceLast(f))
	}
}

func etcdText(b *strings.Builder, e *control.Etcd) {
	if !e.Reached {
		fmt.Fprintf(b, "  not reached: %s\n", orDash(e.Error))
	}
	for _, k := range e.Keys {
		switch {
		case k.LeftUS > 0:
			fmt.Fprintf(b, "  key of %s: held here for %s at least\n", k.Identity, shortUS(k.LeftUS))
		case k.Holder != "":
			fmt.Fprintf(b, "  key of %s: held by %s\n", k.Identity, k.Holder)
		default:
			fmt.Fprintf(b, "  key of %s: nobody needs it\n", k.Identity)
		}
	}
}

var fenceStates = map[string]string{
	control.FenceIdle:    "has nothing to do",
	control.FenceRunning: "is switching the peer off",
	control.FencePeerOff: "the peer is off",
}

// fenceLast tells of the agent's last run.
func fenceLast(f *control.Fence) string {
	if f.LastAt == nil {
		return "; not run since the daemon's start"
	}
	s := fmt.Sprintf("; last run: %s, at %s", f.LastResult, f.LastAt.Format(time.DateTime))
	if f.LastError != "" {
		s += ": " + f.LastError
	}
	return s
}

func statusTakeover(b *strings.Builder, s control.Status) {
	t := s.LastTakeover
	if t == nil {
		b.WriteString("last takeover to this node: none since the kernel's part was loaded\n")
		return
	}
	fmt.Fprintf(b, "last takeover to this node: %s, generation %d, %s, at %s\n", t.Identity, t.Generation, t.Cause, t.Time.Format(time.DateTime))
	since := "after the last sign of life"
	if t.Timeline.From == control.FromFlip {
		since = "after the flip"
	}
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "%s\tby\tstage\n", since)
		for _, st := range takeoverStages(t.Timeline) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", st.when(), st.by, st.name)
		}
	})
}

// takeoverStage is a stage of a takeover as people read it.
type takeoverStage struct {
	us       int64 // 0: not reached, or there is nothing of the kind
	by, name string
}

func (s takeoverStage) when() string {
	if s.us == 0 {
		return "-"
	}
	return shortNS(float64(s.us) * 1e3)
}

// takeoverStages are those of a takeover in the order in which they came; what is not reached is last.
func takeoverStages(t control.Timeline) []takeoverStage {
	list := []takeoverStage{
		{t.AnnouncedUS, "kernel", "first announcement"},
		{t.AnsweredUS, "kernel", "first ARP or ND question answered"}, {t.InUS, "kernel", "first packet in"}, {t.OutUS, "kernel", "first packet out"},
		{t.AddressesUS, "daemon", "addresses in place"}, {t.RepeatedUS, "daemon", "announced again"}, {t.ServicesUS, "daemon", "services up"},
	}
	if t.From == control.FromEvidence {
		list = append([]takeoverStage{{t.SuspectUS, "kernel", "suspect"}, {t.DeadUS, "kernel", "dead"}, {t.FlipUS, "kernel", "owned (flip)"}}, list...)
	}
	slices.SortStableFunc(list, func(a, b takeoverStage) int {
		if a.us == 0 || b.us == 0 {
			return cmp.Compare(b.us, a.us)
		}
		return cmp.Compare(a.us, b.us)
	})
	return list
}
