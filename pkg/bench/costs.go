// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/xdpha/xdpha/loader"
)

const (
	byRepetition = "repeated on one frame"
	byKernel     = "kernel's run time statistics, in the round trip"

	tries = 100 // each shorter than a time slice
)

// costs is what one packet costs in the programs alone. A program that rewrites its frame
// cannot be repeated on it: the kernel times those while they are asked.
func (r *rig) costs(s size, all []*contender) ([]Cost, error) {
	var still, live []Cost
	err := r.inAnswering(func() (err error) {
		if err = r.findPrograms(); err != nil {
			return err
		}
		still, err = r.stillCosts(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	live, err = r.liveCosts(s, all)
	return append(still, live...), err
}

func (r *rig) stillCosts(s size) (costs []Cost, err error) {
	forged, err := r.next()
	if err != nil {
		return nil, err
	}
	forged[len(forged)-1] ^= 1
	for _, c := range []struct {
		name    string
		program *ebpf.Program
		pair    string
		frame   []byte
		exit    loader.Reason
	}{
		{"not ours: passed", r.programs.in, "lan", udp(askMAC, nodeMAC, askIP, ownIP), exit("other", "pass", "not_ours")},
		{"heartbeat with a bad tag: dropped", r.programs.in, "hb", forged, exit("heartbeat", "dropped", "bad_tag")},
		{"gate open, in: passed", r.programs.in, "lan", udp(askMAC, vipMAC, askIP, vip), exit("in", "pass", "gate_open")},
		{"gate open, out: passed", r.programs.out, "lan", udp(vipMAC, askMAC, vip, askIP), exit("out", "pass", "gate_open")},
	} {
		before, err := r.exits(c.exit)
		if err != nil {
			return nil, err
		}
		ns, err := r.best(c.program, r.answer[c.pair], c.frame, s.repeat)
		if err != nil {
			return nil, fmt.Errorf("measure %q: %w", c.name, err)
		}
		after, err := r.exits(c.exit)
		if err != nil {
			return nil, err
		}
		if n := after - before; n < uint64(s.repeat/tries*tries) {
			return nil, fmt.Errorf("measure %q: of %d runs only %d ended as %v", c.name, s.repeat, n, c.exit)
		}
		costs = append(costs, Cost{c.name, ns, byRepetition})
	}
	return costs, nil
}

func exit(kind, verdict, name string) loader.Reason {
	return loader.Reason{Kind: kind, Verdict: verdict, Name: name}
}

// exits is how often an exit was taken, on any link.
func (r *rig) exits(exit loader.Reason) (n uint64, err error) {
	all, err := r.dp.Counters()
	for _, c := range all {
		if c.Reason == exit {
			n += c.Count
		}
	}
	return n, err
}

// best is the fastest of some tries: what else ran meanwhile only ever adds.
func (r *rig) best(p *ebpf.Program, index int, frame []byte, times uint32) (ns float64, err error) {
	for i := range tries {
		d, err := r.repeat(p, index, frame, times/tries)
		if err != nil {
			return 0, err
		}
		if i == 0 || d < ns {
			ns = d
		}
	}
	return ns, nil
}

func (r *rig) liveCosts(s size, all []*contender) (costs []Cost, err error) {
	counting, err := countRuns()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	for _, c := range all {
		p := r.programs.in
		switch c.name {
		case arpKernel:
			continue
		case heartbeatBare, arpBare:
			p = r.programs.reflect
		}
		ns, err := c.timed(p, max(s.batches*s.perBatch/5/tries, 1))
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", c.name, err)
		}
		costs = append(costs, Cost{c.name + ": answered", ns, byKernel})
	}
	return costs, nil
}

// timed asks and reads what the kernel says of the program's runs meanwhile: the fastest try.
func (c *contender) timed(p *ebpf.Program, questions int) (ns float64, err error) {
	before, err := p.Stats()
	if err != nil {
		return 0, fmt.Errorf("read run time statistics of %s: %w", p, err)
	}
	for i := range tries {
		c.batch(questions)
		after, err := p.Stats()
		if err != nil {
			return 0, fmt.Errorf("read run time statistics of %s: %w", p, err)
		}
		runs := after.RunCount - before.RunCount
		if runs == 0 {
			return 0, errors.New("the kernel counted no run")
		}
		if d := float64(after.Runtime-before.Runtime) / float64(runs); i == 0 || d < ns {
			ns = d
		}
		before = after
	}
	return ns, nil
}
