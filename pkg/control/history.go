// SPDX-License-Identifier: Apache-2.0

package control

import "time"

// History is how near the peer's silences came to a takeover, as `xdpha check --history`
// judges it.
type History struct {
	Node        string     `json:"node"`
	Time        time.Time  `json:"time"`
	ProbeUS     int64      `json:"probe_us"`      // in force
	DeadAfterUS int64      `json:"dead_after_us"` // in force
	SinceStart  SinceStart `json:"since_start"`
	// Minutes are those of the last hour in which anything was heard or the detector was late, oldest first.
	Minutes []Minute `json:"minutes"`
}

// SinceStart is what the kernel counted since its detector began. A death is no silence of it.
type SinceStart struct {
	Time         time.Time `json:"time"`
	SilenceMaxUS int64     `json:"silence_max_us"` // on all links at once
	Silence      Histogram `json:"silence"`
	Suspects     uint64    `json:"suspects"`
	Refuted      uint64    `json:"refuted"`
	SelfStalls   uint64    `json:"self_stalls"`
	Reverted     uint64    `json:"reverted"` // deaths taken back, because a frame came while they were declared
}

// Minute is the longest silences of one minute.
type Minute struct {
	Time       time.Time        `json:"time"` // when it began
	MinutesAgo int64            `json:"minutes_ago"`
	SilenceUS  int64            `json:"silence_us"` // on all links at once
	LinksUS    map[string]int64 `json:"links_us"`   // by link
	StallUS    int64            `json:"stall_us"`   // the detector's own lateness
}
