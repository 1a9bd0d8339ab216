// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"

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
		program loader.Program
		pair    string
		frame   []byte
		exit    loader.Reason
	}{
		{"not ours: passed", r.dp.In(), "lan", udp(askMAC, nodeMAC, askIP, ownIP), passed("other", "not_ours")},
		{"heartbeat with a bad tag: dropped", r.dp.In(), "hb", forged, dropped("heartbeat", "bad_tag")},
		{"gate open, in: passed", r.dp.In(), "lan", udp(askMAC, vipMAC, askIP, vip), passed("in", "gate_open")},
		{"gate open, out: passed", r.dp.Out(), "lan", udp(vipMAC, askMAC, vip, askIP), passed("out", "gate_open")},
	} {
		ns, err := r.repeated(s, c.program, r.answer[c.pair], c.frame, c.exit)
		if err != nil {
			return nil, fmt.Errorf("measure %q: %w", c.name, err)
		}
		costs = append(costs, Cost{c.name, ns, byRepetition})
	}
	return costs, nil
}

// repeated is what a program costs that leaves this frame as it is, by this exit.
func (r *rig) repeated(s size, p loader.Program, index int, frame []byte, exit loader.Reason) (float64, error) {
	before, err := exits(r.dp, exit)
	if err != nil {
		return 0, err
	}
	ns, err := best(p, index, frame, s.repeat)
	if err != nil {
		return 0, err
	}
	after, err := exits(r.dp, exit)
	if err != nil {
		return 0, err
	}
	if n := after - before; n < uint64(s.repeat/tries*tries) {
		return 0, fmt.Errorf("of %d runs only %d ended as %v", s.repeat, n, exit)
	}
	return ns, nil
}

func passed(kind, name string) loader.Reason {
	return loader.Reason{Kind: kind, Verdict: "pass", Name: name}
}

func dropped(kind, name string) loader.Reason {
	return loader.Reason{Kind: kind, Verdict: "dropped", Name: name}
}

// exits is how often an exit was taken, on any link.
func exits(d *loader.Datapath, exit loader.Reason) (n uint64, err error) {
	all, err := d.Counters()
	for _, c := range all {
		if c.Reason == exit {
			n += c.Count
		}
	}
	return n, err
}

// best is the fastest of some tries: what else ran meanwhile only ever adds.
func best(p loader.Program, index int, frame []byte, times uint32) (ns float64, err error) {
	for i := range tries {
		d, err := p.Repeat(index, frame, times/tries)
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
	counting, err := loader.CountRuns()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	for _, c := range all {
		if c.program == nil {
			continue
		}
		ns, err := timed(*c.program, c.batch, max(s.batches*s.perBatch/5/tries, 1))
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", c.name, err)
		}
		costs = append(costs, Cost{c.name + ": answered", ns, byKernel})
	}
	return costs, nil
}

// timed has frames sent and reads what the kernel says of the program's runs meanwhile: the
// fastest try. What is sent must have been received when send returns.
func timed(p loader.Program, send func(n int), frames int) (ns float64, err error) {
	count, total, err := p.Runs()
	if err != nil {
		return 0, err
	}
	for i := range tries {
		send(frames)
		countNow, totalNow, err := p.Runs()
		if err != nil {
			return 0, err
		}
		if countNow == count {
			return 0, errors.New("the kernel counted no run")
		}
		if d := float64(totalNow-total) / float64(countNow-count); i == 0 || d < ns {
			ns = d
		}
		count, total = countNow, totalNow
	}
	return ns, nil
}
