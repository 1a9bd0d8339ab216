// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// timing checks the relations and derives what follows from them.
func (c *checker) timing() {
	t, out := &c.raw.timing, &c.cfg.Timing
	if !c.profile() {
		return
	}
	if least := minDeadProbes * out.Probe; out.DeadAfter < least {
		c.add(t.deadAfter.at, "dead_after %s is less than %d probes of %s; write at least %s or a shorter probe",
			short(out.DeadAfter), minDeadProbes, short(out.Probe), short(least))
		return
	}
	least := minLeaseDeads * out.DeadAfter
	out.SupervisorLease = or(t.supervisorLease, max(defaultLease, least))
	if out.SupervisorLease < least {
		c.add(t.supervisorLease.at, "supervisor_lease %s is less than %d × dead_after (%s); write at least %s",
			short(out.SupervisorLease), minLeaseDeads, short(out.DeadAfter), short(least))
	}
	out.BootHold = or(t.bootHold, max(c.defaultBootHold(), 2*out.SupervisorLease))
	alone := c.raw.arbiter.reach.set // for a while a node may serve without hearing anybody
	if least := minBootDeads * out.DeadAfter; !alone && out.BootHold < least {
		c.add(place(t.bootHold, t.at), "boot_hold %s is less than %d × dead_after (%s); write at least %s",
			short(out.BootHold), minBootDeads, short(out.DeadAfter), short(least))
	} else if least += SoloFor; alone && out.BootHold < least {
		c.add(place(t.bootHold, t.at), "boot_hold %s is less than %s, for which a node may serve alone, and %d × dead_after (%s); write at least %s",
			short(out.BootHold), short(SoloFor), minBootDeads, short(out.DeadAfter), short(least))
	}
	c.right()
	// In time for the arbiter's leave to come before the peer's last grant ends.
	out.SuspectAfter = max(out.Probe, min(out.DeadAfter-2*out.Probe, out.ServeFor-out.Probe-max(out.Probe/4, leastAsk)))
	if c.raw.arbiter.etcd.set { // as early as one lost frame allows: etcd answers within what is left of the grant
		out.SuspectAfter = min(out.SuspectAfter, max(2*out.Probe, out.DeadAfter/4))
	}
	out.ConfirmProbes = min(maxConfirmProbes, int(out.DeadAfter/out.Probe)-1)
	out.SoloKeep = c.soloKeep()
	out.Pacer = or(t.pacer, PacerAuto)
	out.SupervisorLost = time.Duration(float64(out.SupervisorLease) * lostShare)
	out.EndServices, out.AwaitServices = or(t.endServices, defaultEndServices), t.awaitServices.v
	out.UpDelay = or(t.upDelay, defaultUpDelay)
	out.DemandIfLost = or(t.supervisorLost, "takeover") == "takeover"
}

// defaultBootHold: with a fence agent a node that boots first switches the other one off after it,
// so it gives that one the time to boot, too.
func (c *checker) defaultBootHold() time.Duration {
	if c.raw.arbiter.fence.set {
		return defaultFenceHold
	}
	return defaultBootHold
}

// soloKeep: without its supervisor an owner keeps what it has while nobody could take it. Of more
// than two nodes there is always one that could.
func (c *checker) soloKeep() bool {
	solo := c.raw.timing.solo
	if len(c.raw.nodes) <= 2 {
		return or(solo, "keep") == "keep"
	}
	if or(solo, "close") == "keep" {
		c.add(solo.at, "solo_without_supervisor: keep is for two nodes, of more another one can take over; write close or leave it out")
	}
	return false
}

// The pacers.
const (
	PacerAuto   = "auto"
	PacerKernel = "kernel"
	PacerThread = "thread"
)

// SoloFor is how long the answer of a listed host counts, and how long a node may serve by the
// arbiter's leave without hearing anybody: a booting peer must wait longer. It is SOLO_NS of
// bpf/detector.h.
const SoloFor = 500 * time.Millisecond

// leastAsk is the time that a question to the listed hosts surely has.
const leastAsk = 100 * time.Microsecond

// right derives L, the longest right to serve for which L(1+ρ)+ε < Δ(1−ρ): measured by the
// slower clock, with a frame that lingers, it ends before dead_after has passed on the faster one.
func (c *checker) right() {
	t, out := &c.raw.timing, &c.cfg.Timing
	out.Linger = or(t.linger, min(max(out.DeadAfter/10, minLinger), maxLinger))
	const step = time.Microsecond
	longest := (float64(out.DeadAfter)*(1-ClockError) - float64(out.Linger)) / (1 + ClockError)
	out.ServeFor = (time.Duration(longest) - step).Truncate(step)
	if least := 2 * out.Probe; out.ServeFor < least {
		c.add(place(t.linger, t.at), "linger %s leaves a right to serve of %s, less than two probes (%s), of dead_after %s; write a shorter linger or a longer dead_after",
			short(out.Linger), short(max(out.ServeFor, 0)), short(least), short(out.DeadAfter))
	}
}

// RightEnds reports whether the right to serve, measured by the slower clock and with a frame
// that lingers, ends before the peer may take over.
func (t Timing) RightEnds() bool {
	return float64(t.ServeFor)*(1+ClockError)+float64(t.Linger) < float64(t.DeadAfter)*(1-ClockError)
}

// profile settles probe and dead_after: by name, or both written out.
func (c *checker) profile() bool {
	t, out := &c.raw.timing, &c.cfg.Timing
	name := or(t.profile, defaultProfile)
	if !t.profile.set && (t.probe.set || t.deadAfter.set) {
		name = profileCustom
	}
	out.Profile = name
	if name == profileCustom {
		out.Probe, out.DeadAfter = t.probe.v, t.deadAfter.v
		switch {
		case !t.probe.set:
			c.add(place(t.deadAfter, place(t.profile, t.at)), "probe is missing beside this; write probe and dead_after, or a profile")
		case !t.deadAfter.set:
			c.add(t.probe.at, "dead_after is missing beside this; write probe and dead_after, or a profile")
		}
		return t.probe.set && t.deadAfter.set
	}
	p := profiles[name]
	out.Probe, out.DeadAfter = p.probe, p.deadAfter
	return c.agrees("probe", t.probe, p.probe, name) && c.agrees("dead_after", t.deadAfter, p.deadAfter, name)
}

// agrees refuses a timing that differs from the one the profile stands for.
func (c *checker) agrees(key string, v value[time.Duration], want time.Duration, profile string) bool {
	if !v.set || v.v == want {
		return true
	}
	c.add(v.at, "%s %s contradicts profile %s, which has %s; write profile: custom, or leave %s out",
		key, short(v.v), profile, short(want), key)
	return false
}
