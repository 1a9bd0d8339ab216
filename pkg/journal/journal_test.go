// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/xdpha/xdpha/pkg/core"
)

var (
	config = core.Config{
		Nodes: []string{"serv1", "serv2"}, Self: 1, Identities: []core.IdentityConfig{{Name: "files", Failback: "manual", Exclusive: []string{"samba"}}},
	}
	saved = core.Saved{Generations: map[string]uint64{"files": 7}}
	start = Start{Version: "1.0", Boot: "a boot", AtNS: 5, Config: config, Saved: saved}
)

// opened is a journal whose core has begun.
func opened(t *testing.T, path string) *Writer {
	t.Helper()
	j := unbegun(t, path)
	j.Begin(start, core.New(config, saved))
	return j
}

// unbegun is a journal without a core.
func unbegun(t *testing.T, path string) *Writer {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	j.disk.endTime = patience
	return j
}

func closed(t *testing.T, j *Writer) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func observed(at int64, peer core.PeerState, mine, theirs core.Word) core.Observed {
	ok := core.LanView{Lan: core.NIC{Present: true, Carrier: true}}
	return core.Observed{
		At: at, Local: []core.Word{mine}, MyLan: ok,
		Peers: []core.PeerView{{State: peer, Boot: 7, SupervisorOK: true, Lan: ok, Words: []core.Word{theirs}}, {}},
	}
}

// takeover is what a short incident tells the core.
var takeover = []core.Event{
	core.Started{},
	observed(11, core.PeerUp, core.MakeWord(core.Ready, 6), core.MakeWord(core.Owner, 6)),
	core.Tick{}, // which changes nothing
	core.Failed{Op: 2, Err: "stop: \xff\x1b[2J no <such>\nthing"},
	observed(14, core.PeerDead, core.MakeWord(core.Owner, 7), core.MakeWord(core.Owner, 6)),
	core.CmdStandby{Op: 1, On: true},
}

// live gives a core the events and returns the transcript of what it decides.
func live(j *Writer, events []core.Event) string { return lived(j, start, events) }

func lived(j *Writer, from Start, events []core.Event) string {
	var b strings.Builder
	text := core.NewTranscript(from.Config)
	b.WriteString(strings.Join(text.Head(from.Saved), "\n") + "\n")
	for i, ev := range events {
		at := int64(10 + i)
		line := text.Event(at, ev) + "\n"
		actions := j.Step(at, ev)
		if _, isTick := ev.(core.Tick); isTick && len(actions) == 0 {
			continue
		}
		b.WriteString(line)
		for _, a := range actions {
			b.WriteString("\t" + text.Action(a) + "\n")
		}
	}
	return b.String()
}

// played is a replay: its transcript, and file:line of what is wrong and what is noted.
type played struct {
	transcript  string
	wrong, note []string
}

func replayed(t *testing.T, path string) (r played) {
	t.Helper()
	err := Replay(path, func(p Played) error {
		for _, l := range p.Head {
			r.transcript += l + "\n"
		}
		if p.Input != nil && p.Text != "" {
			r.transcript += p.Text + "\n"
		}
		for _, l := range p.Lines {
			r.transcript += "\t" + l + "\n"
		}
		at := fmt.Sprintf("%s:%d: ", filepath.Base(p.File), p.Line)
		if p.Wrong != "" {
			r.wrong = append(r.wrong, at+p.Wrong)
		}
		if p.Note != "" {
			r.note = append(r.note, at+p.Note)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r played) is(t *testing.T, transcript string) {
	t.Helper()
	if r.transcript != transcript {
		t.Errorf("played:\n%s\nnot:\n%s", r.transcript, transcript)
	}
	if len(r.wrong) > 0 {
		t.Errorf("wrong: %q", r.wrong)
	}
}

func hasOne(t *testing.T, list []string, want string) {
	t.Helper()
	if len(list) != 1 || !strings.Contains(list[0], want) {
		t.Errorf("%q, and not %q once", list, want)
	}
}

func TestAReplayIsTheLiveTranscript(t *testing.T) {
	dir := t.TempDir()
	j := opened(t, filepath.Join(dir, Name))
	want := live(j, takeover)
	closed(t, j)
	if !strings.Contains(want, "notify takeover (files)") || strings.Contains(want, "\x1b") || !utf8.ValidString(want) {
		t.Fatalf("live:\n%q", want)
	}
	r := replayed(t, dir)
	r.is(t, want)
	if len(r.note) > 0 {
		t.Errorf("noted: %q", r.note)
	}
	b, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("Tick")) {
		t.Error("a tick that changed nothing is kept")
	}
}

// Among many every peer is played by its name, and a hand-over by whom it is meant for.
func TestAReplayOfManyIsTheLiveTranscript(t *testing.T) {
	from := start
	from.Config = core.Config{
		Nodes: []string{"serv1", "serv2", "serv3"}, Self: 2, Etcd: true,
		Identities: []core.IdentityConfig{{Name: "files", Failback: "manual", Prefer: []int{0, 2}}},
	}
	from.Saved = core.Saved{Generations: map[string]uint64{"files": 8}}
	see := func(at int64, mine, owner core.Word, key core.Key, third core.PeerState) core.Observed {
		return core.Observed{
			At: at, Local: []core.Word{mine}, Granted: []bool{true}, Keys: []core.Key{key},
			Peers: []core.PeerView{{State: core.PeerUp, SupervisorOK: true, Words: []core.Word{owner}}, {State: third, Boot: 5, Words: []core.Word{0}}, {}},
		}
	}
	yields := core.MakeWord(core.Owner|core.Yield|core.ToNode(2), 6)
	dir := t.TempDir()
	j := unbegun(t, filepath.Join(dir, Name))
	j.Begin(from, core.New(from.Config, from.Saved))
	want := lived(j, from, []core.Event{
		core.Started{},
		see(11, core.MakeWord(core.Ready, 6), core.MakeWord(core.Owner, 6), core.Key{}, core.PeerUp),
		see(12, core.MakeWord(core.Ready, 6), yields, core.Key{Stored: 6, Elsewhere: true}, core.PeerDead),
		core.LinkChanged{Peer: 1, Link: "lan"},
		core.CmdMove{Op: 1, Identity: 0, To: 1},
	})
	closed(t, j)
	for _, line := range []string{"node serv1 serv2 serv3 self=serv3", "prefer=serv1,serv3", "serv2=dead", "files:serv1=owner|yield|to:serv3@6", "key:files=0/6/elsewhere", "link serv2 lan down", "serv2 may not own it"} {
		if !strings.Contains(want, line) {
			t.Errorf("live, without %q:\n%s", line, want)
		}
	}
	replayed(t, dir).is(t, want)
}

func TestATornEndIsPlayedUpToIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	j := opened(t, path)
	live(j, takeover)
	closed(t, j)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := range len(whole) {
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		entries := bytes.Count(whole[:size], []byte{'\n'})
		r := replayed(t, path)
		if len(r.wrong) > 0 || size > 0 && whole[size-1] != '\n' && len(r.note) != 1 || strings.Count(r.transcript, "\n@") != max(0, entries-1) {
			t.Fatalf("cut at %d of %d: %+v", size, len(whole), r)
		}
		// The next daemon goes on behind the last whole entry.
		j := opened(t, path)
		want := live(j, takeover)
		closed(t, j)
		if r := replayed(t, path); len(r.wrong)+len(r.note) > 0 || !strings.HasSuffix(r.transcript, want) || strings.Count(r.transcript, "node serv1") != min(1, entries)+1 {
			t.Fatalf("cut at %d of %d, and gone on: %+v", size, len(whole), r)
		}
	}
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	j := opened(t, path)
	live(j, takeover)
	j.Begin(start, core.New(config, saved))
	second := live(j, takeover)
	closed(t, j)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(whole) - 1 { // without its last byte, the end is torn
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		line := 1 + bytes.Count(whole[:i], []byte{'\n'})
		r := replayed(t, path)
		if len(r.wrong) == 0 || !strings.HasPrefix(r.wrong[0], fmt.Sprintf("journal:%d: ", line)) {
			t.Fatalf("byte %d, of line %d: %q", i, line, r.wrong)
		}
		if start2 := 1 + len(takeover); line < start2-1 && !strings.HasSuffix(r.transcript, second) {
			t.Fatalf("byte %d, of line %d: the next start is not played:\n%s", i, line, r.transcript)
		}
	}
}

func TestFilesAreBoundedAndEachIsPlayedAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	j := opened(t, path)
	j.full = 8 << 10
	for range 200 {
		live(j, takeover)
	}
	closed(t, j)
	for _, file := range []string{path, path + Full} {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > j.full+maxLine || file != path && st.Size() < j.full {
			t.Errorf("%s has %d bytes", file, st.Size())
		}
		r := replayed(t, file)
		if len(r.wrong)+len(r.note) > 0 || strings.Count(r.transcript, "@") < 2 {
			t.Errorf("%s: %+v", file, r)
		}
	}
	if r := replayed(t, dir); len(r.wrong)+len(r.note) > 0 || strings.Count(r.transcript, "node serv1") != 2 {
		t.Errorf("both: %+v", r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v are there (%v)", left, err)
	}
}

func TestAnotherDecisionIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	j := opened(t, path)
	live(j, takeover[:2])
	odd, err := inputLine(Input{AtNS: 13, Event: core.Tick{}, Decided: 0xbad})
	j.write(odd, err)
	live(j, takeover[3:])
	died, err := inputLine(Input{AtNS: 30, Event: core.Tick{}, Died: true})
	j.write(died, err)
	closed(t, j)
	r := replayed(t, path)
	if len(r.wrong) != 2 || r.wrong[0] != "journal:4: the build that wrote this decided otherwise" || r.wrong[1] != "journal:8: the build that wrote this died of it, this one does not" {
		t.Errorf("wrong: %q", r.wrong)
	}
	if !strings.Contains(r.transcript, "notify takeover") {
		t.Errorf("it does not go on:\n%s", r.transcript)
	}
}

func TestAnotherStateIsNamed(t *testing.T) {
	dir := t.TempDir()
	j := opened(t, filepath.Join(dir, Name))
	live(j, takeover[:2])
	j.full = 0
	j.machine.Step(30, core.CmdStandby{Op: 9, On: true}) // past the journal
	live(j, takeover[3:4])
	closed(t, j)
	hasOne(t, replayed(t, dir).wrong, "journal:1: the core that wrote this had come to another state")
}

// strangeEvent is none that a core knows.
type strangeEvent struct{ core.Event }

func TestAnInputThatTheCoreDiesOfIsKept(t *testing.T) {
	kinds["strangeEvent"] = reflect.TypeOf(strangeEvent{})
	t.Cleanup(func() { delete(kinds, "strangeEvent") })
	path := filepath.Join(t.TempDir(), Name)
	j := opened(t, path)
	want := live(j, takeover[:2])
	func() {
		defer func() {
			if recover() == nil {
				t.Error("it did not die")
			}
		}()
		j.Step(20, strangeEvent{})
	}()
	r := replayed(t, path) // without a Close
	hasOne(t, r.wrong, "journal:4: the core cannot take it: core: unknown event journal.strangeEvent")
	if !strings.HasPrefix(r.transcript, want) {
		t.Errorf("before it:\n%s", r.transcript)
	}
	closed(t, j)
}

func TestAJournalThatCannotBeWrittenIsToldOnceAndStepsOn(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Writer){
		"written": func(t *testing.T, j *Writer) {
			if err := j.disk.f.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"rotated": func(t *testing.T, j *Writer) {
			j.full = 0
			if err := os.Mkdir(j.disk.path+Full, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"made a line": func(t *testing.T, j *Writer) { j.Step(15, core.Failed{Op: 1, Err: strings.Repeat("x", maxLine)}) },
	} {
		t.Run(name, func(t *testing.T) {
			j := opened(t, filepath.Join(t.TempDir(), Name))
			spoil(t, j)
			if len(j.Step(20, core.Started{})) == 0 {
				t.Error("the core is not stepped")
			}
			select {
			case <-j.Failed():
			case <-time.After(patience):
				t.Error("nothing is told")
			}
			if len(j.Step(21, core.CmdGiveback{Op: 1})) == 0 {
				t.Error("the core is not stepped any more")
			}
			if err := j.Close(); err != nil {
				t.Errorf("it is told again: %v", err)
			}
		})
	}
}

func TestWhatIsNoJournalIsRefused(t *testing.T) {
	dir := t.TempDir()
	seal := func(s string) string { return string(sealed([]byte(s))) }
	for name, c := range map[string]struct{ content, want string }{
		"text":               {"hello\nworld\n", "journal:1: it is not what was written"},
		"a long line":        {strings.Repeat("x", 3*maxLine) + "\n", "journal:1: it is not what was written"},
		"without a start":    {seal(`{"at_ns":1,"kind":"Tick","event":{}}`), "journal:1: no start is before it"},
		"nothing":            {seal(`{}`), "neither a start nor an input"},
		"a later format":     {seal(`{"start":{"format":3,"version":"9.0"}}`), `format 3, and this build reads 2: play it with xdpha "9.0"`},
		"an unknown key":     {seal(`{"start":{"format":2,"colour":1}}`), `unknown field "colour"`},
		"two values":         {seal(`{} {}`), "something follows its end"},
		"a third node":       {seal(`{"start":{"format":2,"config":{"Nodes":["a","b"],"Self":2}}}`), "of node 2 of 2"},
		"a home on neither":  {seal(`{"start":{"format":2,"config":{"Nodes":["a","b"],"Identities":[{"Name":"a","Home":-1}]}}}`), `"a" at home on node -1`},
		"for a fourth node":  {seal(`{"start":{"format":2,"config":{"Nodes":["a","b","c"],"Identities":[{"Name":"a","Prefer":[0,3]}]}}}`), `"a" for node 3 of 3`},
		"an unknown input":   {seal(`{"kind":"Moon"}`), `knows no input "Moon"`},
		"an input cut short": {seal(`{"kind":"Tick"}`), "Tick: EOF"},
		"before the boot":    {seal(`{"at_ns":-1,"kind":"Tick","event":{}}`), "before the boot"},
		"a sum of letters":   {seal(`{"at_ns":1,"kind":"Tick","event":{},"decided":"xyz"}`), "decided: "},
		"a state of nothing": {seal(`{"start":{"format":2,"config":{"Nodes":["a","b"]}},"state":{"Version":5,"Peers":[{},{}],"Identities":[{}]}}`), "the state is of 1 identities"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, Name)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			hasOne(t, replayed(t, path).wrong, c.want)
		})
	}
	for name, path := range map[string]string{"no file": filepath.Join(dir, "none"), "a directory without one": t.TempDir(), "a device": "/dev/zero"} {
		if err := Replay(path, func(Played) error { return nil }); err == nil || !strings.HasPrefix(err.Error(), "read journal: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzJournal: whatever a file says, a replay ends, and names what is wrong with it.
func FuzzJournal(f *testing.F) {
	seeds, err := filepath.Glob("../../testdata/journals/*/journal*")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("find journals: %v, %d found", err, len(seeds))
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		b = beginning(b)
		f.Add(b, true)
		f.Add(unsealed(b), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, asItIs bool) {
		if !asItIs { // with sums that are right, which no fuzzer finds
			b = resealed(b)
		}
		p, last := player{}, 0
		p.show = func(at Played) error {
			if at.Line <= last || at.Start == nil && at.Input == nil && at.Wrong == "" && at.Note == "" {
				t.Fatalf("after line %d: %+v", last, at)
			}
			last = at.Line
			for _, l := range append(append([]string{at.Text}, at.Head...), at.Lines...) {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Fatalf("line %d: %q", at.Line, l)
				}
			}
			return nil
		}
		if err := p.play("fuzzed", bytes.NewReader(b), true); err != nil {
			t.Fatal(err)
		}
	})
}

// beginning is as much of a journal as a fuzzer can change thousands of times in a second.
func beginning(b []byte) (out []byte) {
	for line := range bytes.Lines(b) {
		if out = append(out, line...); len(out) > 8<<10 {
			break
		}
	}
	return out
}

// unsealed are the bodies of a journal's lines.
func unsealed(b []byte) (out []byte) {
	for line := range bytes.Lines(b) {
		if _, body, found := bytes.Cut(line, []byte(" ")); found {
			out = append(out, body...)
		}
	}
	return out
}

func resealed(b []byte) (out []byte) {
	for line := range bytes.Lines(b) {
		out = append(out, sealed(bytes.TrimSuffix(line, []byte("\n")))...)
	}
	return out
}

func BenchmarkStep(b *testing.B) {
	for name, ev := range map[string]core.Event{
		"a tick that changes nothing": core.Tick{},
		"a reading":                   observed(1, core.PeerUp, core.MakeWord(core.Ready, 6), core.MakeWord(core.Owner, 6)),
	} {
		b.Run(name, func(b *testing.B) {
			j, err := Open(filepath.Join(b.TempDir(), Name))
			if err != nil {
				b.Fatal(err)
			}
			j.Begin(start, core.New(config, saved))
			j.Step(1, core.Started{})
			b.ReportAllocs()
			for b.Loop() {
				j.Step(1, ev)
			}
			if err := j.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
