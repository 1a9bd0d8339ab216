// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/xdpha/xdpha/loader"
)

// RoundTrip is the time from a raw socket's send to its receiving the answer.
type RoundTrip struct {
	Name     string `json:"name"`
	Answers  int    `json:"answers"`
	Lost     int    `json:"lost"`
	MedianNS int64  `json:"median_ns"`
	P99NS    int64  `json:"p99_ns"`
	MaxNS    int64  `json:"max_ns"`
}

// Cost is the time that one packet spends in a program.
type Cost struct {
	Name string  `json:"name"`
	NS   float64 `json:"ns"`
	How  string  `json:"how"`
}

// compared are the pairs of contenders whose medians are compared, and how far apart they may be.
var compared = []struct {
	of, to string
	atMost float64
}{
	{heartbeat, heartbeatBare, HeartbeatLimit},
	{arp, arpBare, Limit}, {arp, arpKernel, Limit},
	{nd, ndBare, Limit}, {nd, ndKernel, Limit},
}

// answers measures what it costs to be asked.
func answers(ctx context.Context, s size, res *Result) error {
	r, err := newRig(atRest([]netip.Addr{vip, vip6}, []netip.Addr{otherIP}))
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.greet(ctx); err != nil {
		return err
	}
	all, err := r.contenders()
	if err != nil {
		return err
	}
	if err := byTurns(ctx, s, all); err != nil {
		return err
	}
	res.Mode = r.mode
	medians := map[string]int64{}
	for _, c := range all {
		t, err := c.summary()
		if err != nil {
			return err
		}
		medians[c.name] = t.MedianNS
		res.RoundTrips = append(res.RoundTrips, t)
	}
	for _, c := range compared {
		if to := medians[c.to]; to != 0 { // a kernel without IPv6 answers no NS
			res.Ratios = append(res.Ratios, ratio(c.of, c.to, float64(medians[c.of])/float64(to), c.atMost))
		}
	}
	res.Costs, err = r.costs(s, all)
	return err
}

// byTurns asks all in small batches, so that noise hits all alike.
func byTurns(ctx context.Context, s size, all []*contender) error {
	for _, c := range all {
		if c.batch(1); c.lost > 0 {
			return fmt.Errorf("measure %s: no answer within %v", c.name, patience)
		}
		c.batch(s.warm)
		c.samples, c.lost = c.samples[:0], 0
	}
	for range s.batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, c := range all {
			c.batch(s.perBatch)
		}
	}
	return nil
}

// contender is one kind of question and who answers it.
type contender struct {
	name    string
	program *loader.Program // nil: the kernel itself answers
	socket  *socket
	ask     func() []byte            // the next question
	check   func(answer []byte) bool // is it the answer to the last question?
	samples []int64
	lost    int
}

// patience is longer than a busy machine keeps a thread waiting.
const patience = 2 * time.Second

func (c *contender) batch(n int) {
	buf := make([]byte, 512)
	for range n {
		q := c.ask()
		if ns, ok := c.socket.roundTrip(q, buf, c.check); ok {
			c.samples = append(c.samples, ns)
		} else {
			c.lost++
		}
	}
}

func (c *contender) summary() (RoundTrip, error) {
	if len(c.samples) == 0 {
		return RoundTrip{}, fmt.Errorf("measure %s: none of %d questions was answered", c.name, c.lost)
	}
	slices.Sort(c.samples)
	n := len(c.samples)
	return RoundTrip{
		Name: c.name, Answers: n, Lost: c.lost, MedianNS: c.samples[n/2],
		P99NS: c.samples[int(math.Ceil(float64(n)*0.99))-1], MaxNS: c.samples[n-1],
	}, nil
}

func printAnswers(w io.Writer, r Result) {
	fmt.Fprintf(w, "\nround trip, XDP %s\tmedian\tp99\tmax\tanswers\tlost\n", r.Mode)
	for _, x := range r.RoundTrips {
		fmt.Fprintf(w, "%s\t%.2f µs\t%.2f µs\t%.0f µs\t%d\t%d\n", x.Name, us(x.MedianNS), us(x.P99NS), us(x.MaxNS), x.Answers, x.Lost)
	}
	fmt.Fprintf(w, "\nratio of medians\t\tat most\n")
	for _, x := range r.Ratios {
		x.print(w)
	}
	fmt.Fprintf(w, "\nin the program, a packet\t\tmeasured by\n")
	for _, x := range r.Costs {
		fmt.Fprintf(w, "%s\t%.0f ns\t%s\n", x.Name, x.NS, x.How)
	}
}
