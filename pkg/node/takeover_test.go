// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
)

// death is a takeover as the kernel writes it down, from the evidence at 1 s on.
func death() loader.Timeline {
	const at = int64(time.Second)
	return loader.Timeline{
		Word: core.MakeWord(core.Owner, 4), EvidenceNS: at, SuspectNS: at + 3_000_000, DeadNS: at + 5_000_001, FlipNS: at + 5_001_000,
		AnnouncedNS: at + 5_500_000, AnsweredNS: at + 6_000_000, InNS: at + 6_100_000, OutNS: at + 6_200_000,
	}
}

func TestAChangeCountsFromWhatItBeganWith(t *testing.T) {
	for _, tt := range []struct {
		name    string
		set     func(*loader.Timeline, *change)
		planned string
		want    control.Takeover
	}{
		{
			"a death counts from the last sign of life", func(_ *loader.Timeline, c *change) {
				c.user = [userStages]int64{int64(time.Second) + 7_000_000, int64(time.Second) + 8_000_000, 2 * int64(time.Second)}
			}, causeHandOver, control.Takeover{
				Cause: causeDead, DetectUS: 5001, FlipUS: 5001, AnnounceUS: 5500, AddressUS: 7000, ServicesUS: 1_000_000,
				Timeline: control.Timeline{
					From: control.FromEvidence, AtNS: 1e9, SuspectUS: 3000, DeadUS: 5001, FlipUS: 5001, AnnouncedUS: 5500, AnsweredUS: 6000, InUS: 6100, OutUS: 6200,
					AddressesUS: 7000, RepeatedUS: 8000, ServicesUS: 1_000_000,
				},
			},
		},
		{
			"what has not been reached is zero, and a nanosecond is not", func(k *loader.Timeline, _ *change) {
				k.AnsweredNS, k.InNS, k.OutNS, k.AnnouncedNS = 0, 0, 0, k.FlipNS+1
			}, causeHandOver, control.Takeover{
				Cause: causeDead, DetectUS: 5001, FlipUS: 5001, AnnounceUS: 5002,
				Timeline: control.Timeline{From: control.FromEvidence, AtNS: 1e9, SuspectUS: 3000, DeadUS: 5001, FlipUS: 5001, AnnouncedUS: 5002},
			},
		},
		{
			"a hand-over counts from the flip", func(k *loader.Timeline, _ *change) { k.EvidenceNS, k.SuspectNS, k.DeadNS = 0, 0, 0 }, causeStandDown, control.Takeover{
				Cause: causeStandDown, AnnounceUS: 499,
				Timeline: control.Timeline{From: control.FromFlip, AtNS: 1_005_001_000, AnnouncedUS: 499, AnsweredUS: 999, InUS: 1099, OutUS: 1199},
			},
		},
		{
			"a takeover long after the death says nothing about detection", func(k *loader.Timeline, _ *change) { k.EvidenceNS, k.DeadNS = 1, 2 }, causeHandOver, control.Takeover{
				Cause: causeDeadBefore, AnnounceUS: 499,
				Timeline: control.Timeline{From: control.FromFlip, AtNS: 1_005_001_000, AnnouncedUS: 499, AnsweredUS: 999, InUS: 1099, OutUS: 1199},
			},
		},
		{
			"who was never heard was not suspected", func(k *loader.Timeline, _ *change) { k.SuspectNS = 7 }, causeHandOver, control.Takeover{
				Cause: causeDead, DetectUS: 5001, FlipUS: 5001, AnnounceUS: 5500,
				Timeline: control.Timeline{From: control.FromEvidence, AtNS: 1e9, DeadUS: 5001, FlipUS: 5001, AnnouncedUS: 5500, AnsweredUS: 6000, InUS: 6100, OutUS: 6200},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := death()
			tt.set(&k, &change{})
			c := newChange(0, k, tt.planned, &config.Config{Timing: config.Timing{DeadAfter: 5 * time.Millisecond}})
			tt.set(&loader.Timeline{}, &c)
			tt.want.Identity, tt.want.Generation = "files", 4
			if d := cmp.Diff(&tt.want, describeChange("files", c, k)); d != "" {
				t.Error(d)
			}
		})
	}
}

// Between the death and the flip the fence agent was at work: the takeover is of that death all the same.
func TestATakeoverThatWaitedForAFenceAgentCountsFromTheLastSignOfLife(t *testing.T) {
	k := death()
	k.FlipNS += 4 * int64(time.Second)
	cfg := &config.Config{Timing: config.Timing{DeadAfter: 5 * time.Millisecond}, Arbiter: config.Arbiter{Fence: &config.Fence{}}}
	got := describeChange("files", newChange(0, k, causeHandOver, cfg), k)
	if got.Cause != causeFenced || got.DetectUS != 5001 || got.FlipUS != 4_005_001 || got.Timeline.From != control.FromEvidence {
		t.Errorf("%+v", got)
	}
}

// The kernel begins a timeline anew at the next change, field by field.
func TestAnotherChangesStagesAreNotMixedIn(t *testing.T) {
	k := death()
	c := newChange(0, k, causeHandOver, &config.Config{Timing: config.Timing{DeadAfter: 5 * time.Millisecond}})
	next := k
	next.FlipNS += int64(time.Minute)
	if got := describeChange("files", c, next).Timeline; got.AnnouncedUS != 0 || got.InUS != 0 || got.FlipUS != 5001 {
		t.Errorf("the change before has of the next one: %+v", got)
	}
	if got := describeChange("files", newChange(0, next, causeHandOver, &config.Config{Timing: config.Timing{DeadAfter: time.Hour}}), next).Timeline; got.AnnouncedUS != 0 || got.OutUS != 0 {
		t.Errorf("the next change has of the one before: %+v", got)
	}
}

func TestTheLastTakeoverIsOfAnyIdentity(t *testing.T) {
	var v shared
	if got := last(v.changes); got.flipNS != 0 {
		t.Errorf("of none: %+v", got)
	}
	v.changes[3], v.changes[7] = change{identity: 3, flipNS: 20}, change{identity: 7, flipNS: 10}
	if got := last(v.changes); got.identity != 3 {
		t.Errorf("the last is %+v", got)
	}
}
