// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/lab"
)

// The contenders' names in the report.
const (
	nameXdpha = "xdpha"
	nameVMAC  = "keepalived, virtual MAC"
	namePlain = "keepalived, NIC's MAC"
	nameUsual = "keepalived, virtual MAC, its manual's priorities"
	nameEager = "keepalived, virtual MAC, down after 2 adverts"
)

// Options of a measurement.
type Options struct {
	Rounds     int          // hangs per contender; the slower faults get a tenth of it
	Profile    string       // xdpha's timing
	Executable string       // xdpha, as an absolute path
	Log        *slog.Logger // of the labs; nil is silent
	Progress   func(string) // told of every turn; nil: nobody listens
}

// Report is what was measured.
type Report struct {
	Kernel     string   `json:"kernel"`
	CPUs       int      `json:"cpus"`
	Profile    string   `json:"profile"`    // xdpha's
	Keepalived string   `json:"keepalived"` // its version; empty: not installed
	Series     []Series `json:"series"`
	Ratios     []Ratio  `json:"ratios"`
}

// perTurn is how many hangs a contender goes through before the next one's turn.
const perTurn = 10

// Run measures and prints to w. It needs root. Without keepalived it measures xdpha alone.
func Run(ctx context.Context, w io.Writer, o Options) (Report, error) {
	r := Report{Kernel: stats.KernelRelease(), CPUs: runtime.NumCPU(), Profile: o.Profile}
	all := []contender{xdpha{o.Profile}}
	path, version, err := findKeepalived(ctx)
	switch {
	case err == nil:
		r.Keepalived = version
		all = append(all, variants(path)...)
	case !errors.Is(err, ErrNotInstalled):
		return r, err
	}
	if err := printHead(w, r); err != nil {
		return r, err
	}
	rounds := map[string]map[Fault][]Round{}
	for _, c := range all {
		rounds[c.name()] = map[Fault][]Round{}
	}
	turns := (max(o.Rounds, 1) + perTurn - 1) / perTurn
	for turn := range turns {
		hangs := min(perTurn, o.Rounds-turn*perTurn)
		for i := range all {
			c := all[(i+turn)%len(all)] // nobody is always the first
			o.tell("turn %d of %d: %s", turn+1, turns, c.name())
			if err := o.turn(ctx, c, hangs, rounds[c.name()]); err != nil {
				return r, fmt.Errorf("measure %s: %w", c.name(), err)
			}
		}
	}
	for _, c := range all {
		for _, f := range c.faults() {
			got := rounds[c.name()][f]
			r.Series = append(r.Series, Series{Contender: c.name(), Fault: f, Rounds: got, Summary: summarize(got)})
		}
	}
	r.Ratios = ratios(r.Series)
	return r, printTable(w, r)
}

func (o Options) tell(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// turn measures one contender in a lab of its own: hangs rounds of a hang, one of every other fault.
func (o Options) turn(ctx context.Context, c contender, hangs int, rounds map[Fault][]Round) (err error) {
	l, err := lab.New(ctx, lab.Options{Log: o.Log, Executable: o.Executable})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := c.start(l); err != nil {
		return err
	}
	for _, f := range c.faults() {
		n := 1
		if f == Hang {
			n = hangs
		}
		for range n {
			r, err := f.run(ctx, l, c)
			if err != nil {
				return fmt.Errorf("%s: %w", f, err)
			}
			rounds[f] = append(rounds[f], r)
		}
	}
	return nil
}
