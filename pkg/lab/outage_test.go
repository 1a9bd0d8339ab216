// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// play writes a record: one letter per probe, one millisecond apart. a and b
// are answers by serv1 and serv2, A and B the other node's as well, . is
// silence, and _ is a stall of the client of one more millisecond.
func play(script string) Record {
	r := Record{PeriodNs: 1e6, StallNs: 15e5}
	t := int64(100e6)
	for _, c := range script {
		if c == '_' {
			t += 1e6
			continue
		}
		seq := uint32(len(r.SentNs))
		r.SentNs = append(r.SentNs, t)
		answer := func(ttl uint8) { r.Answers = append(r.Answers, Answer{Seq: seq, TTL: ttl, AtNs: t + 1e4}) }
		switch c {
		case 'a':
			answer(TTLServ1)
		case 'b':
			answer(TTLServ2)
		case 'A':
			answer(TTLServ1)
			answer(TTLServ2)
		case 'd':
			answer(TTLServ1)
			answer(TTLServ1)
		}
		t += 1e6
	}
	return r
}

func TestWhatTheClientSaw(t *testing.T) {
	const ms = int64(1e6)
	for _, c := range []struct {
		name, script string
		want         Summary
	}{
		{"nothing at all", "", Summary{}},
		{"nobody ever", "....", Summary{Sent: 4, Lost: 4}},
		{"all answered: the outage is the period", "aaaa", Summary{Sent: 4, Answered: 4, OutageNs: ms, FromNs: 100 * ms, ToNs: 101 * ms, FromTTL: 65, ToTTL: 65, Restored: true, Before: Serv1, After: Serv1}},
		{"taken over after three lost", "aa...bb", Summary{Sent: 7, Answered: 4, Lost: 3, OutageNs: 4 * ms, ChangeNs: 4 * ms, FromNs: 101 * ms, ToNs: 105 * ms, FromTTL: 65, ToTTL: 66, Restored: true, Before: Serv1, After: Serv2}},
		{"the longest of two silences", "a.a...a", Summary{Sent: 7, Answered: 3, Lost: 4, OutageNs: 4 * ms, FromNs: 102 * ms, ToNs: 106 * ms, FromTTL: 65, ToTTL: 65, Restored: true, Before: Serv1, After: Serv1}},
		{"the change is not the longest silence", "a..a.b", Summary{Sent: 6, Answered: 3, Lost: 3, OutageNs: 3 * ms, ChangeNs: 2 * ms, FromNs: 100 * ms, ToNs: 103 * ms, FromTTL: 65, ToTTL: 65, Restored: true, Before: Serv1, After: Serv2}},
		{"own stalls are not the cluster's", "aa.__.bb", Summary{Sent: 6, Answered: 4, Lost: 2, OutageNs: 3 * ms, ChangeNs: 3 * ms, FromNs: 101 * ms, ToNs: 106 * ms, FromTTL: 65, ToTTL: 66, Restored: true, StalledNs: 2 * ms, StallMaxNs: 2 * ms, Before: Serv1, After: Serv2}},
		{"a stall elsewhere is not subtracted", "a___a...b", Summary{Sent: 6, Answered: 3, Lost: 3, OutageNs: 4 * ms, ChangeNs: 4 * ms, FromNs: 104 * ms, ToNs: 108 * ms, FromTTL: 65, ToTTL: 66, Restored: true, StalledNs: 3 * ms, StallMaxNs: 3 * ms, Before: Serv1, After: Serv2}},
		{"never restored", "a.........", Summary{Sent: 10, Answered: 1, Lost: 9, OutageNs: 9 * ms, FromNs: 100 * ms, ToNs: 109 * ms, FromTTL: 65, Before: Serv1, After: Serv1}},
		{"one probe answered by both", "aAb", Summary{Sent: 3, Answered: 3, OutageNs: ms, ChangeNs: ms, FromNs: 100 * ms, ToNs: 101 * ms, FromTTL: 65, ToTTL: 65, Restored: true, DualAnswers: 1, Before: Serv1, After: Serv2}},
		{"a relieved node goes on answering", "aabaab", Summary{Sent: 6, Answered: 6, OutageNs: ms, ChangeNs: ms, FromNs: 100 * ms, ToNs: 101 * ms, FromTTL: 65, ToTTL: 65, Restored: true, DualAnswers: 2, Before: Serv1, After: Serv2}},
		{"the same node twice is a duplicate only", "ada", Summary{Sent: 3, Answered: 3, OutageNs: ms, FromNs: 100 * ms, ToNs: 101 * ms, FromTTL: 65, ToTTL: 65, Restored: true, Duplicates: 1, Before: Serv1, After: Serv1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Analyze(play(c.script), Window{})); diff != "" {
				t.Errorf("script %q (-want +got):\n%s", c.script, diff)
			}
		})
	}
}

func TestWindowsSeparateAMoveFromTheMoveBack(t *testing.T) {
	r := play("aa.bbb.aa")
	if got := Analyze(r, Window{}).DualAnswers; got != 2 {
		t.Errorf("whole run: %d dual answers, want 2", got)
	}
	middle := r.SentNs[4]
	for _, w := range []Window{{ToNs: middle}, {FromNs: middle}} {
		s := Analyze(r, w)
		if s.DualAnswers != 0 || s.OutageNs != 2e6 {
			t.Errorf("window %+v: %d dual answers, outage %d ns; want 0, 2 ms", w, s.DualAnswers, s.OutageNs)
		}
	}
}
