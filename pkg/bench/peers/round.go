// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Fault is what is done to the home node.
type Fault string

// The faults, in the order of the report.
const (
	Rest       Fault = "none for 2 s"    // what the machine alone does to each contender
	Hang       Fault = "hang"            // nothing passes the node's cables, carrier stays
	Kill       Fault = "kill -9"         // SIGKILL to all processes of the daemon, which nobody restarts
	KillWorker Fault = "kill -9 worker"  // SIGKILL to the daemon's worker, which its parent starts again
	Stop       Fault = "stopped for 2 s" // SIGSTOP to all processes of the daemon, then SIGCONT
)

// Faults lists them.
var Faults = []Fault{Rest, Hang, Kill, KillWorker, Stop}

const (
	warmUp        = 200 * time.Millisecond // the client, before the fault
	phases        = 20 * time.Millisecond  // the fault comes at any phase of the slowest heartbeat
	before        = 20 * time.Millisecond  // of the fault, from where the outage is looked for
	fresh         = 5 * time.Millisecond   // an answer that is no older says that home serves now
	warmTimeout   = 20 * time.Second
	switchTimeout = 10 * time.Second        // until the other node answers
	afterSwitch   = 100 * time.Millisecond  // late answers, and second thoughts
	daemonGone    = 1900 * time.Millisecond // then the nodes are asked, and two seconds are full
	afterReturn   = 300 * time.Millisecond
	roomFor       = 5 * time.Second // a round is seldom longer; if so, the record grows
)

// Round is what one fault cost.
type Round struct {
	OutageNS    int64 `json:"outage_ns"`     // the longest silence that the client saw, less its own stalls
	Restored    bool  `json:"restored"`      // somebody answered at the end
	DualAnswers int   `json:"dual_answers"`  // answers by a node after the other had taken over from it, or by both
	StalledNS   int64 `json:"stalled_ns"`    // the client's own stalls, subtracted where they fell into the silence
	Unasked     bool  `json:"moved_unasked"` // the address left home with nothing broken
	BothAnswer  int   `json:"both_answer"`   // of ten ARP requests during the fault, how many both nodes answered
	BothHold    bool  `json:"both_hold"`     // the address was on an interface of both nodes
	Asked       bool  `json:"asked"`         // whether the nodes were asked for the two above
}

// ttlOf tells who answered.
var ttlOf = map[string]int{lab.Serv1: lab.TTLServ1, lab.Serv2: lab.TTLServ2}

// run is one round of a fault. The lab is as before when the next one has settled.
func (f Fault) run(ctx context.Context, l *lab.Lab, c contender) (r Round, err error) {
	if err := awaitSettled(ctx, l, c); err != nil {
		return r, err
	}
	cl, err := startClient(l, address, roomFor)
	if err != nil {
		return r, err
	}
	stop := sync.OnceValue(cl.stop)
	defer stop()
	if err := warm(ctx, cl); err != nil {
		return r, fmt.Errorf("%w%s", err, pair.Logs(l))
	}
	t0 := lab.NowNs()
	if err := f.inject(ctx, l, c); err != nil {
		return r, err
	}
	if err := f.wait(ctx, cl, t0); err != nil {
		return r, err
	}
	end := lab.NowNs()
	if err := f.ask(ctx, l, &r); err != nil {
		return r, err
	}
	healed := lab.NowNs()
	if err := f.heal(ctx, l, c); err != nil {
		return r, err
	}
	if f == Stop { // what the daemon does when it goes on is part of the fault
		if err := pair.Pause(ctx, afterReturn); err != nil {
			return r, err
		}
	}
	rec := stop()
	r.Unasked = unasked(rec, t0) || f == Rest && unasked(rec, end)
	r.note(rec, lab.Window{FromNs: eve(rec, t0), ToNs: end}, f == KillWorker)
	if f == Stop {
		r.note(rec, lab.Window{FromNs: healed}, false)
	}
	return r, nil
}

// warm returns at a random moment, when home has served the client for a while. On a busy
// machine that may take some tries.
func warm(ctx context.Context, cl *client) error {
	home := ttlOf[identity.Home]
	ctx, cancel := context.WithTimeoutCause(ctx, warmTimeout, fmt.Errorf("%s did not serve for %s in %s though nothing was broken", identity.Home, warmUp, warmTimeout))
	defer cancel()
	for {
		if err := cl.awaitAnswer(ctx, home, lab.NowNs()); err != nil {
			return err
		}
		if err := pair.Pause(ctx, warmUp+rand.N(phases)); err != nil {
			return err
		}
		if ttl, at := cl.servedBy(); ttl == home && lab.NowNs()-at < int64(fresh) {
			return nil
		}
	}
}

func (f Fault) inject(ctx context.Context, l *lab.Lab, c contender) error {
	home := l.Node(identity.Home)
	switch f {
	case Hang:
		_, err := l.Inject(ctx, lab.FaultHang, identity)
		return err
	case Kill, KillWorker:
		return c.signal(home, unix.SIGKILL, f == KillWorker)
	case Stop:
		return c.signal(home, unix.SIGSTOP, false)
	}
	return nil
}

// wait returns when the client has seen what there is to see.
func (f Fault) wait(ctx context.Context, cl *client, t0 int64) error {
	if f != Hang {
		return pair.Pause(ctx, time.Duration(t0-lab.NowNs())+daemonGone)
	}
	short, cancel := context.WithTimeout(ctx, switchTimeout)
	defer cancel()
	// That nobody answered is in the record, by which the round is judged.
	_ = cl.awaitAnswer(short, ttlOf[other(identity.Home)], t0)
	return pair.Pause(ctx, afterSwitch)
}

func other(node string) string {
	if node == lab.Serv1 {
		return lab.Serv2
	}
	return lab.Serv1
}

// ask sees whether the nodes agree who has the address. Of a node that hangs nobody could hear.
func (f Fault) ask(ctx context.Context, l *lab.Lab, r *Round) (err error) {
	if f == Hang {
		return nil
	}
	r.Asked = true
	if r.BothAnswer, err = bothAnswer(ctx, l, address); err != nil {
		return err
	}
	who, err := holders(l, address)
	r.BothHold = len(who) > 1
	return err
}

func (f Fault) heal(ctx context.Context, l *lab.Lab, c contender) error {
	switch f {
	case Hang:
		return l.Heal(ctx, lab.FaultHang, identity)
	case Kill:
		return l.Heal(ctx, lab.FaultDaemonKill, identity)
	case Stop:
		return c.signal(l.Node(identity.Home), unix.SIGCONT, false)
	}
	return nil // nothing was broken, or the worker's parent has started another
}

// note judges a window of a record. Windows of a round do not touch: going home on purpose
// is no dual answer. If the address may move to and fro by itself in a window, only probes
// that both nodes answered are.
func (r *Round) note(rec lab.Record, w lab.Window, returns bool) {
	s := lab.Analyze(rec, w)
	r.OutageNS = max(r.OutageNS, s.OutageNs)
	r.StalledNS += s.StalledNs
	r.Restored = s.Restored
	if !returns {
		r.DualAnswers += s.DualAnswers
		return
	}
	for at := returned(rec, w); at != 0; at = returned(rec, w) {
		part := lab.Window{FromNs: w.FromNs, ToNs: at}
		r.DualAnswers += lab.Analyze(rec, part).DualAnswers
		w.FromNs = at
	}
	r.DualAnswers += lab.Analyze(rec, w).DualAnswers
}

// eve is where to look from for a fault at t0: a little earlier, and no later than the last
// probe that was sent and answered before it.
func eve(rec lab.Record, t0 int64) int64 {
	var last int64
	for _, a := range rec.Answers {
		if sent := rec.SentNs[a.Seq]; sent < t0 {
			last = max(last, sent)
		}
	}
	return min(t0-int64(before), last)
}

// unasked reports whether the address left home before the fault.
func unasked(rec lab.Record, t0 int64) bool {
	served := false
	for _, a := range rec.Answers {
		home := int(a.TTL) == ttlOf[identity.Home]
		if served && !home && a.AtNs < t0 {
			return true
		}
		served = served || home
	}
	return false
}

// returned is when the first probe was sent that the first node to answer answered after
// the other one had; 0 if there was none.
func returned(rec lab.Record, w lab.Window) int64 {
	var first uint8
	moved := false
	for _, a := range rec.Answers {
		sent := rec.SentNs[a.Seq]
		if sent < w.FromNs || w.ToNs != 0 && sent >= w.ToNs {
			continue
		}
		switch {
		case first == 0:
			first = a.TTL
		case a.TTL != first:
			moved = true
		case moved && sent > w.FromNs: // or whoever goes on from there would never end
			return sent
		}
	}
	return 0
}
