// SPDX-License-Identifier: Apache-2.0

package returns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
)

// note is a start's, as the service writes it: generation whole is what its mirror says of the data, which goes on from base.
func note(n int, node string, generation uint64, found data, whole, base uint64) string {
	return fmt.Sprintf("start %d %s %d %d %d %d {\"sha256\":\"x\",\"sets\":{\"files\":{\"generation\":%d,\"past\":[{\"generation\":%d},{\"generation\":%d}]}}}\n",
		n, node, generation, found.Start, found.Word, found.Bulk, generation, base, whole)
}

func left(node string, d data) string {
	return fmt.Sprintf("stop %s %d %d %d\n", node, d.Start, d.Word, d.Bulk)
}

// The first start is serv1's, at generation 4, from nothing; serv2's, at 5, is judged after it.
func TestOnlyAStartFromDataThatIsBackIsRight(t *testing.T) {
	begin := note(1, lab.Serv1, 4, data{}, 4, 2)
	stopped := data{1, 70, 3}
	for name, c := range map[string]struct {
		notes  string
		handed bool
		why    string
	}{
		"handed over with all":          {left(lab.Serv1, stopped) + note(2, lab.Serv2, 5, stopped, 5, 4), true, ""},
		"handed over without the last":  {left(lab.Serv1, stopped) + note(2, lab.Serv2, 5, data{1, 69, 3}, 5, 4), true, "the stop on serv1 had left word 70"},
		"handed over without the bulk":  {left(lab.Serv1, stopped) + note(2, lab.Serv2, 5, data{1, 70, 2}, 5, 4), true, "the stop on serv1 had left word 70"},
		"handed over while it runs":     {note(2, lab.Serv2, 5, stopped, 5, 4), true, "had not stopped"},
		"a stop of who has lost it":     {note(2, lab.Serv2, 5, data{1, 9, 2}, 5, 4) + left(lab.Serv1, stopped), false, ""},
		"taken with some words":         {note(2, lab.Serv2, 5, data{1, 9, 0}, 5, 4), false, ""},
		"taken with what it began from": {note(2, lab.Serv2, 5, data{}, 5, 4), false, ""},
		"taken with an older copy":      {note(2, lab.Serv2, 5, data{}, 5, 2), false, "its copy is of generation 2, and serv1 has owned since at 4"},
		"taken, and it says nothing":    {note(2, lab.Serv2, 5, data{1, 9, 2}, 3, 0), false, "its copy is of generation 3"},
		"in place, from its own":        {note(2, lab.Serv1, 4, data{1, 80, 2}, 4, 2), false, ""},
		"in place, from what it left":   {left(lab.Serv1, stopped) + note(2, lab.Serv1, 4, stopped, 4, 2), false, ""},
		"in place, from less":           {left(lab.Serv1, stopped) + note(2, lab.Serv1, 4, data{1, 69, 3}, 4, 2), false, "the stop on serv1 had left"},
		// A hand-over fails: serv1 starts again from what its stop has left, and is cut off before that is copied.
		"taken after a start in place": {left(lab.Serv1, stopped) + note(2, lab.Serv1, 4, stopped, 4, 2) + note(3, lab.Serv2, 5, data{1, 70, 2}, 5, 4), false, ""},
		// serv1 has stopped, serv2 has gone on, and serv1 comes back with what it had.
		"before its data is back": {left(lab.Serv1, stopped) + note(2, lab.Serv2, 5, stopped, 5, 4) + note(3, lab.Serv1, 6, stopped, 6, 4), false, "its copy is of generation 4, and serv2 has owned since at 5"},
		"with words of nobody's":  {note(2, lab.Serv2, 5, data{1, 50, 2}, 5, 4) + note(3, lab.Serv1, 6, data{1, 70, 2}, 6, 5), false, "start 2 on serv2 had gone on from word 50 of start 1"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := parseNotes(begin + c.notes)
			if err != nil || len(all) < 2 {
				t.Fatalf("%d starts, %v", len(all), err)
			}
			got := wrong(all[len(all)-1], all[:len(all)-1], c.handed)
			if (got == "") != (c.why == "") || !strings.Contains(got, c.why) {
				t.Errorf("judged %q, want %q", got, c.why)
			}
		})
	}
}

func TestANoteThatCannotBeReadIsNoGoodNews(t *testing.T) {
	for _, text := range []string{"start 1 serv1", "stop serv1 1 2\n", "start 1 serv1 4 0 0 0 {\n", "\n"} {
		if _, err := parseNotes(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestReturnsFollowFromTheirSeedAndHitEverywhere(t *testing.T) {
	seen := map[string]bool{}
	for i := range 2000 {
		r := draw(3, i)
		if again := draw(3, i); again.String() != r.String() {
			t.Fatalf("%v is %v when it is drawn again", r, again)
		}
		seen[string(r.First)] = true
		seen[fmt.Sprint(r.Moment, r.Second, r.At.Home)] = true
	}
	if want := len(first) + len(moments)*len(second)*len(lab.Identities); len(seen) != want {
		t.Errorf("%d are drawn of %d", len(seen), want)
	}
	if len(moments) != len(everyPhase) {
		t.Errorf("%d moments, %d phases: each moment is the begin of a phase", len(moments), len(everyPhase))
	}
}

func TestDirectoriesThatDifferAreToldApart(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, c := range []struct{ dir, name, text, want string }{
		{a, "words", "1 1\n", "words differs"},
		{b, "words", "1 2\n", "words differs"},
		{b, "words", "1 1\n", ""},
		{b, "bulk", "x", "1 files here, 2 there"},
	} {
		if err := os.WriteFile(filepath.Join(c.dir, c.name), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := difference(a, b); got != c.want {
			t.Errorf("with %q in %s: %q, want %q", c.text, c.name, got, c.want)
		}
	}
}

func TestReturns(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	program := filepath.Join(t.TempDir(), "xdpha")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/xdpha/xdpha/ctl/xdpha").CombinedOutput(); err != nil {
		t.Fatalf("build xdpha: %v\n%s", err, out)
	}
	var out strings.Builder
	r, err := Run(t.Context(), &out, Options{Rounds: 3, Seed: 2, Executable: program, Progress: func(s string) { t.Log(s) }})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Good() || len(r.Rounds) != 3 {
		t.Error("not as it should be")
	}
	for _, v := range r.Rounds {
		if v.Starts < 2 {
			t.Errorf("%v: %d starts: the other node and the home serve, at least", v, v.Starts)
		}
	}
}
