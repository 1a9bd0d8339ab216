// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/control"
)

func pingCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "ping", Usage: "round trips between the nodes' kernels, per link, as a histogram",
		Description: `Heartbeats are answered by the other nodes' kernels in their network drivers, and timed by this
node's kernel on one clock. This collects them for a while; it sends nothing more than is sent
anyway.

   xdpha ping                            one second
   xdpha ping --for 10s --json           ten, for scripts

A p99 far above p50 points at interrupt moderation or deep C-states; lost replies at the link.
With more than two nodes each is shown by itself. Exit status 1 if a link had no answer at all.`,
		Flags: []cli.Flag{&cli.DurationFlag{Name: "for", Value: time.Second, Usage: "how long to collect"}, jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			d := c.Duration("for")
			if d <= 0 {
				return usagef("ping: --for %s is not a time to wait", d)
			}
			return withClient(c, func(ctx context.Context, cl *control.Client) error {
				ctx, cancel := context.WithTimeout(ctx, d+commandTimeout)
				defer cancel()
				p, err := cl.Ping(ctx, d)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					err = json.NewEncoder(env.Stdout).Encode(p)
				} else {
					_, err = io.WriteString(env.Stdout, pingText(p))
				}
				if err == nil && pingBad(p) {
					err = errBadNews
				}
				return err
			})
		},
	}
}

func pingBad(p control.Ping) bool {
	for _, l := range p.Links {
		if l.RTT.Count() == 0 {
			return true
		}
	}
	return len(p.Links) == 0
}

// barWidth is the longest bar of a histogram.
const barWidth = 50

// pingText draws one histogram per link.
func pingText(p control.Ping) string {
	var b strings.Builder
	for i, l := range p.Links {
		if i > 0 {
			b.WriteByte('\n')
		}
		name := l.Name
		if l.Node != "" {
			name += " to " + l.Node
		}
		fmt.Fprintf(&b, "%s: %d sent, %d lost in %s", name, l.Sent, l.Lost, time.Duration(p.ForNS).Round(time.Millisecond))
		if l.RTT.Count() == 0 {
			b.WriteString("; no answer\n")
			continue
		}
		fmt.Fprintf(&b, "; p50 %s  p99 %s", shortNS(l.RTT.Quantile(0.5)), shortNS(l.RTT.Quantile(0.99)))
		if l.RTT.MaxNS > 0 { // of a part of the time only the buckets are known
			fmt.Fprintf(&b, "  max %s", shortNS(float64(l.RTT.MaxNS)))
		}
		b.WriteString("\n")
		histogramText(&b, l.RTT)
	}
	if len(p.Links) == 0 {
		b.WriteString("no links\n")
	}
	return b.String()
}

func histogramText(b *strings.Builder, h control.Histogram) {
	first, last, most := -1, 0, uint64(0)
	for i, n := range h.Buckets {
		if n == 0 {
			continue
		}
		if first < 0 {
			first = i
		}
		last, most = i, max(most, n)
	}
	for i := first; i <= last; i++ {
		n := h.Buckets[i]
		width := int(math.Round(float64(n) / float64(most) * barWidth))
		if n > 0 {
			width = max(width, 1) // a rare one must be seen
		}
		line := fmt.Sprintf("  %7s … %-7s %8d %s", shortNS(math.Exp2(float64(i))), shortNS(math.Exp2(float64(i+1))), n, strings.Repeat("█", width))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// shortNS renders nanoseconds with three digits and a unit.
func shortNS(ns float64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 1e6:
		return threeDigits(ns/1e3) + " µs"
	case ns < 1e9:
		return threeDigits(ns/1e6) + " ms"
	}
	return threeDigits(ns/1e9) + " s"
}

func threeDigits(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
