// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strings"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
)

// manyFailures says what each failure would do to a cluster of more than two nodes.
func manyFailures(cfg *config.Config) []failure {
	out := []failure{}
	for i, n := range cfg.Nodes {
		if len(homesAt(cfg, i)) == 0 {
			out = append(out, failure{n.Name + " loses power, or its kernel dies", fmt.Sprintf("nothing moves: %s is home to nothing%s", n.Name, servedOn(cfg, i))})
			continue
		}
		out = append(out,
			failure{
				n.Name + " loses power, or its kernel dies",
				fmt.Sprintf("%s: it hears nothing for %s on any path, wins the identity's key in etcd, and takes it with the same MAC%s",
					takersOf(cfg, i), cfg.Timing.DeadAfter, thenStarts(cfg, i)),
			},
			failure{
				fmt.Sprintf("the lan NIC %s of %s, its cable or its switch", n.Lan, n.Name),
				lanLost(cfg.Timing, n, strings.Join(homesAt(cfg, i), ", "), fmt.Sprintf("%s hands over, as planned, over a link that is left: %s", n.Name, takersOf(cfg, i))),
			})
	}
	ttl := cfg.Arbiter.Etcd.TTL
	return append(out,
		failure{"the daemon of one node is killed, stopped or hangs", manyLostWords(cfg.Timing)},
		failure{"the crossover of one node, or the switch of all crossovers", "nothing moves; an event and a metric tell of it"},
		failure{"the crossovers, and the trunk between the switches", "nodes with a spare NIC hear each other across, from lan NIC to spare NIC on the same switch: none of them is called dead, nothing moves"},
		failure{"a node is cut off from the others, and alive", fmt.Sprintf("an owner that is not answered by every candidate asks etcd for the identity's key and keeps it; a node that does not reach etcd closes its gates, and after at most %s the next candidate may win its keys; never two owners", ttl)},
		failure{"etcd does not answer", "an owner serves for as long as all other candidates answer it; nothing is taken or moved before etcd answers again"},
		failure{"a service's check turns bad", "restarted in place as often as its restart window allows, then its identity moves; see the restart of each service"},
	)
}

// servedOn says what a node's death asks of the owners for whom it stood by.
func servedOn(cfg *config.Config, node int) string {
	var names []string
	for _, id := range cfg.Identities {
		if id.Candidate(node) {
			names = append(names, id.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("; who owns %s wins the key in etcd, and serves on", strings.Join(names, ", "))
}

// takersOf says who takes what a node is home to: the first of its candidates that can.
func takersOf(cfg *config.Config, node int) string {
	var out []string
	for _, id := range cfg.Identities {
		if id.Home != node {
			continue
		}
		var names []string
		for _, to := range id.Prefer[1:] {
			names = append(names, fmt.Sprintf("%s (%s)", cfg.Nodes[to].Name, carrierOf(cfg.Nodes[to])))
		}
		out = append(out, fmt.Sprintf("%s to %s", id.Name, strings.Join(names, ", else ")))
	}
	return strings.Join(out, "; ")
}

func manyLostWords(t config.Timing) string {
	if t.DemandIfLost {
		return fmt.Sprintf("its kernel goes on; back within %s, nothing has happened; if not, the next candidate demands of that kernel what it owns, and takes it; after supervisor_lease, %s, it releases it by itself", t.SupervisorLost, t.SupervisorLease)
	}
	return fmt.Sprintf("its kernel goes on for supervisor_lease, %s; back by then, nothing has happened; if not, its kernel releases what it owns and the next candidate takes it", t.SupervisorLease)
}

// manyLimits are what more than two nodes cost, and cannot have.
func manyLimits(cfg *config.Config) []string {
	peers := len(cfg.Nodes) - 1
	rate := float64(peers*loader.Links) / cfg.Timing.Probe.Seconds()
	return []string{
		"nothing is taken without etcd: three members or more, near; a takeover waits for one round trip to it",
		"a planned hand-over costs one round trip to etcd before the owner releases, and none while nobody serves unless the owner holds the key",
		fmt.Sprintf("a node sends up to %d probes, (nodes - 1) × links, every %s, %.0f a second, and answers as many; two more to a peer that it does not hear on lan or spare", peers*loader.Links, cfg.Timing.Probe, rate),
		"all nodes are in the same LAN, and on one crossover network: a switch of its own in the place of the cable",
		"reach, fence and solo_without_supervisor: keep are for two nodes",
	}
}

// idle are the nodes that no identity ever moves to.
func idle(cfg *config.Config) (names []string) {
	for i, n := range cfg.Nodes {
		used := false
		for _, id := range cfg.Identities {
			used = used || id.Candidate(i)
		}
		if !used {
			names = append(names, n.Name)
		}
	}
	return names
}
