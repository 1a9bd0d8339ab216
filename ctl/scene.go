// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// scene is what can be seen of a running demo.
type scene struct {
	plan   demoPlan
	title  string
	phase  string
	t0     int64 // the fault, 0 before it
	nowNs  int64
	nodes  map[string]nodeView
	events []control.Event // the last few
	client lab.Live
}

// nodeView is a node as it last described itself.
type nodeView struct {
	answers bool
	status  control.Status
}

// The picture's colours: of the terminal's own palette, so that they suit it.
var (
	styleOwner = lipgloss.NewStyle().Foreground(lipgloss.Green).Bold(true)
	styleReady = lipgloss.NewStyle().Foreground(lipgloss.Cyan)
	styleBad   = lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true)
	styleFaint = lipgloss.NewStyle().Faint(true)
)

const boxWidth = 30

// picture draws the scene.
func picture(s scene) string {
	var b strings.Builder
	head := "xdpha demo"
	if s.title != "" {
		head += ", " + s.title
	}
	fmt.Fprintf(&b, "%s, profile %s: %s\n\n", head, s.plan.profile, s.phase)
	b.WriteString("            ┌──────────┐             trunk             ┌──────────┐\n")
	b.WriteString("  client ───┤ switch 1 ├───────────────────────────────┤ switch 2 │\n")
	b.WriteString("            └─┬──────┬─┘                               └─┬──────┬─┘\n")
	b.WriteString("            serv1  serv2" + strings.Repeat(" ", 31) + "serv1  serv2\n")
	fmt.Fprintf(&b, "             %s   %s%s%s   %s\n", wire(s, lab.Serv1, "lan", "lan"), wire(s, lab.Serv2, "spare", "spare"), strings.Repeat(" ", 31),
		wire(s, lab.Serv1, "spare", "spare"), wire(s, lab.Serv2, "lan", "lan"))
	left, right := nodeBox(s, lab.Serv1), nodeBox(s, lab.Serv2)
	cross := wire(s, lab.Serv1, "crossover", "══ crossover ══")
	gap := strings.Repeat(" ", 15)
	for i := range max(len(left), len(right)) {
		middle := gap
		if i == 2 {
			middle = cross
		}
		fmt.Fprintf(&b, "  %s%s%s\n", pad(at(left, i), boxWidth+2), pad(middle, 15), at(right, i))
	}
	b.WriteString("\n" + clientLine(s) + "\n\n")
	for _, e := range s.events {
		b.WriteString("  " + sceneEvent(s, e) + "\n")
	}
	return b.String()
}

// wire is a link's label, as that node hears the other one on it.
func wire(s scene, node, link, label string) string {
	v := s.nodes[node]
	for _, l := range v.status.Links {
		if l.Name != link {
			continue
		}
		switch {
		case !v.answers:
			return styleFaint.Render(label)
		case l.Up:
			return label
		}
		return styleBad.Render(strings.ReplaceAll(label, "══", "╳╳"))
	}
	return styleFaint.Render(label)
}

func nodeBox(s scene, name string) []string {
	v := s.nodes[name]
	lines := []string{name + "  " + nodeState(v)}
	for _, id := range v.status.Identities {
		lines = append(lines, identityLine(v, id))
	}
	for len(lines) < 1+len(lab.Identities) {
		lines = append(lines, "")
	}
	out := []string{"┌" + strings.Repeat("─", boxWidth) + "┐"}
	for _, l := range lines {
		out = append(out, "│ "+pad(l, boxWidth-1)+"│")
	}
	return append(out, "└"+strings.Repeat("─", boxWidth)+"┘")
}

func nodeState(v nodeView) string {
	switch {
	case !v.answers && v.status.Node == "":
		return styleFaint.Render("starting")
	case !v.answers:
		return styleBad.Render("does not answer")
	case v.status.Peer.State == control.PeerUp:
		return "up"
	}
	return "up, peer " + v.status.Peer.State
}

func identityLine(v nodeView, id control.Identity) string {
	text := fmt.Sprintf("%-6s generation %-3d ", id.Name, id.Generation)
	switch {
	case !v.answers:
		return styleFaint.Render(text + "?")
	case id.Gate == control.GateOpen:
		return text + styleOwner.Render("OWNER")
	case id.Armed:
		return text + styleReady.Render("ready")
	}
	return text + styleFaint.Render("-")
}

// clientLine says what the client sees, and how long it has heard nothing.
func clientLine(s scene) string {
	c := s.client
	if c.Sent == 0 {
		return "  client  has not begun"
	}
	line := fmt.Sprintf("  client  %s (%s): %d sent, %d answered, by %s", s.plan.identity.Addr, s.plan.identity.Name, c.Sent, c.Answered, orNobody(c.LastBy))
	if silent := s.nowNs - c.LastAnswerNs; c.LastAnswerNs != 0 && silent > 2*int64(probePeriod(s.plan))+1e6 {
		line += "  " + styleBad.Render("silence for "+shortNS(float64(silent)))
	}
	return line
}

func sceneEvent(s scene, e control.Event) string {
	if s.t0 == 0 || e.TimeNS < s.t0 {
		return styleFaint.Render(fmt.Sprintf("%13s  %-6s %s", "", e.Node, eventWords(e)))
	}
	return fmt.Sprintf("%+10.3f ms  %-6s %s", float64(e.TimeNS-s.t0)/1e6, e.Node, eventWords(e))
}
