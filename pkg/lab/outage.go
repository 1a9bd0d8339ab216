// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"slices"
)

// Answer is one answer to a probe, in the order of arrival.
type Answer struct {
	Seq  uint32
	TTL  uint8 // tells who
	AtNs int64
}

// Record is what a prober wrote down; times are CLOCK_BOOTTIME.
type Record struct {
	PeriodNs int64
	StallNs  int64   // a longer gap between two sends is the client's own stall
	CutNs    int64   // when the prober cut its CutNode; 0: it did not
	SentNs   []int64 // by sequence number
	Answers  []Answer
}

// Summary is what the client saw.
type Summary struct {
	Sent, Answered int
	// OutageNs is the longest silence, from the last answered send to the first
	// answered send after it, less the client's own stalls inside.
	OutageNs       int64
	ChangeNs       int64 // the longest silence, measured in the same way, before which one node answered and after which the other did
	FromNs, ToNs   int64 // those two sends
	FromTTL, ToTTL uint8 // who answered them
	Restored       bool  // false: the last probes went unanswered, and OutageNs ends with the last send
	// DualAnswers counts probes answered by both nodes, and answers by a node after another had taken over from it.
	DualAnswers int
	// Duplicates counts further answers of the same node to the same probe.
	Duplicates int
	// Lost counts probes without an answer.
	Lost int
	// StalledNs is the sum of the client's own stalls, the longest is StallMaxNs.
	StalledNs, StallMaxNs int64
	// Before and After are the nodes that answered first and last.
	Before, After string
}

// Window limits Analyze to probes sent from FromNs (included) to ToNs (excluded); zeros are no limit.
// A run in which an identity moves back on purpose is looked at in two windows: going back
// to a node that was relieved counts as a dual answer.
type Window struct{ FromNs, ToNs int64 }

// lateNs after the last send, a probe without an answer is not lost but under way.
const lateNs = 5e6

// Analyze is pure: what a record says about the time in w.
func Analyze(r Record, w Window) Summary {
	if w.ToNs == 0 {
		w.ToNs = math.MaxInt64
	}
	var s Summary
	by := firstAnswers(r, w, &s)
	last := -1 // the last answered probe
	var stalls int64
	var prev int64
	var end int64
	for i, t := range r.SentNs {
		if t < w.FromNs || t >= w.ToNs {
			continue
		}
		s.Sent++
		stall := int64(0)
		if prev != 0 && t-prev > r.StallNs {
			stall = t - prev - r.PeriodNs
			s.StalledNs += stall
			s.StallMaxNs = max(s.StallMaxNs, stall)
		}
		stalls += stall
		prev, end = t, t
		if by[i] == 0 {
			s.Lost++
			continue
		}
		s.Answered++
		if last >= 0 {
			s.silence(r.SentNs[last], t, stalls, by[last], by[i])
		}
		last, stalls = i, 0
		s.Restored = true
	}
	if last >= 0 && end-r.SentNs[last] > lateNs {
		s.Restored = false
		s.silence(r.SentNs[last], end, stalls, by[last], 0)
	}
	return s
}

func (s *Summary) silence(from, to, stalls int64, a, b uint8) {
	d := to - from - stalls
	if a != b && b != 0 {
		s.ChangeNs = max(s.ChangeNs, d)
	}
	if d > s.OutageNs {
		s.OutageNs, s.FromNs, s.ToNs, s.FromTTL, s.ToTTL = d, from, to, a, b
	}
}

// firstAnswers returns who answered each probe first, and counts what was answered too often.
func firstAnswers(r Record, w Window, s *Summary) []uint8 {
	by := make([]uint8, len(r.SentNs))
	both := make(map[uint32]bool)
	var owners relay
	for _, a := range r.Answers {
		if int(a.Seq) >= len(r.SentNs) || r.SentNs[a.Seq] < w.FromNs || r.SentNs[a.Seq] >= w.ToNs {
			continue
		}
		relieved := owners.next(int(a.TTL))
		switch by[a.Seq] {
		case 0:
			by[a.Seq] = a.TTL
		case a.TTL:
			s.Duplicates++
		default:
			both[a.Seq] = true
		}
		if relieved || both[a.Seq] {
			s.DualAnswers++
			both[a.Seq] = false // once per answer is enough
		}
		if s.Before == "" {
			s.Before = nodeByTTL(a.TTL)
		}
		s.After = nodeByTTL(a.TTL)
	}
	return by
}

// relay follows who is served by whom: once another has taken over from a node, that node is relieved.
type relay struct {
	current  int
	relieved map[int]bool
}

// next takes the next answerer and reports whether it had been relieved before.
func (r *relay) next(who int) bool {
	if r.relieved[who] {
		return true
	}
	if who != r.current {
		if r.relieved == nil {
			r.relieved = map[int]bool{}
		}
		if r.current != 0 {
			r.relieved[r.current] = true
		}
		r.current = who
	}
	return false
}

// Gain is what a node tells of having become an identity's owner. Who tells may be late: so much
// earlier it may have spoken already.
type Gain struct {
	Node   string
	AtNs   int64
	LateNs int64
}

// TwoOwners is a time in which the switches saw a node use an identity's MAC after another one
// had taken over from it: from the new owner's first frame to the old one's last.
type TwoOwners struct {
	Old    string `json:"old"`
	New    string `json:"new"`
	FromNs int64  `json:"from_ns"`
	LastNs int64  `json:"last_ns"`
	Frames int    `json:"frames"` // of the old owner
}

// Overlaps is like Overlap for a time in which an identity may come back: a node that was relieved
// is excused if it gained the identity after the other one's first frame, which relieves that one.
// What it sends when the other one never speaks again, which may have died unheard, has no second owner.
func Overlaps(records []JudgeRecord, identity int, gains []Gain) (out []TwoOwners) {
	inOrder(records)
	var owner string
	var doubtful TwoOwners // until the owner speaks again
	relieved := map[string]bool{}
	for _, r := range records {
		node := r.Port.Node
		switch {
		case r.Identity != identity:
		case node == owner:
			out = joined(out, doubtful)
			doubtful.Frames = 0
		case owner == "" || !relieved[node] || gained(gains, node, doubtful.FromNs, r.TNs):
			relieved[owner], relieved[node] = true, false
			owner, doubtful = node, TwoOwners{New: node, FromNs: r.TNs}
		default:
			doubtful.Old, doubtful.LastNs = node, r.TNs
			doubtful.Frames++
		}
	}
	return out
}

// gained reports whether a node that spoke at a time has become owner since another one did.
func gained(gains []Gain, node string, sinceNs, spokeNs int64) bool {
	return slices.ContainsFunc(gains, func(g Gain) bool { return g.Node == node && g.AtNs > sinceNs && g.AtNs-g.LateNs <= spokeNs })
}

// joined adds a time with two owners to those before; it may continue the last one.
func joined(all []TwoOwners, t TwoOwners) []TwoOwners {
	if t.Frames == 0 {
		return all
	}
	if n := len(all); n > 0 && all[n-1].FromNs == t.FromNs {
		all[n-1].LastNs = t.LastNs
		all[n-1].Frames += t.Frames
		return all
	}
	return append(all, t)
}

// Overlap counts frames that the judge saw from a node with an identity's MAC
// after another node had taken over from it, in the order in which the switches saw them.
func Overlap(records []JudgeRecord, identity int) int {
	inOrder(records)
	var owners relay
	n := 0
	for _, r := range records {
		if r.Identity == identity && owners.next(1+cutIndex[r.Port.Node]) {
			n++
		}
	}
	return n
}

// inOrder sorts as the switches saw it: records of two processors may lie in the trail the other way round.
func inOrder(records []JudgeRecord) {
	slices.SortStableFunc(records, func(a, b JudgeRecord) int { return int(a.TNs - b.TNs) })
}
