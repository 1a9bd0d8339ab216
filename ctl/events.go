// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/control"
)

func eventsCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "what happened on this node",
		Description: `One line per event. The first column is the kernel's time since boot in seconds: events that the
kernel decided bear the nanosecond at which it did, not the one at which somebody read about it.

   xdpha events                          what the daemon remembers
   xdpha events --follow                 and what is to come
   xdpha events --follow --json          one JSON object per line
   xdpha events --since 120              those after event number 120`,
		Flags: []cli.Flag{
			&cli.BoolFlag{DisableDefaultText: true, Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is to come"},
			&cli.Uint64Flag{Name: "since", Usage: "only events after `NUMBER`"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			print := func(e control.Event) error { return printEvent(env.Stdout, e) }
			if c.Bool("json") {
				enc := json.NewEncoder(env.Stdout)
				print = func(e control.Event) error { return enc.Encode(e) }
			}
			follow := c.Bool("follow")
			return withClient(c, func(ctx context.Context, cl *control.Client) error {
				if !follow {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, commandTimeout)
					defer cancel()
				}
				err := cl.Events(ctx, c.Uint64("since"), follow, print)
				if follow && errors.Is(err, context.Canceled) {
					return nil // Ctrl-C is how following ends
				}
				return err
			})
		},
	}
}

func printEvent(w io.Writer, e control.Event) error {
	_, err := io.WriteString(w, eventLine(e)+"\n")
	return err
}

// eventLine renders an event for people.
func eventLine(e control.Event) string {
	if e.Kind == control.KindMissed {
		return fmt.Sprintf("%28s  %v events came too fast to be kept for this reader", "…", e.Fields["missed"])
	}
	at := fmt.Sprintf("%d.%09d", e.TimeNS/1e9, e.TimeNS%1e9)
	line := fmt.Sprintf("%18s  %s  %-8s %-16s %-8s %s", at, e.Wall.Format("15:04:05.000"), e.Node, e.Kind, orDash(e.Identity), e.Text)
	return strings.TrimRight(line, " ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
