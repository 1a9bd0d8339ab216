// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// patience is how long the pair may take to be whole and at home: a node that boots waits
// for its peer, and a thousand times more addresses take their time.
const patience = 60 * time.Second

// unwanted are the kinds of events that no fault of this package should bring about.
var unwanted = []string{
	"pacer-token-lost", "pacer-fallback", "pacer-failed", "two-owners",
	"address-failed", "persist-failed", "hand-over-failed",
}

// flutter are the kinds of events of which a busy machine makes hundreds, to no effect.
var flutter = []string{"self-stall", "suspect", "refuted", "cut-off", "rejoined"}

// Note is what the daemons told around something that should not have been.
type Note struct {
	Section Section `json:"section"`
	Why     string  `json:"why"`
	Flutter int     `json:"flutter"` // suspicions that came to nothing and the like, farther away
	// Events are the others, with the time from the moment that is noted.
	Events []string `json:"events"`
}

// How much is told around a moment.
const (
	noteNear   = 5 * time.Millisecond // all of it
	sameNotes  = 3                    // of a kind of event, from one lab
	noteBefore = 100 * time.Millisecond
	noteAfter  = 200 * time.Millisecond
	maxEvents  = 50
)

// rig is a lab with the pair running, and what is noted of it.
type rig struct {
	*lab.Lab
	section Section
	period  time.Duration // of the client; 0: the lab's
	events  *pair.Events
	marks   []mark
}

// mark is a time of which the events are to be kept.
type mark struct {
	why      string
	from, to int64
}

// open starts the pair in a new lab, and returns when it is whole.
func (o Options) open(ctx context.Context, s Section, scene lab.Scene, wait time.Duration) (*rig, error) {
	l, err := lab.New(ctx, lab.Options{Log: o.Log, Executable: o.Executable, HandOver: pair.HandOver})
	if err != nil {
		return nil, err
	}
	r := &rig{Lab: l, section: s, period: o.Period}
	if err := pair.Start(l, scene); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	r.events = pair.Follow(ctx, l)
	if err := pair.AwaitSettled(ctx, l, wait); err != nil {
		var notes []Note
		return nil, errors.Join(err, r.close(&notes))
	}
	return r, nil
}

// settle returns when the pair is whole and everything at home.
func (r *rig) settle(ctx context.Context) error { return pair.AwaitSettled(ctx, r.Lab, patience) }

// rest goes before every fault, so that none is under the spell of the one before: a node that
// was left alone may serve without its peer for half a second, and the peer waits for as long.
const rest = 1100 * time.Millisecond

// maxUnasked is how often a round may begin anew because the identity moved before its fault.
const maxUnasked = 5

// round is a campaign of one round. It begins anew, and says how often, if the identity moves
// with nothing broken, as it may if the machine takes longer than dead_after to breathe.
func (r *rig) round(ctx context.Context, kind lab.Fault, id lab.Identity, number int) (f lab.Fall, unasked int, err error) {
	for ; ; unasked++ {
		began := lab.NowNs()
		falls, err := r.Campaign(ctx, lab.CampaignPlan{
			Rounds: 1, Faults: []lab.Fault{kind}, Identities: []lab.Identity{id}, NoIPv6: true,
			Probe:  lab.ProbeOptions{Period: r.period},
			WarmUp: rest, Settle: settleTime(kind), Ready: r.settle, Back: r.settle, Expect: r.expect,
		})
		if err == nil {
			f = falls[0]
			f.Round = number
			r.judge(f, longOutage)
		}
		moved := err == nil && f.Unasked && wrong(f) == "" || err != nil && ctx.Err() == nil && r.away(ctx, id)
		if !moved || unasked == maxUnasked {
			return f, unasked, err
		}
		r.mark(began, lab.NowNs(), "round %d: %s moved with nothing broken", number, id.Name)
	}
}

// expect is the node that must serve after a fault.
func (r *rig) expect(kind lab.Fault, id lab.Identity) string {
	if stays(kind) {
		return id.Home
	}
	return r.Peer(id.Home).Name
}

// settleTime is how long to look on when service is back. What must not move is looked at for
// as long as a failed service takes to be found, and a lost peer to be missed.
func settleTime(kind lab.Fault) time.Duration {
	if stays(kind) {
		return 500 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// away reports whether the node that is not its home owns the identity.
func (r *rig) away(ctx context.Context, id lab.Identity) bool {
	peer := r.Peer(id.Home)
	st, err := pair.Status(ctx, peer)
	return err == nil && slices.ContainsFunc(st.Identities, func(i control.Identity) bool { return i.Name == id.Name && i.Owner == peer.Name })
}

func (r *rig) mark(from, to int64, format string, args ...any) {
	r.marks = append(r.marks, mark{fmt.Sprintf(format, args...), from, to})
}

// judge marks a round that went wrong, or whose outage is longer than long.
func (r *rig) judge(f lab.Fall, long time.Duration) {
	why := fmt.Sprintf("round %d, %s at %s, IPv%d", f.Round, f.Kind, f.Node, f.Family)
	switch now := lab.NowNs(); {
	case f.DualAnswers > 0 || overlaps(f) > 0:
		r.mark(f.T0Ns, now, "%s: two owners: %d answers, %v frames, %v after it was healed", why, f.DualAnswers, f.Overlaps, f.Returns)
	case !f.Served:
		r.mark(f.T0Ns, now, "%s: not served: %s", why, f.Why)
	case f.OutageNs > int64(long):
		r.mark(f.T0Ns, now, "%s: an outage of %s", why, time.Duration(f.OutageNs).Round(10*time.Microsecond))
	}
}

// close ends the lab, and adds what is to be told of it.
func (r *rig) close(notes *[]Note) error {
	all := r.events.Stop()
	r.markUnwanted(all)
	*notes = append(*notes, r.notes(all)...)
	return r.Close()
}

// markUnwanted marks events of kinds that nobody wants, and says how many there were.
func (r *rig) markUnwanted(all []control.Event) {
	byKind := map[string][]control.Event{}
	for _, e := range all {
		byKind[e.Kind] = append(byKind[e.Kind], e)
	}
	for _, kind := range unwanted {
		for i, e := range byKind[kind] {
			if i == sameNotes {
				break
			}
			r.mark(e.TimeNS, e.TimeNS, "%s told of %s, %d of %d", e.Node, kind, i+1, len(byKind[kind]))
		}
	}
}

// notes cuts what was told around each mark out of all events.
func (r *rig) notes(all []control.Event) []Note {
	var out []Note
	for _, m := range r.marks {
		n := Note{Section: r.section, Why: m.why}
		for _, e := range all {
			if e.TimeNS < m.from-int64(noteBefore) || e.TimeNS > m.to+int64(noteAfter) {
				continue
			}
			if slices.Contains(flutter, e.Kind) && (e.TimeNS < m.from-int64(noteNear) || e.TimeNS > m.from+int64(noteNear)) {
				n.Flutter++
				continue
			}
			if len(n.Events) == maxEvents {
				n.Events = append(n.Events, "…")
				break
			}
			n.Events = append(n.Events, eventLine(e, m.from))
		}
		out = append(out, n)
	}
	return out
}

func eventLine(e control.Event, t0 int64) string {
	s := fmt.Sprintf("%11.3f ms  %s  %s", float64(e.TimeNS-t0)/1e6, e.Node, e.Kind)
	if e.Identity != "" {
		s += " " + e.Identity
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}
