// SPDX-License-Identifier: Apache-2.0

package returns

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Options of a campaign.
type Options struct {
	Rounds, From int // how many, and the first one that follows from the seed
	Seed         uint64
	Executable   string       // xdpha, an absolute path
	Progress     func(string) // told of every round
}

// Report is what was seen.
type Report struct{ Rounds []Round }

// Good reports whether nothing was wrong.
func (r Report) Good() bool {
	for _, v := range r.Rounds {
		if len(v.Wrong) > 0 {
			return false
		}
	}
	return len(r.Rounds) > 0
}

// files is the identity with the data, home the node that comes back.
var (
	files = lab.Identities[0]
	home  = files.Home
)

//go:embed service.sh
var service string

// campaign is the lab with the pair in it.
type campaign struct {
	*lab.Lab
	opt    Options
	events *pair.Events
}

// Run has rounds, and writes what came of them. It needs root.
func Run(ctx context.Context, w io.Writer, o Options) (r Report, err error) {
	l, err := lab.New(ctx, lab.Options{Executable: o.Executable})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	c := &campaign{Lab: l, opt: o}
	if err := c.start(); err != nil {
		return r, err
	}
	c.events = pair.Follow(ctx, l)
	defer c.events.Stop()
	for i := range o.Rounds {
		round, err := c.round(ctx, draw(o.Seed, o.From+i))
		if err != nil {
			return r, fmt.Errorf("%v: %w%s%s", round, err, c.story(round.beganNs), pair.Logs(l))
		}
		r.Rounds = append(r.Rounds, round)
		c.tell(round)
	}
	return r, r.print(w)
}

func (c *campaign) tell(r Round) {
	if c.opt.Progress == nil {
		return
	}
	text := fmt.Sprintf("%v, while %s; %d starts, %d handed over, %d taken over; all at home after %.1f s", r, r.Phase, r.Starts, r.Handed, r.Taken, float64(r.TookNs)/1e9)
	for _, why := range r.Wrong {
		text += "\nWRONG: " + why
	}
	if len(r.Wrong) > 0 {
		text += c.story(r.beganNs)
	}
	c.opt.Progress(text)
}

// start starts the pair with a /srv and the service on each node.
func (c *campaign) start() error {
	program := filepath.Join(c.Dir, "service.sh")
	if err := errors.Join(os.Mkdir(c.judge(""), 0o700), os.WriteFile(c.judge("notes"), nil, 0o600),
		os.WriteFile(program, []byte(strings.ReplaceAll(service, "LAB", c.Dir)), 0o700)); err != nil {
		return err
	}
	scene := lab.Scene{
		Profile: "cautious", SupervisorLease: "2s", Program: program,
		Mirror: "{paths: [/srv], every: 1m, on_change: true, bandwidth: 4MB}", Extra: "hold: until-synced\n",
	}
	if err := c.WriteConfig(scene); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := n.StartWithSrv(); err != nil {
			return err
		}
	}
	return nil
}

// judge is a file in the directory that both nodes see.
func (c *campaign) judge(name string) string { return filepath.Join(c.Dir, "judge", name) }

// starts are those since the first round.
func (c *campaign) starts() ([]*start, error) {
	b, err := os.ReadFile(c.judge("notes"))
	if err != nil {
		return nil, err
	}
	return parseNotes(string(b))
}

// story is what the daemons told since a time.
func (c *campaign) story(since int64) string {
	text := ""
	for _, e := range c.events.From(since) {
		text += fmt.Sprintf("\n%+11.3f ms  %s  %s %s: %s", float64(e.TimeNS-since)/1e6, e.Node, e.Kind, e.Identity, e.Text)
	}
	return text
}

func (r Report) print(w io.Writer) error {
	var starts, handed, taken, bad int
	phases, longest := map[string]int{}, int64(0)
	for _, v := range r.Rounds {
		starts, handed, taken, bad = starts+v.Starts, handed+v.Handed, taken+v.Taken, bad+len(v.Wrong)
		phases[v.Phase]++
		longest = max(longest, v.TookNs)
	}
	_, err := fmt.Fprintf(w, "%d returns, each hit by a fault; services started %d times: %d handed over, %d taken over from a node that had failed; %d wrong\n",
		len(r.Rounds), starts, handed, taken, bad)
	for _, p := range everyPhase {
		if err == nil && phases[p] > 0 {
			_, err = fmt.Fprintf(w, "%4d hit while %s\n", phases[p], p)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "longest round %s\n", time.Duration(longest).Round(100*time.Millisecond))
	}
	return err
}
