// SPDX-License-Identifier: Apache-2.0

package line

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// maxMessage is more than the longest path and text need.
const maxMessage = 16 << 10

// Write writes a message: two bytes of length, big endian, and JSON.
func Write(w io.Writer, v any) error {
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

// Read reads a message, and not one byte more than it has: what follows may be of another form.
func Read(r io.Reader, v any) error {
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
