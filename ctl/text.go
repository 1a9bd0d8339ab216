// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"charm.land/lipgloss/v2"
)

// table writes aligned columns, indented by two.
func table(b *strings.Builder, rows func(w io.Writer)) {
	var t strings.Builder
	w := tabwriter.NewWriter(&t, 0, 0, 2, ' ', 0)
	rows(w)
	_ = w.Flush() // a strings.Builder takes everything
	for line := range strings.Lines(t.String()) {
		b.WriteString("  " + strings.TrimRight(line, " \n") + "\n")
	}
}

// width is that of the widest line, in terminal cells.
func width(lines []string) int {
	w := 0
	for _, l := range lines {
		w = max(w, lipgloss.Width(l))
	}
	return w
}

// pad fills a line up to w cells.
func pad(s string, w int) string { return s + strings.Repeat(" ", max(0, w-lipgloss.Width(s))) }

// fill draws a line on up to w cells; an empty one stays empty.
func fill(s string, w int) string {
	if s == "" {
		return pad(s, w)
	}
	return s + strings.Repeat("─", max(0, w-lipgloss.Width(s)))
}

// at is lines[i], or nothing.
func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// shortList joins the first few of a list.
func shortList(s []string, most int) string {
	if len(s) <= most {
		return strings.Join(s, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(s[:most], " "), len(s)-most)
}
