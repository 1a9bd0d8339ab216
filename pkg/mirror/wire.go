// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// kind is what a connection is for.
type kind string

const (
	kindFull     kind = "full"     // compares all of a path
	kindChanges  kind = "changes"  // compares the directories that the sender names
	kindDry      kind = "dry"      // as full, and changes nothing
	kindComplete kind = "complete" // every path was compared since AgeNS ago; nothing more follows
)

// hello is the sender's first word. The receiver compares each of its parts with what it knows.
type hello struct {
	Kind       kind   `json:"kind"`
	Set        string `json:"set"`
	Path       string `json:"path,omitempty"`
	Generation uint64 `json:"generation"`
	Base       uint64 `json:"base,omitempty"`     // the generation whose data the sender's goes on from
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

// answer is the receiver's. After an OK the bytes are rsync's, but with kindComplete.
type answer struct {
	OK         bool   `json:"ok"`
	Code       string `json:"code,omitempty"`
	Text       string `json:"text,omitempty"`
	Generation uint64 `json:"generation,omitempty"` // the highest that the receiver has seen
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

// maxMessage is more than the longest path and text need.
const maxMessage = 16 << 10

func writeMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if len(body) > maxMessage {
		return fmt.Errorf("write message: %d bytes, the limit is %d", len(body), maxMessage)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// readMessage reads not one byte more than the message has: what follows is rsync's.
func readMessage(r io.Reader, v any) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	size := binary.BigEndian.Uint16(head[:])
	if size > maxMessage {
		return fmt.Errorf("read message: %d bytes, the limit is %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}
