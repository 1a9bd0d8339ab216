// SPDX-License-Identifier: Apache-2.0

package lab

import "slices"

// Silence is a time in which not a frame from one node's NICs, on any cable, was sent on to a
// server's: what the switches know of who could hear whom. Frames of an attacker do not count.
type Silence struct {
	To, From     string // From may be a host
	FromNs, ToNs int64  // the last frame before it, 0: there was none; and the first one after it, 0: it lasts
	EndedBy      Role   // the cable on which that came
}

// endSilence completes the silence of which the second record tells; one processor writes both,
// the first one first.
func endSilence(all []Silence, end Silence) {
	for i := len(all) - 1; i >= 0; i-- {
		if s := &all[i]; s.To == end.To && s.From == end.From && s.ToNs == 0 {
			s.ToNs, s.EndedBy = end.ToNs, end.EndedBy
			return
		}
	}
}

// LastingSilence is what has been silence until now.
func (l *Lab) LastingSilence(to, from string) (Silence, error) {
	ns, err := l.cables.Heard(cutIndex[to], cutIndex[from])
	return Silence{To: to, From: from, FromNs: ns}, err
}

// Silent reports whether a server was sent nothing by a node from one time to another.
func Silent(all []Silence, to, from string, fromNs, toNs int64) bool {
	return slices.ContainsFunc(all, func(s Silence) bool {
		return s.To == to && s.From == from && s.FromNs < fromNs && (s.ToNs == 0 || s.ToNs > toNs)
	})
}

// HeardAfter is when a server was first sent a frame by a node again after a time in a silence; 0: not yet.
func HeardAfter(all []Silence, to, from string, ns int64) int64 {
	for _, s := range all {
		if s.To == to && s.From == from && s.FromNs < ns && (s.ToNs == 0 || s.ToNs > ns) {
			return s.ToNs
		}
	}
	return ns
}

// nodeByIndex is the reverse of cutIndex.
func nodeByIndex(i int) string {
	for name, n := range cutIndex {
		if n == i {
			return name
		}
	}
	return ""
}
