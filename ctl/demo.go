// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/lab"
)

func demoCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "a whole cluster on this machine: break it, and see the outage that a client saw",
		Description: `Builds two nodes with three NICs each, two switches with a trunk, a crossover cable and a client
in network namespaces, starts xdpha on both nodes, lets the client ask an identity's address
every 100 µs, breaks something, and tells what the client saw. Needs root. It touches nothing
that is not its own, and Ctrl-C removes all of it.

   xdpha demo                                      cut the power of the node that owns "files"
   xdpha demo --fault hang --profile fast          nothing passes its cables, carrier stays
   xdpha demo --fault handover                     a planned move
   xdpha demo --fault daemon-kill --restart-after 300ms
   xdpha demo --fault power --json --count 20      one JSON object per run
   xdpha demo --hold 10m --busy 2                  no fault: at rest, two spinning processes per CPU

FAULTS
` + faultHelp() + `
The outage is the longest silence that the client saw: from the last answered probe to the first
answered one after it, less the client's own stalls. Exit status 1 if the outage did not end,
if two nodes answered, or if the identity is not where it should be.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "fault", Value: string(lab.FaultPower), Usage: "what to break: `KIND`"},
			&cli.StringFlag{Name: "identity", Value: lab.Identities[0].Name, Usage: "whose home is broken and whose address the client asks: `NAME`"},
			&cli.StringFlag{Name: "profile", Value: "balanced", Usage: "timing `PROFILE`: cautious, balanced or fast"},
			&cli.StringFlag{Name: "staging", Value: "on-takeover", Usage: "when addresses are put on the NIC: on-takeover or ahead: `WHEN`"},
			&cli.IntFlag{Name: "count", Value: 1, Usage: "how many runs, each with a new cluster"},
			&cli.DurationFlag{Name: "restart-after", Usage: "mend it after that time: restart the daemon, plug the cable, boot the node"},
			&cli.DurationFlag{Name: "hold", Usage: "break nothing, watch the cluster at rest for that time"},
			&cli.IntFlag{Name: "busy", Usage: "spinning processes per CPU meanwhile"},
			&cli.BoolFlag{DisableDefaultText: true, Name: "plain", Usage: "lines instead of a live picture, also in a terminal"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			p, err := parseDemo(c)
			if err != nil {
				return err
			}
			return demo(c.Context, env, p)
		},
	}
}

var faultTexts = map[lab.Fault]string{
	lab.FaultPower:      "everything on the node ends, its cables lose carrier",
	lab.FaultHang:       "nothing passes the node's cables, carrier stays",
	lab.FaultPanic:      "nothing on the node runs or passes its cables ever again, carrier stays",
	lab.FaultDaemonKill: "SIGKILL to xdpha run on the node; its kernel goes on",
	lab.FaultDaemonStop: "SIGSTOP to xdpha run on the node; its kernel goes on",
	lab.FaultCrossover:  "the cable between the nodes is pulled: nobody moves",
	lab.FaultLAN:        "the node's LAN cable is pulled: its spare NIC carries the identity",
	lab.FaultService:    "the check of the identity's service fails: it is restarted in place",
	lab.FaultPartition:  "no frame passes between the nodes, all others hear both: what reach cannot tell from death",
	lab.FaultPause:      "a virtual machine is stopped; with --restart-after it goes on as if nothing had been",
	lab.FaultHandOver:   "xdpha move, as planned",
}

// demoFaults are the lab's faults of which one alone has one right outcome for each identity.
func demoFaults() []lab.Fault {
	return slices.DeleteFunc(slices.Clone(lab.Faults), func(f lab.Fault) bool { return faultTexts[f] == "" })
}

func faultHelp() string {
	var b strings.Builder
	for _, f := range demoFaults() {
		fmt.Fprintf(&b, "   %-12s %s\n", f, faultTexts[f])
	}
	return b.String()
}

// demoPlan is what a demo shall do.
type demoPlan struct {
	fault        lab.Fault // empty: none, the cluster rests
	identity     lab.Identity
	profile      string
	staging      string
	count        int
	restartAfter time.Duration // 0: never
	hold         time.Duration
	busy         int
	json, plain  bool
}

func parseDemo(c *cli.Context) (p demoPlan, err error) {
	if err := needArgs(c, 0, 0); err != nil {
		return p, err
	}
	p = demoPlan{profile: c.String("profile"), staging: c.String("staging"), count: c.Int("count"), restartAfter: c.Duration("restart-after"), hold: c.Duration("hold"),
		busy: c.Int("busy"), json: c.Bool("json"), plain: c.Bool("plain")}
	switch {
	case p.count < 1:
		return p, usagef("demo: --count %d is not a number of runs", p.count)
	case p.busy < 0 || p.restartAfter < 0 || p.hold < 0:
		return p, usagef("demo: --busy, --restart-after and --hold cannot be negative")
	case p.hold > 0 && (c.IsSet("fault") || p.restartAfter > 0):
		return p, usagef("demo: --hold breaks nothing, so it goes with neither --fault nor --restart-after")
	case !slices.Contains([]string{"cautious", "balanced", "fast"}, p.profile):
		return p, usagef("demo: no profile %q: cautious, balanced or fast", p.profile)
	case !slices.Contains([]string{"on-takeover", "ahead"}, p.staging):
		return p, usagef("demo: no staging %q: on-takeover or ahead", p.staging)
	}
	if p.hold == 0 {
		if p.fault = lab.Fault(c.String("fault")); !slices.Contains(demoFaults(), p.fault) {
			return p, usagef("demo: unknown fault %q: there are %v", p.fault, demoFaults())
		}
	}
	if p.fault == lab.FaultHandOver && p.restartAfter > 0 {
		return p, usagef("demo: a handover breaks nothing that --restart-after could mend")
	}
	for _, id := range lab.Identities {
		if id.Name == c.String("identity") {
			p.identity = id
			return p, nil
		}
	}
	return p, usagef("demo: no identity %q: files (home serv1) or mail (home serv2)", c.String("identity"))
}

// demo runs the plan as often as it says.
func demo(ctx context.Context, env Env, p demoPlan) error {
	var results []demoResult
	good := true
	for i := range p.count {
		s := newStage(p)
		if p.count > 1 {
			s.title = fmt.Sprintf("run %d of %d", i+1, p.count)
		}
		r, err := perform(ctx, env, s)
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if err := printResult(env.Stdout, r, p.json); err != nil {
			return err
		}
		good = good && len(r.Wrong) == 0
		results = append(results, r)
	}
	if p.count > 1 && !p.json {
		if _, err := io.WriteString(env.Stdout, seriesText(results)); err != nil {
			return err
		}
	}
	if !good {
		return errBadNews
	}
	return nil
}

// perform shows one run as the terminal allows.
func perform(ctx context.Context, env Env, s *stage) (demoResult, error) {
	switch {
	case s.plan.json:
		return s.run(ctx)
	case env.Terminal != nil && !s.plan.plain:
		return performLive(ctx, env.Terminal, s)
	}
	s.say = func(line string) { fmt.Fprintln(env.Stdout, line) }
	return s.run(ctx)
}

func printResult(w io.Writer, r demoResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := io.WriteString(w, resultText(r))
	return err
}
