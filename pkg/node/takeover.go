// SPDX-License-Identifier: Apache-2.0

package node

import (
	"time"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/metrics"
)

// The causes of a change of owner to this node.
const (
	causeDead       = "peer-dead"
	causeDeadBefore = "peer-dead-before" // armed long after the death
	causeFenced     = "peer-fenced"      // dead, and known to be off
	causeHandOver   = "hand-over"
	causeStandDown  = "stand-down"
	causeTaken      = "taken" // of an earlier run of the daemon: the peer had released it, why is not known
)

// change is a change of owner to this node. What the kernel did in it is in the kernel's
// timeline, and read from there whenever somebody asks: the first packets come later than the flip.
type change struct {
	identity int
	flipNS   int64 // 0: there was none
	fromNS   int64 // what its stages count from: the last evidence, or the flip
	gen      uint64
	cause    string
	wall     time.Time
	restored bool // of an earlier run: what is done now is no stage of it
	user     [userStages]int64
}

// userStage is what user space does in a change of owner.
type userStage int

const (
	addressesPlaced userStage = iota
	announcedAgain
	servicesStarted
	userStages
)

// The stages' events, and their names in the metrics; none: the kernel's announcement counts there.
var (
	userEvents  = [userStages]string{"addresses", "announced", "services"}
	userMetrics = [userStages]string{metrics.StageAddress, "", metrics.StageServices}
)

// newChange is the change that a timeline tells of. A takeover long after the death, because
// nothing was armed before, says nothing about detection: it counts from the flip.
func newChange(identity int, k loader.Timeline, planned string, cfg *config.Config) change {
	c := change{identity: identity, flipNS: k.FlipNS, fromNS: k.FlipNS, gen: k.Word.Gen(), cause: planned}
	switch {
	case k.EvidenceNS == 0:
	case cfg.Arbiter.Fence != nil: // between the death and the flip the agent was at work
		c.cause, c.fromNS = causeFenced, k.EvidenceNS
	case k.FlipNS-k.DeadNS > int64(cfg.Timing.DeadAfter):
		c.cause = causeDeadBefore
	default:
		c.cause, c.fromNS = causeDead, k.EvidenceNS
	}
	return c
}

// noteChanges finds changes of owner to this node. The loop calls it before it acts on what it
// has read: the kernel's events may come later than that.
func (n *node) noteChanges() {
	for i := range n.Config.Identities {
		k, whole := n.flipOf(i)
		n.mu.Lock()
		known := n.shared.changes[i].flipNS
		n.mu.Unlock()
		if !whole || k.FlipNS == known { // not whole: the next look finds it
			continue
		}
		planned := causeHandOver
		if n.loop.machine.Snapshot().Identities[i].Word.Has(core.Demand) { // the core has not seen yet that it is done
			planned = causeStandDown
		}
		n.noteChange(newChange(i, k, planned, n.Config), k)
	}
}

// flipOf reads what stands still from a flip on, twice the same: the kernel may be writing it, and then is done in less
// than a microsecond. What it writes later, as the first packet, is read anew by whoever asks for it.
func (n *node) flipOf(identity int) (k loader.Timeline, whole bool) {
	read := func() loader.Timeline {
		k := n.dp.Timeline(identity)
		k.AnnouncedNS, k.AnsweredNS, k.InNS, k.OutNS = 0, 0, 0, 0
		return k
	}
	for range 100 {
		if k = read(); k == read() {
			return k, true
		}
	}
	return k, false
}

func (n *node) noteChange(c change, k loader.Timeline) {
	c.wall = time.Now().Add(time.Duration(c.flipNS - loader.Now()))
	n.metrics.ObserveTakeover(n.Config.Identities[c.identity].Name, c.cause)
	if c.cause == causeDead || c.cause == causeFenced {
		n.tellDetection(k)
	}
	n.mu.Lock()
	n.shared.changes[c.identity] = c
	n.mu.Unlock()
}

// tellDetection gives the metrics the stages up to the flip. A peer that was never heard is not
// suspected before it counts as dead.
func (n *node) tellDetection(k loader.Timeline) {
	n.metrics.ObserveDetection(time.Duration(k.FlipNS - k.EvidenceNS))
	if k.SuspectNS >= k.EvidenceNS {
		n.metrics.ObserveStage(metrics.StageSuspect, time.Duration(k.SuspectNS-k.EvidenceNS))
	}
	n.metrics.ObserveStage(metrics.StageDetect, time.Duration(k.DeadNS-k.EvidenceNS))
	n.metrics.ObserveStage(metrics.StageFlip, time.Duration(k.FlipNS-k.EvidenceNS))
}

// restoreChanges finds what the kernel remembers of an earlier run of the daemon.
func (n *node) restoreChanges() {
	for i := range n.Config.Identities {
		k := n.dp.Timeline(i)
		if k.FlipNS == 0 {
			continue
		}
		c := newChange(i, k, causeTaken, n.Config)
		c.wall, c.restored = time.Now().Add(time.Duration(c.flipNS-loader.Now())), true
		n.shared.changes[i] = c
	}
}

// mark notes when user space reached a stage of the last change of owner. What is done again
// later, or ahead of a change, is told but is no stage of it.
func (n *node) mark(identity int, stage userStage, err error) {
	now, kind := loader.Now(), userEvents[stage]
	if err != nil {
		n.tell(now, kind+"-failed", identity, err.Error(), nil)
		return
	}
	word := n.dp.Word(identity)
	n.mu.Lock()
	c := &n.shared.changes[identity]
	first := c.flipNS != 0 && !c.restored && c.gen == word.Gen() && c.user[stage] == 0
	if first {
		c.user[stage] = now
	}
	since := time.Duration(now - c.fromNS)
	n.mu.Unlock()
	if first && userMetrics[stage] != "" {
		n.metrics.ObserveStage(userMetrics[stage], since)
	}
	n.tell(now, kind, identity, "", nil)
}

// traffic is the longest time after the flip for which the first packet tells of the takeover
// rather than of clients that asked for nothing.
const traffic = time.Minute

// toldStages are those of the kernel's stages after a flip that the metrics know.
type toldStages struct {
	flipNS int64
	done   [4]bool
}

// tellStages gives the metrics the kernel's stages, each once, when they are known. The loop calls it.
func (n *node) tellStages() {
	n.mu.Lock()
	changes := n.shared.changes
	n.mu.Unlock()
	for i, c := range changes {
		if c.flipNS == 0 || c.restored {
			continue
		}
		told := &n.loop.told[i]
		if told.flipNS != c.flipNS {
			*told = toldStages{flipNS: c.flipNS}
		}
		k := afterFlip(n.dp.Timeline(i), c)
		for s, at := range []int64{k.AnnouncedNS, k.AnsweredNS, k.InNS, k.OutNS} {
			if at == 0 || told.done[s] {
				continue
			}
			told.done[s] = true
			if at-c.flipNS <= int64(traffic) {
				stage := [...]string{metrics.StageAnnounce, metrics.StageAnswer, metrics.StageIn, metrics.StageOut}[s]
				n.metrics.ObserveStage(stage, time.Duration(at-c.fromNS))
			}
		}
	}
}

// afterFlip is a timeline as far as it is this change's: the kernel begins it anew at the next
// one, and not all of it in one instant.
func afterFlip(k loader.Timeline, c change) loader.Timeline {
	if k.FlipNS != c.flipNS {
		return loader.Timeline{}
	}
	for _, at := range []*int64{&k.AnnouncedNS, &k.AnsweredNS, &k.InNS, &k.OutNS} {
		if *at < c.flipNS {
			*at = 0
		}
	}
	return k
}

// takeover is what is known by now of a change of owner; nil if there was none.
func (n *node) takeover(c change) *control.Takeover {
	if c.flipNS == 0 {
		return nil
	}
	return describeChange(n.Config.Identities[c.identity].Name, c, n.dp.Timeline(c.identity))
}

// describeChange joins what the kernel did with what user space did.
func describeChange(identity string, c change, k loader.Timeline) *control.Takeover {
	k = afterFlip(k, c)
	since := func(at int64) int64 {
		if at == 0 || at < c.fromNS {
			return 0
		}
		return (at - c.fromNS + 999) / 1000
	}
	t := control.Timeline{
		From: control.FromFlip, AtNS: c.fromNS, FlipUS: since(c.flipNS), AnnouncedUS: since(k.AnnouncedNS), AnsweredUS: since(k.AnsweredNS),
		InUS: since(k.InNS), OutUS: since(k.OutNS),
		AddressesUS: since(c.user[addressesPlaced]), RepeatedUS: since(c.user[announcedAgain]), ServicesUS: since(c.user[servicesStarted]),
	}
	if c.cause == causeDead || c.cause == causeFenced {
		t.From, t.SuspectUS, t.DeadUS = control.FromEvidence, since(k.SuspectNS), since(k.DeadNS)
	}
	return &control.Takeover{
		Identity: identity, Time: c.wall, Generation: c.gen, Cause: c.cause, Timeline: t,
		DetectUS: t.DeadUS, FlipUS: t.FlipUS, AnnounceUS: t.AnnouncedUS, AddressUS: t.AddressesUS, ServicesUS: t.ServicesUS,
	}
}

// last is the last change of owner of any identity.
func last(changes [loader.MaxIdentities]change) (c change) {
	for _, other := range changes {
		if other.flipNS > c.flipNS {
			c = other
		}
	}
	return c
}
