// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/journal"
)

func replayCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "replay", Usage: "run a journal through the core again", ArgsUsage: "JOURNAL",
		Description: `The daemon keeps what its core was told, and when. This tells it to a core again, without touching
anything, and prints what it decides: a line for each input with its time since boot in seconds, as
in "xdpha events"; below it, indented, what was decided. Of a reading of the kernel's maps only what
has changed is shown: files=ready@6/owner@6 is this node's word and the peer's, each with its
generation.

JOURNAL is a state directory, or one file of it: "journal", or "journal.1", which is older. Neither the
daemon nor the other file is needed.

   xdpha replay /var/lib/xdpha             as the daemon left it, or has it at this moment
   xdpha replay --json journal.1 | jq .    one object per entry

Exit status 1: a line is damaged (what is whole before it, and from the next start on, is played), or
this build decides otherwise than the one that wrote the journal. The first such line is named.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 1, 1); err != nil {
				return err
			}
			print := printPlayed
			if c.Bool("json") {
				print = printPlayedJSON
			}
			return replay(env, c.Args().First(), print)
		},
	}
}

func replay(env Env, path string, print func(io.Writer, journal.Played) error) error {
	first, wrong := "", 0
	err := journal.Replay(path, func(p journal.Played) error {
		if p.Wrong != "" {
			if wrong++; wrong == 1 {
				first = fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Wrong)
			}
		}
		return print(env.Stdout, p)
	})
	switch {
	case err != nil:
		return err
	case wrong > 1:
		return fmt.Errorf("replay: %s; and %d more", first, wrong-1)
	case wrong == 1:
		return fmt.Errorf("replay: %s", first)
	}
	return nil
}

// printPlayed prints for people; remarks begin with #, as in testdata/transcripts.
func printPlayed(w io.Writer, p journal.Played) error {
	var b strings.Builder
	if s := p.Start; s != nil {
		what := "starts"
		if p.Resumed {
			what = "goes on; it started"
		}
		fmt.Fprintf(&b, "# %s %s at @%d.%09d, %s, xdpha %q, boot %q\n", strconv.Quote(s.Config.Nodes[s.Config.Self]), what, s.AtNS/1e9, s.AtNS%1e9,
			s.Wall.Format("2006-01-02 15:04:05.000 -0700"), s.Version, s.Boot)
	}
	for _, l := range p.Head {
		b.WriteString(l + "\n")
	}
	if p.Text != "" {
		b.WriteString(p.Text + "\n")
	}
	for _, l := range p.Lines {
		b.WriteString("\t" + l + "\n")
	}
	for _, remark := range []string{p.Wrong, p.Note} {
		if remark != "" {
			fmt.Fprintf(&b, "# line %d: %s\n", p.Line, remark)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// playedJSON is what `xdpha replay --json` prints for an entry.
type playedJSON struct {
	File    string         `json:"file"`
	Line    int            `json:"line"`
	Start   *journal.Start `json:"start,omitempty"`
	Resumed bool           `json:"resumed,omitempty"`
	AtNS    int64          `json:"at_ns,omitempty"`
	Kind    string         `json:"kind,omitempty"`
	Event   core.Event     `json:"event,omitempty"`
	Text    string         `json:"text,omitempty"`
	Actions []actionJSON   `json:"actions,omitempty"`
	Wrong   string         `json:"wrong,omitempty"`
	Note    string         `json:"note,omitempty"`
}

type actionJSON struct {
	Kind   string      `json:"kind"`
	Action core.Action `json:"action"`
	Text   string      `json:"text"`
}

func printPlayedJSON(w io.Writer, p journal.Played) error {
	o := playedJSON{File: p.File, Line: p.Line, Start: p.Start, Resumed: p.Resumed, Text: p.Text, Wrong: p.Wrong, Note: p.Note}
	if p.Input != nil {
		o.AtNS, o.Event, o.Kind = p.Input.AtNS, p.Input.Event, reflect.TypeOf(p.Input.Event).Name()
	}
	for i, a := range p.Actions {
		o.Actions = append(o.Actions, actionJSON{reflect.TypeOf(a).Name(), a, p.Lines[i]})
	}
	return json.NewEncoder(w).Encode(o)
}
