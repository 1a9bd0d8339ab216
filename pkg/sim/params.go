// SPDX-License-Identifier: Apache-2.0

package sim

const (
	us = int64(1_000)
	ms = int64(1_000_000)
	s  = int64(1_000_000_000)
)

// clockError is how much faster or slower than true time a node's clock may be: the
// configuration's ρ, of which each of two clocks may have half against the other.
const clockError = 0.001

// Sizes of the model.
const (
	links = 3 // crossover, lan, spare
	nics  = 2 // by which hosts are asked: lan, spare
	hosts = 3 // listed
	ticks = 8 // TICKS_KEPT
)

// maxNodes is the most that a world has.
const maxNodes = 5

// Params are the timings of all nodes, in ns, as pkg/config derives them.
type Params struct {
	Probe, Dead, Suspect, Serve, Linger, Hold, Lease int64
	Solo, SoloOver, Late, ReachEvery                 int64 // SOLO_NS, SOLO_OVER_NS, LATE_VERDICT_NS, REACH_EVERY_NS
	Confirm                                          int
	Nodes                                            int      // two, or as many as Among says
	Reach                                            bool     // arbiter reach; else none
	Fence                                            bool     // arbiter fence, alone or beside reach
	FenceDelay                                       [2]int64 // by node: how much longer it takes to switch that one off
	Etcd                                             bool     // arbiter etcd
	TTL                                              int64    // of a lease there

	mutation string
}

// Timings are those of a profile with that probe and that dead_after.
func Timings(probe, dead int64, reach bool) Params {
	p := Params{
		Probe: probe, Dead: dead, Linger: min(max(dead/10, 50*us), ms), Lease: max(300*ms, 10*dead),
		Solo: 500 * ms, SoloOver: 500*ms + 500*ms/256, Late: 50 * ms, ReachEvery: 100 * ms, Reach: reach,
		Confirm: min(3, int(dead/probe)-1), Nodes: 2,
	}
	p.Serve = int64((float64(dead)*(1-clockError)-float64(p.Linger))/(1+clockError)) - us
	p.Suspect = max(probe, min(dead-2*probe, p.Serve-probe-max(probe/4, 100*us)))
	p.Hold = p.Solo + 2*dead + 2*p.Lease
	if !reach {
		p.Serve = 0 // it is not asked for
	}
	return p
}

// EtcdTimings are those with arbiter etcd. A lease there lasts whole seconds; here it is shorter, so
// that more happens in one run.
func EtcdTimings(probe, dead int64) Params {
	p := Timings(probe, dead, true)
	p.Reach, p.Etcd, p.TTL = false, true, 200*ms
	return p
}

// Among has so many nodes, which need etcd.
func (p Params) Among(nodes int) Params {
	p.Nodes = nodes
	return p
}

// WithFence has a dead peer switched off before anything of it is taken. The second node waits, so
// that both, alive, do not switch each other off.
func (p Params) WithFence() Params {
	p.Fence, p.FenceDelay = true, [2]int64{400 * ms, 0}
	return p
}
