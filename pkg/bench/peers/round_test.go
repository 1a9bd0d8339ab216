// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
)

// record is of a client that asks every 100 µs: a letter per probe says who answered it,
// h for home, o for the other node, b for both, . for nobody.
func record(who string) lab.Record {
	r := lab.Record{PeriodNs: 100e3, StallNs: 300e3}
	for i, c := range who {
		sent := int64(i+1) * 100e3
		r.SentNs = append(r.SentNs, sent)
		answer := func(node string) {
			r.Answers = append(r.Answers, lab.Answer{Seq: uint32(i), TTL: uint8(ttlOf[node]), AtNs: sent + 1000})
		}
		if c == 'h' || c == 'b' {
			answer(identity.Home)
		}
		if c == 'o' || c == 'b' {
			answer(other(identity.Home))
		}
	}
	return r
}

func TestARoundIsJudgedByWhatTheClientSaw(t *testing.T) {
	for _, c := range []struct {
		name, who string
		returns   bool
		outageNS  int64
		dual      int
	}{
		{"it moved", "hhh....ooo", false, 500e3, 0},
		{"nothing happened", "hhhhhhhhhh", false, 100e3, 0},
		{"both went on", "hhh..ohoho", false, 300e3, 2},
		{"it went home by itself", "hh..oo.hhh", true, 300e3, 0},
		{"it went to and fro", "hh..oo.hh.o.hh", true, 300e3, 0},
		{"both answered the same probes", "hh..oo.hbb", true, 300e3, 2},
	} {
		var r Round
		r.note(record(c.who), lab.Window{}, c.returns)
		if r.OutageNS != c.outageNS || r.DualAnswers != c.dual || !r.Restored {
			t.Errorf("%s: outage %d, dual answers %d, restored %v; want %d, %d, true", c.name, r.OutageNS, r.DualAnswers, r.Restored, c.outageNS, c.dual)
		}
	}
}

func TestAReturnInAnotherWindowIsNoDualAnswer(t *testing.T) {
	var r Round
	rec := record("hh.ooo.hhh")
	r.note(rec, lab.Window{ToNs: rec.SentNs[6]}, false)
	r.note(rec, lab.Window{FromNs: rec.SentNs[6]}, false)
	if r.DualAnswers != 0 || r.OutageNS != 200e3 {
		t.Errorf("%+v", r)
	}
}

func TestTheSilenceIsLookedForFromTheLastAnswerBeforeTheFault(t *testing.T) {
	rec := record("hhh....ooo")
	quiet := record("hhh....")
	if got := eve(quiet, rec.SentNs[3]+before.Nanoseconds()); got != rec.SentNs[2] {
		t.Errorf("from %d, want the last answered probe, %d", got, rec.SentNs[2])
	}
	if got, want := eve(rec, rec.SentNs[3]), rec.SentNs[3]-before.Nanoseconds(); got != want {
		t.Errorf("from %d, want a little before the fault, %d", got, want)
	}
}

func TestAMoveBeforeTheFaultIsNoticed(t *testing.T) {
	for who, want := range map[string]bool{"hhhhooo": false, "hohhooo": true, "ohhhooo": false} {
		rec := record(who)
		if got := unasked(rec, rec.SentNs[4]); got != want {
			t.Errorf("%s: moved unasked %v, want %v", who, got, want)
		}
	}
}
