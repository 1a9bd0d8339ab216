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
	out.BootHold = or(t.bootHold, max(defaultBootHold, 2*out.SupervisorLease))
	if least := minBootDeads * out.DeadAfter; out.BootHold < least {
		c.add(t.bootHold.at, "boot_hold %s is less than %d × dead_after (%s); write at least %s",
			short(out.BootHold), minBootDeads, short(out.DeadAfter), short(least))
	}
	out.SuspectAfter = max(out.DeadAfter-2*out.Probe, out.Probe)
	out.ConfirmProbes = min(maxConfirmProbes, int(out.DeadAfter/out.Probe)-1)
	out.SoloKeep = or(t.solo, "keep") == "keep"
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
