// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// Limits of a configuration; the kernel's maps are sized for them.
const (
	MaxNodes      = 16    // peers that the kernel keeps apart, and itself
	MaxIdentities = 16    // words in a heartbeat frame
	MaxAddresses  = 16384 // of all identities together
	MaxReach      = 8     // arbiter hosts
	MaxServices   = 64    // more than a cluster of this size runs
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
	minLinger     = 50 * time.Microsecond
	maxLinger     = time.Millisecond      // of the default; written out it may be more
	minEnd        = 50 * time.Millisecond // a guard that is late by less ends nothing too late
	maxEnd        = time.Hour
	minTimeout    = 10 * time.Millisecond
	maxTimeout    = time.Hour
)

// Defaults of what the file leaves out.
const (
	defaultProfile       = "balanced"
	profileCustom        = "custom"
	defaultLease         = time.Second // or 10 × dead_after, if that is longer
	defaultBootHold      = 3 * time.Second
	defaultFenceHold     = 2 * time.Minute // servers differ by that much in how long they boot
	defaultFailbackAfter = time.Minute
	defaultEvery         = 2 * time.Second
	defaultRise          = 2
	defaultFall          = 3
	defaultUnitTimeout   = 90 * time.Second // systemd's own DefaultTimeoutStartSec
	defaultStartTimeout  = 20 * time.Second
	defaultStopTimeout   = 20 * time.Second
	defaultCheckTimeout  = 5 * time.Second
	defaultRestartTimes  = 3
	defaultRestartWithin = time.Minute
	maxConfirmProbes     = 3
	defaultEndServices   = 500 * time.Millisecond // longer than machines stall, and the peer has taken over long before
	defaultAwaitServices = 10 * time.Second       // or as long as a stop may take, and awaitMargin, if that is longer
	awaitMargin          = 5 * time.Second        // for what is left then to be killed, and to be told
	defaultUpDelay       = 10 * time.Second       // a switch that boots forwards late, and cables that are bad flap
	silenceMargin        = 500 * time.Millisecond // for a guard to come to run, and to kill
)

// ClockError is ρ: how much faster or slower than true time a node's clock may run. NTP slews
// by up to 500 parts per million, on top of the crystal's error, which is some 100 at worst.
const ClockError = 0.001

// lostShare of the supervisor's lease is how long the peer's daemon may be silent before it
// counts as lost: later than any hiccup, earlier than its kernel gives up by itself.
const lostShare = 0.75

// profiles are the named pairs of probe and dead_after.
var profiles = map[string]struct{ probe, deadAfter time.Duration }{
	"cautious": {10 * time.Millisecond, 100 * time.Millisecond},
	"balanced": {time.Millisecond, 5 * time.Millisecond},
	"fast":     {250 * time.Microsecond, time.Millisecond},
}
