// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Error is one mistake in a configuration and where it is.
type Error struct {
	Path         string
	Line, Column int    // from 1
	Message      string // what is wrong; what to write instead
	Source       string // the line as written; empty where it must not be shown
}

// Error gives path:line:column: message, then the source line and a caret.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", e.Path, e.Line, e.Column, e.Message)
	if e.Source == "" {
		return s
	}
	shown := strings.Map(printable, e.Source)
	return fmt.Sprintf("%s\n  %s\n  %s^", s, shown, strings.Repeat(" ", max(e.Column-1, 0)))
}

// printable keeps every character one cell wide, so that the caret is right,
// and keeps terminal sequences in a damaged file out of the terminal.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case !unicode.IsPrint(r):
		return '?'
	}
	return r
}

// Errors are all mistakes that were found, in the order of the file.
type Errors []*Error

func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap lets errors.As find the first Error.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// pos is a place in the file, both from 1.
type pos struct{ line, col int }

// report collects mistakes against one source.
type report struct {
	path    string
	lines   []string
	unshown map[int]bool // lines that hold a secret
	errs    Errors
}

func newReport(path string, src []byte) *report {
	return &report{path: path, lines: strings.Split(string(src), "\n"), unshown: map[int]bool{}}
}

// add notes a mistake at a place.
func (r *report) add(at pos, format string, args ...any) {
	at.line, at.col = max(at.line, 1), max(at.col, 1)
	message := strings.Map(printable, fmt.Sprintf(format, args...))
	e := &Error{Path: r.path, Line: at.line, Column: at.col, Message: message}
	if at.line <= len(r.lines) {
		e.Source = strings.TrimRight(r.lines[at.line-1], "\r \t")
	}
	r.errs = append(r.errs, e)
}

// err returns what was collected: nil, one *Error, or Errors.
func (r *report) err() error {
	for _, e := range r.errs {
		if r.unshown[e.Line] {
			e.Source = ""
		}
	}
	switch len(r.errs) {
	case 0:
		return nil
	case 1:
		return r.errs[0]
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.errs
}
