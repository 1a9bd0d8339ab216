// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
	"strconv"
	"time"

	"github.com/xdpha/xdpha/pkg/core"
)

// Format is the version of the files' format.
const Format = 2

// maxLine bounds an entry. The largest is a state: some 2 KiB for each of up to 64 identities.
const maxLine = 1 << 20

// Start says who wrote the entries that follow, and from what its core began.
type Start struct {
	Format  int         `json:"format"`
	Version string      `json:"version"` // the build
	Boot    string      `json:"boot"`    // the machine's boot id: boottimes of one boot compare
	AtNS    int64       `json:"at_ns"`   // CLOCK_BOOTTIME
	Wall    time.Time   `json:"wall"`
	Config  core.Config `json:"config"`
	Saved   core.Saved  `json:"saved"`
}

// Input is an event that the core was given.
type Input struct {
	AtNS  int64 // CLOCK_BOOTTIME
	Event core.Event
	// Decided is the sum of what the core decided. Died: it did not return.
	Decided uint32
	Died    bool
}

// entry is what a line says: exactly one of the three.
type entry struct {
	Start *Start
	State *core.State // with Start: the core goes on from here
	Input *Input
}

// rawEntry is an entry as JSON.
type rawEntry struct {
	Start   *Start          `json:"start,omitempty"`
	State   *core.State     `json:"state,omitempty"`
	AtNS    int64           `json:"at_ns,omitempty"`
	Kind    string          `json:"kind,omitempty"`
	Event   json.RawMessage `json:"event,omitempty"`
	Decided string          `json:"decided,omitempty"`
}

// kinds are the core's events by name.
var kinds = kindsOf(
	core.Started{}, core.Observed{}, core.Tick{}, core.Done{}, core.Failed{}, core.Swapped{}, core.LinkChanged{}, core.ServiceState{}, core.ServicesEnded{},
	core.CmdMove{}, core.CmdGiveback{}, core.CmdStandby{}, core.CmdFreeze{}, core.CmdLeave{},
)

func kindsOf(events ...core.Event) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for _, ev := range events {
		m[kindOf(ev)] = reflect.TypeOf(ev)
	}
	return m
}

func kindOf(ev core.Event) string { return reflect.TypeOf(ev).Name() }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed is the line of a body.
func sealed(body []byte) []byte {
	line := make([]byte, 0, len(body)+10)
	line = appendHex(line, crc32.Checksum(body, castagnoli))
	line = append(line, ' ')
	line = append(line, body...)
	return append(line, '\n')
}

func appendHex(b []byte, sum uint32) []byte {
	return hex.AppendEncode(b, []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// startLine is the line of a start, or of a state.
func startLine(s Start, state *core.State) ([]byte, error) {
	body, err := json.Marshal(rawEntry{Start: &s, State: state})
	if err != nil {
		return nil, err
	}
	return sealed(body), nil
}

// inputLine is the line of an input. It is put together by hand, because the loop waits for it.
func inputLine(in Input) ([]byte, error) {
	event, err := json.Marshal(in.Event)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, len(event)+80)
	body = append(body, `{"at_ns":`...)
	body = strconv.AppendInt(body, in.AtNS, 10)
	body = append(body, `,"kind":"`...)
	body = append(body, kindOf(in.Event)...)
	body = append(body, `","event":`...)
	body = append(body, event...)
	if !in.Died {
		body = append(body, `,"decided":"`...)
		body = appendHex(body, in.Decided)
		body = append(body, '"')
	}
	return sealed(append(body, '}')), nil
}

var errChanged = errors.New("it is not what was written: its sum is wrong")

// parse reads a line, without its newline.
func parse(line []byte) (e entry, err error) {
	sum, body, found := bytes.Cut(line, []byte(" "))
	if !found || len(sum) != 8 || !bytes.Equal(sum, appendHex(nil, crc32.Checksum(body, castagnoli))) {
		return e, errChanged
	}
	var raw rawEntry
	if err := strictly(body, &raw); err != nil {
		return e, err
	}
	switch {
	case raw.Start != nil && raw.Kind == "":
		if raw.Start.Format != Format {
			return e, fmt.Errorf("format %d, and this build reads %d: play it with xdpha %q", raw.Start.Format, Format, raw.Start.Version)
		}
		if err := plausible(raw.Start.Config); err != nil {
			return e, err
		}
		return entry{Start: raw.Start, State: raw.State}, nil
	case raw.Start == nil && raw.State == nil && raw.Kind != "":
		in, err := parseInput(raw)
		return entry{Input: in}, err
	}
	return e, errors.New("it is neither a start nor an input")
}

// plausible refuses a configuration that no core has.
func plausible(c core.Config) error {
	nodes := len(c.Nodes)
	if nodes < 2 || c.Self < 0 || c.Self >= nodes {
		return fmt.Errorf("its configuration is of node %d of %d", c.Self, nodes)
	}
	for _, id := range c.Identities {
		for i, p := range append([]int{id.Home}, id.Prefer...) {
			if p < 0 || p >= nodes {
				return fmt.Errorf("its configuration has identity %q %s node %d of %d", id.Name, [...]string{"at home on", "for"}[min(i, 1)], p, nodes)
			}
		}
	}
	return nil
}

func parseInput(raw rawEntry) (*Input, error) {
	in := &Input{AtNS: raw.AtNS, Died: raw.Decided == ""}
	if !in.Died {
		sum, err := strconv.ParseUint(raw.Decided, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("decided: %w", err)
		}
		in.Decided = uint32(sum)
	}
	if raw.AtNS < 0 {
		return nil, fmt.Errorf("its time %d is before the boot", raw.AtNS)
	}
	kind, known := kinds[raw.Kind]
	if !known {
		return nil, fmt.Errorf("this build knows no input %q", raw.Kind)
	}
	ev := reflect.New(kind)
	if err := strictly(raw.Event, ev.Interface()); err != nil {
		return nil, fmt.Errorf("%s: %w", raw.Kind, err)
	}
	in.Event = ev.Elem().Interface().(core.Event)
	return in, nil
}

// strictly decodes one JSON value that has no key of another build.
func strictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its end")
	}
	return nil
}

// decided is the sum of what a core decided: of the text that a replay prints, and of the numbers
// by which results come back.
func decided(cfg core.Config, actions []core.Action) (sum uint32) {
	for _, a := range actions {
		sum = crc32.Update(sum, castagnoli, []byte(cfg.Describe(a)))
		sum = crc32.Update(sum, castagnoli, strconv.AppendUint([]byte{'\n'}, core.OpOf(a), 10))
	}
	return sum
}
