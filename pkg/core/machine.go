// SPDX-License-Identifier: Apache-2.0

package core

// Machine is one node's policy.
type Machine struct{ cfg Config }

// New returns a machine that waits for Started.
func New(cfg Config, saved Saved) *Machine { return &Machine{cfg: cfg} }

// Step takes one event at a boottime in ns and returns what to do about it.
func (m *Machine) Step(now int64, ev Event) []Action { return nil }

// Snapshot returns the machine's state for status.
func (m *Machine) Snapshot() Snapshot { return Snapshot{} }
