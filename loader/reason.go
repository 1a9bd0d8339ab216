// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/xdpha/xdpha/bpf"
)

// Reason is one exit of the programs (bpf/abi.h), as a metric names it.
type Reason struct{ Kind, Verdict, Name string }

// reasons are in the order of enum xd_reason.
var reasons = [...]Reason{
	{"other", "pass", "not_ours"},
	{"probe", "answered", "ok"},
	{"reply", "accepted", "ok"},
	{"heartbeat", "answered", "announcement"},
	{"heartbeat", "dropped", "truncated"},
	{"heartbeat", "dropped", "oversized"},
	{"heartbeat", "dropped", "bad_magic"},
	{"heartbeat", "dropped", "bad_version"},
	{"heartbeat", "dropped", "bad_ttl"},
	{"heartbeat", "dropped", "foreign_cluster"},
	{"heartbeat", "dropped", "wrong_link"},
	{"heartbeat", "dropped", "bad_sender"},
	{"heartbeat", "dropped", "bad_shape"},
	{"heartbeat", "dropped", "unknown_key"},
	{"heartbeat", "dropped", "bad_tag"},
	{"heartbeat", "dropped", "unproven"},
	{"heartbeat", "dropped", "replayed"},
	{"arp", "answered", "ok"},
	{"arp", "dropped", "gate_closed"},
	{"arp", "dropped", "wrong_nic"},
	{"arp", "dropped", "own_address_on_spare"},
	{"arp", "dropped", "conflict"},
	{"nd", "answered", "ok"},
	{"nd", "dropped", "gate_closed"},
	{"nd", "dropped", "wrong_nic"},
	{"nd", "dropped", "conflict"},
	{"nd", "dropped", "bad"},
	{"in", "pass", "gate_open"},
	{"in", "dropped", "gate_closed"},
	{"in", "dropped", "wrong_nic"},
	{"in", "dropped", "not_ready"},
	{"out", "pass", "gate_open"},
	{"out", "dropped", "gate_closed"},
	{"out", "dropped", "wrong_nic"},
	{"out", "dropped", "wrong_mac"},
	{"out", "dropped", "foreign_source"},
	{"tick", "sent", "ok"},
	{"tick", "dropped", "early"},
	{"tick", "passed", "between"},
	{"token", "dropped", "unpaced"},
	{"tick", "dropped", "failed"},
	{"other", "aborted", "internal"},
}

// Counter is how often one exit was taken. Link is empty for what concerns none.
type Counter struct {
	Link string
	Reason
	Count uint64
}

// Counters reads all exits that were taken at least once.
func (d *Datapath) Counters() ([]Counter, error) {
	var out []Counter
	n := int(bpf.XdphaXdReasonREASON_COUNT)
	for slot := range (Links + 1) * n {
		var perCPU []uint64
		if err := d.objs.Counters.Lookup(uint32(slot), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %d: %w", slot, err)
		}
		c := Counter{Reason: reasons[slot%n]}
		for _, v := range perCPU {
			c.Count += v
		}
		if c.Count == 0 {
			continue
		}
		if l := slot / n; l < Links {
			c.Link = LinkNames[l]
		}
		out = append(out, c)
	}
	return out, nil
}

// loadError turns the kernel's refusal into what is missing.
func loadError(err error) error {
	var ve *ebpf.VerifierError
	for _, c := range Probe(nil) {
		if !c.OK {
			return fmt.Errorf("load programs: %s: %s: %s: %w", c.Name, c.Detail, c.Remedy, err)
		}
	}
	if errors.As(err, &ve) {
		return fmt.Errorf("load programs: the kernel's verifier refuses them: %w", ve)
	}
	return fmt.Errorf("load programs: %w", err)
}
