// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"fmt"
)

// protocol is what both ends of a connection speak (package line); another version has another name.
const protocol = "xdpha-mirror/1"

// kind is what a connection is for.
type kind string

const (
	kindFull     kind = "full"     // compares all of a path
	kindChanges  kind = "changes"  // compares the directories that the sender names
	kindDry      kind = "dry"      // as full, and changes nothing
	kindComplete kind = "complete" // every path was compared since AgeNS ago; nothing more follows
	kindWhose    kind = "whose"    // asks what the data has gone through; nothing more follows
)

// hello is the sender's first word. The receiver compares each of its parts with what it knows.
type hello struct {
	Kind       kind   `json:"kind"`
	Set        string `json:"set"`
	Path       string `json:"path,omitempty"`
	Generation uint64 `json:"generation"`
	Past       past   `json:"past,omitempty"`     // of the sender's data
	Empty      bool   `json:"empty,omitempty"`    // the sender's directory is
	Accepted   bool   `json:"accepted,omitempty"` // the administrator told the sender to copy it as it is
	AgeNS      int64  `json:"age_ns,omitempty"`
}

// The codes of a refusal for which the sender has an answer.
const (
	refusedStale = "stale"   // the receiver has seen a higher generation
	refusedEarly = "not yet" // the receiver has not been told its role: a change of owner is on its way
	refusedOther = "other"   // it is tried again
)

// answer is the receiver's. After an OK the bytes are rsync's, but with kindComplete and kindWhose.
type answer struct {
	OK         bool   `json:"ok"`
	Code       string `json:"code,omitempty"`
	Text       string `json:"text,omitempty"`
	Generation uint64 `json:"generation,omitempty"` // the highest that the receiver has seen
	Past       past   `json:"past,omitempty"`       // of its data, with kindWhose
}

// refusal is an answer that is not OK, as an error.
type refusal struct{ answer }

func (r refusal) Error() string { return r.Text }

func stale(text string, seen uint64) refusal {
	return refusal{answer{Code: refusedStale, Text: text, Generation: seen}}
}

func refused(format string, args ...any) refusal {
	return refusal{answer{Code: refusedOther, Text: fmt.Sprintf(format, args...)}}
}

func isRefused(err error, code string) bool {
	var r refusal
	return errors.As(err, &r) && r.Code == code
}
