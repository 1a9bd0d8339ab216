// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// Limits of a configuration; the kernel's maps are sized for them.
const (
	MaxIdentities = 16   // words in a heartbeat frame
	MaxAddresses  = 8192 // of all identities together
	MaxReach      = 8    // arbiter hosts
	MaxServices   = 64   // ready bits in a heartbeat frame
)

// Bounds of the timings. Relations between them are checked in timing.go.
const (
	minProbe      = 100 * time.Microsecond
	maxProbe      = time.Second
	minDeadProbes = 3 // dead_after ≥ 3 × probe: one lost frame is not a death
	maxDeadAfter  = time.Minute
	minLease      = 100 * time.Millisecond
	maxLease      = 10 * time.Minute
	minLeaseDeads = 10 // supervisor_lease ≥ 10 × dead_after: a slow daemon is not a dead node
	minBootHold   = 10 * time.Millisecond
	maxBootHold   = time.Hour
	minBootDeads  = 2 // boot_hold ≥ 2 × dead_after: a peer booting at the same time is heard first
	minTimeout    = 10 * time.Millisecond
	maxTimeout    = time.Hour
)

// Defaults of what the file leaves out.
const (
	defaultProfile       = "balanced"
	profileCustom        = "custom"
	defaultLease         = time.Second // or 10 × dead_after, if that is longer
	defaultBootHold      = 3 * time.Second
	defaultFailbackAfter = time.Minute
	defaultEvery         = 2 * time.Second
	defaultRise          = 2
	defaultFall          = 3
	defaultStartTimeout  = 20 * time.Second
	defaultStopTimeout   = 20 * time.Second
	defaultCheckTimeout  = 5 * time.Second
	defaultRestartTimes  = 3
	defaultRestartWithin = time.Minute
	maxConfirmProbes     = 3
)

// profiles are the named pairs of probe and dead_after.
var profiles = map[string]struct{ probe, deadAfter time.Duration }{
	"cautious": {10 * time.Millisecond, 100 * time.Millisecond},
	"balanced": {time.Millisecond, 5 * time.Millisecond},
	"fast":     {250 * time.Microsecond, time.Millisecond},
}
