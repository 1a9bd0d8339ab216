// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Options say for how long, and of what.
type Options struct {
	Short      bool   // two seconds for each interval instead of ten
	Executable string // xdpha, as an absolute path
}

// Rest is what one node of a pair costs while nothing happens: the mean of both.
type Rest struct {
	ProbeUS     int64          `json:"probe_us"`
	Seconds     float64        `json:"seconds"`
	DaemonCPU   float64        `json:"daemon_cpu"`   // share of one CPU: user and system time
	DaemonBytes uint64         `json:"daemon_bytes"` // resident
	KernelCPU   float64        `json:"kernel_cpu"`   // share of one CPU in the programs, but for the detector's timer
	Programs    []ProgramShare `json:"programs"`
	MapBytes    uint64         `json:"map_bytes"`
	CodeBytes   uint64         `json:"code_bytes"` // of the programs
}

// ProgramShare is one BPF program's part.
type ProgramShare struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"per_second"` // runs
	NS        float64 `json:"ns"`         // a run
}

// The intervals, and after how long a silence the peer is dead: so long that a hiccup of this
// machine is not a death, for this is about rest.
var intervals = []struct {
	probe           time.Duration
	written, deadIn string
}{
	{100 * time.Microsecond, "100us", "50ms"},
	{time.Millisecond, "1ms", "50ms"},
	{10 * time.Millisecond, "10ms", "100ms"},
}

// Run measures and prints to w. It needs root, and Executable to be built.
func Run(ctx context.Context, w io.Writer, o Options) (all []Rest, err error) {
	long := 10 * time.Second
	if o.Short {
		long = 2 * time.Second
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nat rest, one node\tdaemon\tresident\tprograms\tof these in, out, tick\tmaps\tcode\n")
	for _, i := range intervals {
		r, err := rest(ctx, o.Executable, lab.Scene{Probe: i.written, DeadAfter: i.deadIn}, long)
		if err != nil {
			return all, fmt.Errorf("a probe every %s: %w", i.probe, err)
		}
		r.ProbeUS = i.probe.Microseconds()
		all = append(all, r)
		r.print(t, i.probe)
	}
	return all, t.Flush()
}

func (r Rest) print(w io.Writer, probe time.Duration) {
	fmt.Fprintf(w, "a probe every %s\t%.2f %% of a CPU\t%.1f MB\t%.2f %% of a CPU\t", probe, 100*r.DaemonCPU, mb(r.DaemonBytes), 100*r.KernelCPU)
	for i, p := range r.Programs {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%.0f/s × %.0f ns", p.PerSecond, p.NS)
	}
	fmt.Fprintf(w, "\t%.1f MB\t%.2f MB\n", mb(r.MapBytes), mb(r.CodeBytes))
}

func mb(bytes uint64) float64 { return float64(bytes) / 1e6 }

// rest starts a pair and lets it be.
func rest(ctx context.Context, program string, scene lab.Scene, long time.Duration) (r Rest, err error) {
	l, err := lab.New(ctx, lab.Options{Executable: program})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.WriteConfig(scene); err != nil {
		return r, err
	}
	for _, n := range l.Nodes {
		if err := n.Start(); err != nil {
			return r, err
		}
	}
	if err := settle(ctx, l); err != nil {
		return r, err
	}
	counting, err := loader.CountRuns()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	before, err := read(l)
	if err != nil {
		return r, err
	}
	select {
	case <-time.After(long):
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
	after, err := read(l)
	if err != nil {
		return r, err
	}
	r.mean(before, after)
	return r, nil
}

// settle returns when both nodes see each other up and each owns its identity.
func settle(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		missing := unsettled(ctx, l)
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await that the pair settles: %s: %w", missing, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unsettled says what is missing; "" if nothing is.
func unsettled(ctx context.Context, l *lab.Lab) string {
	for _, n := range l.Nodes {
		st, err := status(ctx, n)
		if err != nil {
			return fmt.Sprintf("%s does not answer: %v: %s", n.Name, err, n.Tail(5))
		}
		if st.Peer.State != control.PeerUp {
			return fmt.Sprintf("%s sees its peer %q", n.Name, st.Peer.State)
		}
		for _, id := range st.Identities {
			if id.Owner != id.Home {
				return fmt.Sprintf("%s sees %s owned by %q", n.Name, id.Name, id.Owner)
			}
		}
	}
	return ""
}

func status(ctx context.Context, n *lab.Node) (control.Status, error) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return c.Status(ctx)
}
