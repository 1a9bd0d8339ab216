// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Overlapping is a time with two owners, and what the switches know of it.
type Overlapping struct {
	Identity string `json:"identity"`
	lab.TwoOwners
	// Documented: it is the case that the arbiter reach documents. Else, Why not.
	Documented bool   `json:"documented"`
	Why        string `json:"why,omitempty"`
}

const (
	// reachFor is for how long a node may serve by the listed hosts' answers.
	reachFor = 500 * time.Millisecond
	// lingerMost is how much later than the frame that closes its gate an old owner's frame may come
	// to the switch: both lie in queues of this machine.
	lingerMost = 5 * time.Millisecond
	// toldLate is how much later than it happened the daemon tells of a change that it made itself.
	toldLate = 50 * time.Millisecond
)

// gains are the times at which nodes became an identity's owners, as they told themselves: by their
// kernels, to the nanosecond, or by their daemons.
func gains(events []control.Event, identity string) (out []lab.Gain) {
	for _, e := range events {
		if e.Identity != identity {
			continue
		}
		switch e.Kind {
		case "flip", "taken":
			out = append(out, lab.Gain{Node: e.Node, AtNs: e.TimeNS})
		case "claim", "resume", "reclaim":
			out = append(out, lab.Gain{Node: e.Node, AtNs: e.TimeNS, LateNs: int64(toldLate)})
		}
	}
	return out
}

// verdicts finds the times with two owners in a round, and tells the documented ones from the others
// by what the switches saw, not by what was broken.
func verdicts(trail []lab.JudgeRecord, silent []lab.Silence, events []control.Event, t config.Timing) (out []Overlapping) {
	for i, id := range lab.Identities {
		for _, two := range lab.Overlaps(trail, i, gains(events, id.Name)) {
			why := undocumented(two, silent, t)
			out = append(out, Overlapping{Identity: id.Name, TwoOwners: two, Documented: why == "", Why: why})
		}
	}
	return out
}

// undocumented is why a time with two owners is not the documented case; "": it is. That both nodes
// reach a majority of the listed hosts is, in the lab, that both hear the two hosts on the second switch.
func undocumented(two lab.TwoOwners, silent []lab.Silence, t config.Timing) string {
	at := two.FromNs
	switch {
	case !lab.Silent(silent, two.New, two.Old, at-int64(t.DeadAfter), at):
		return two.New + " could hear " + two.Old + " within dead_after of its takeover"
	case !lab.Silent(silent, two.Old, two.New, at-int64(t.DeadAfter-t.SuspectAfter), at):
		return two.Old + " could hear " + two.New + " when that took over"
	}
	for _, node := range []string{two.New, two.Old} {
		if lab.Silent(silent, node, lab.Hosts2, at-int64(reachFor), at) {
			return node + " did not reach the majority of the listed hosts"
		}
	}
	if heard := lab.HeardAfter(silent, two.Old, two.New, at); heard != 0 && two.LastNs > heard+int64(lingerMost) {
		return two.Old + " went on after it could hear " + two.New
	}
	return ""
}

// speakers tells, frame by frame, who began to use an identity's MAC, as a round's story has it.
func speakers(trail []lab.JudgeRecord, t0 int64) (out []moment) {
	last := map[int]string{}
	for _, r := range trail {
		if who := r.Port.Node; last[r.Identity] != who {
			last[r.Identity] = who
			out = append(out, moment{r.TNs, "switch", lab.Identities[r.Identity].Name + " is used by " + who + " on its " + r.Port.Role.String()})
		}
	}
	return slices.DeleteFunc(out, func(m moment) bool { return m.ns < t0-int64(time.Second) })
}
