// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Section is one of the measurements.
type Section string

// The sections, in the order in which they run.
const (
	Kinds     Section = "kinds"
	Pairs     Section = "pairs"
	Starved   Section = "starved"
	Addresses Section = "addresses"
	Tickle    Section = "tickle"
	Ladder    Section = "ladder"
)

// Sections lists them.
var Sections = []Section{Kinds, Pairs, Starved, Addresses, Tickle, Ladder}

// Faults are the kinds of the section of that name, if nothing else is said. A partition is
// not among them: in it both nodes reach the listed hosts, and two owners are what the
// arbiter reach documents.
var Faults = []lab.Fault{
	lab.FaultHang, lab.FaultPanic, lab.FaultPower, lab.FaultDaemonKill, lab.FaultDaemonStop,
	lab.FaultLAN, lab.FaultHandOver, lab.FaultPause, lab.FaultCrossover, lab.FaultService,
}

// Options of a measurement.
type Options struct {
	Sections      []Section
	Rounds        int           // of each kind of fault, pacer and number of addresses, with a tickle and without; of pairs: in all
	From          int           // the first round of pairs
	Faults        []lab.Fault   // of kinds
	PairFaults    []lab.Fault   // of pairs
	Keep          string        // directory for the stories of pairs that went wrong; empty: they are only told
	Counts        []int         // of addresses
	For           time.Duration // how long the ladder takes
	Period        time.Duration // of the client in kinds and addresses; 0: the lab's
	Profile       string        // timing of kinds, starved, addresses and tickle
	LadderProfile string        // timing of the ladder
	Seed          uint64        // of the order of faults
	Executable    string        // xdpha, as an absolute path
	Log           *slog.Logger  // of the labs; nil is silent
	Progress      func(string)  // told of every turn; nil: nobody listens
}

// Report is what was measured.
type Report struct {
	Kernel    string           `json:"kernel"`
	CPUs      int              `json:"cpus"`
	Profile   string           `json:"profile"`
	Seed      uint64           `json:"seed"`
	Kinds     *KindsReport     `json:"kinds,omitempty"`
	Pairs     *PairsReport     `json:"pairs,omitempty"`
	Starved   *StarvedReport   `json:"starved,omitempty"`
	Addresses *AddressesReport `json:"addresses,omitempty"`
	Tickle    *TickleReport    `json:"tickle,omitempty"`
	Ladder    *LadderReport    `json:"ladder,omitempty"`
	Notes     []Note           `json:"notes,omitempty"`
}

// Good reports whether everything came out right, whatever time it took: never two owners,
// served whenever somebody could serve, and nobody moved for being busy.
func (r Report) Good() bool {
	return (r.Kinds == nil || r.Kinds.Total.good()) && (r.Pairs == nil || r.Pairs.good()) && (r.Starved == nil || r.Starved.good()) &&
		(r.Addresses == nil || r.Addresses.good()) && (r.Tickle == nil || r.Tickle.good()) && (r.Ladder == nil || r.Ladder.good())
}

// Run measures, and prints every section to w as it ends. It needs root.
func Run(ctx context.Context, w io.Writer, o Options) (Report, error) {
	r := Report{Kernel: stats.KernelRelease(), CPUs: runtime.NumCPU(), Profile: o.Profile, Seed: o.Seed}
	if err := printHead(w, r); err != nil {
		return r, err
	}
	for _, s := range Sections {
		if !slices.Contains(o.Sections, s) {
			continue
		}
		before := len(r.Notes)
		var err error
		switch s {
		case Kinds:
			r.Kinds, err = o.kinds(ctx, &r.Notes)
		case Pairs:
			r.Pairs, err = o.pairs(ctx, &r.Notes)
		case Starved:
			r.Starved, err = o.starved(ctx, &r.Notes)
		case Addresses:
			r.Addresses, err = o.addresses(ctx, &r.Notes)
		case Tickle:
			r.Tickle, err = o.tickle(ctx, &r.Notes)
		case Ladder:
			r.Ladder, err = o.ladder(ctx, &r.Notes)
		}
		if err := r.print(w, s, r.Notes[before:]); err != nil {
			return r, err
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", s, err)
		}
	}
	return r, nil
}

func (o Options) tell(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}
