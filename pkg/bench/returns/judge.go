// SPDX-License-Identifier: Apache-2.0

package returns

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/lab"
)

// data is what a node has: the last word, by the start that wrote it and its number, and the number of the
// bulk: twice that of the start that wrote it, one more if it was its stop.
type data struct{ Start, Word, Bulk int }

func (d data) String() string {
	return fmt.Sprintf("word %d of start %d (bulk %d)", d.Word, d.Start, d.Bulk)
}

// start is one of the service's, with the data that it found.
type start struct {
	N          int
	Node       string
	Generation uint64
	Found      data
	Copied     uint64 // of which generation that data is, as the node's mirror says
	Left       *data  // by the stop that followed on the same node
}

// parseNotes reads what the service wrote down.
func parseNotes(text string) (starts []*start, err error) {
	for line := range strings.Lines(text) {
		var s start
		var sets, word string
		var left data
		if _, err := fmt.Sscanf(line, "start %d %s %d %d %d %d %s", &s.N, &s.Node, &s.Generation, &s.Found.Start, &s.Found.Word, &s.Found.Bulk, &sets); err == nil {
			if s.Copied, err = copied(sets, s.Generation); err != nil {
				return nil, fmt.Errorf("read note %q: %w", line, err)
			}
			starts = append(starts, &s)
			continue
		}
		if _, err := fmt.Sscanf(line, "stop %s %d %d %d", &word, &left.Start, &left.Word, &left.Bulk); err != nil {
			return nil, fmt.Errorf("read note %q: %w", line, err)
		}
		// A stop on a node that has lost the service to the other one says nothing of what runs.
		if last := len(starts) - 1; last >= 0 && starts[last].Node == word {
			starts[last].Left = &left
		}
	}
	return starts, nil
}

// copied is the generation that an owner's data is of, by what its mirror keeps on disk.
func copied(sets string, generation uint64) (uint64, error) {
	var file struct {
		Sets map[string]struct{ Past []struct{ Generation uint64 } }
	}
	if err := json.Unmarshal([]byte(sets), &file); err != nil {
		return 0, err
	}
	past := file.Sets[lab.Identities[0].Name].Past
	for len(past) > 0 && past[len(past)-1].Generation == generation {
		past = past[:len(past)-1]
	}
	if len(past) == 0 {
		return 0, nil
	}
	return past[len(past)-1].Generation, nil
}

// wrong says why a start after others must not have been; "": it may. handed: the identity was handed over.
func wrong(s *start, before []*start, handed bool) string {
	why := func(format string, args ...any) string {
		return fmt.Sprintf("start %d, on %s at generation %d, found %v: ", s.N, s.Node, s.Generation, s.Found) + fmt.Sprintf(format, args...)
	}
	last, first := before[len(before)-1], before[len(before)-1] // of one owner's time
	for _, b := range slices.Backward(before) {
		if b.Node != last.Node || b.Generation != last.Generation {
			break
		}
		first = b
	}
	planned := handed || s.Node == last.Node && s.Generation == last.Generation && last.Left != nil
	switch {
	case planned && last.Left == nil:
		return why("handed over by %s, where the service had not stopped", last.Node)
	case planned && s.Found != *last.Left:
		return why("the stop on %s had left %v", last.Node, *last.Left)
	case planned:
		return ""
	case s.Found.Start < first.N && s.Found != first.Found:
		return why("start %d on %s had gone on from %v", first.N, first.Node, first.Found)
	case s.Node != last.Node && s.Copied < last.Generation:
		return why("its copy is of generation %d, and %s has owned since at %d", s.Copied, last.Node, last.Generation)
	}
	return ""
}
