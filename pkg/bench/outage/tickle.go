// SPDX-License-Identifier: Apache-2.0

package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/bench/stats"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	idlePort = 4450             // of the service: new connections are held back until it is ready
	idleWait = 5 * time.Second  // for an idle client to notice something
	idleKnow = 15 * time.Second // for the connection to be known to the other node
)

// TickleReport is when an idle client is connected again, with and without a tickle.
type TickleReport struct {
	Variants []*TickleSeries `json:"variants"`
}

// TickleSeries is one of both.
type TickleSeries struct {
	Tickle      bool         `json:"tickle"`
	Noticed     stats.Spread `json:"noticed"`
	Reconnected stats.Spread `json:"reconnected"`
	Unnoticed   int          `json:"unnoticed"` // rounds in which the client waited on
	Rounds      []TickleFall `json:"rounds"`
}

// TickleFall is one takeover. Times count from the flip of ownership; zeros: the client has not noticed it.
type TickleFall struct {
	NoticedNs     int64 `json:"noticed_ns"`
	ReconnectedNs int64 `json:"reconnected_ns"`
}

func (r TickleReport) good() bool {
	return !slices.ContainsFunc(r.Variants, func(v *TickleSeries) bool { return v.Tickle && v.Unnoticed > 0 })
}

func (v *TickleSeries) sum() {
	var noticed, connected []int64
	v.Unnoticed = 0
	for _, f := range v.Rounds {
		if f.ReconnectedNs == 0 {
			v.Unnoticed++
			continue
		}
		noticed, connected = append(noticed, f.NoticedNs), append(connected, f.ReconnectedNs)
	}
	v.Noticed, v.Reconnected = stats.Of(noticed), stats.Of(connected)
}

// tickle cuts the power of the owner of an idle client's connection.
func (o Options) tickle(ctx context.Context, notes *[]Note) (*TickleReport, error) {
	rep := &TickleReport{}
	for _, on := range []bool{true, false} {
		v := &TickleSeries{Tickle: on}
		rep.Variants = append(rep.Variants, v)
		err := o.tickles(ctx, v, notes)
		v.sum()
		if err != nil {
			return rep, err
		}
	}
	return rep, nil
}

func (o Options) tickles(ctx context.Context, v *TickleSeries, notes *[]Note) (err error) {
	scene := o.scene()
	// A service that need not wait until a silent node has surely ended it: what is measured is the tickle.
	scene.NoTickle, scene.Service = !v.Tickle, fmt.Sprintf("%s\nports: [%d]\nstart_after_silence: 0s", scene.Service, idlePort)
	r, err := o.open(ctx, Tickle, scene, patience)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(notes)) }()
	for i := 0; i < o.Rounds; {
		f, unasked, err := r.idle(ctx, lab.Identities[i%len(lab.Identities)], v.Tickle)
		if err != nil {
			return err
		}
		if unasked {
			o.tell("tickle %v: moved with nothing broken, round %d again", v.Tickle, i+1)
			continue
		}
		i++
		v.Rounds = append(v.Rounds, f)
		what := "has noticed nothing"
		if f.NoticedNs != 0 {
			what = fmt.Sprintf("noticed after %s, connected again after %s", stats.MS(f.NoticedNs), stats.MS(f.ReconnectedNs))
		}
		o.tell("tickle %v, round %d of %d: %s", v.Tickle, i, o.Rounds, what)
	}
	return nil
}

// idle is one round: an idle client of an identity at home, the power cut, and what the client does then. It
// is void if the identity moves before that.
func (r *rig) idle(ctx context.Context, id lab.Identity, known bool) (f TickleFall, unasked bool, err error) {
	if err := r.settle(ctx); err != nil {
		return f, false, err
	}
	for _, n := range r.Nodes { // anew in each round: a node that boots has nothing of before
		g, err := r.Greet(n.Name, idlePort)
		if err != nil {
			return f, false, err
		}
		defer g.Close()
	}
	conn, err := r.connect(ctx, id)
	if err != nil {
		return f, false, err
	}
	defer conn.Close()
	ended := make(chan int64, 1) // when
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		ended <- lab.NowNs()
	}()
	if known {
		if err := r.awaitKnown(ctx, r.Peer(id.Home), id); err != nil {
			return f, false, err
		}
	}
	if err := pair.Pause(ctx, rest); err != nil || r.away(ctx, id) || len(ended) > 0 {
		return f, true, err
	}
	t0, err := r.Inject(ctx, lab.FaultPower, id)
	if err != nil {
		return f, false, err
	}
	f, flip, err := r.await(ctx, id, ended)
	if f.ReconnectedNs > int64(longOutage) {
		r.mark(flip, lab.NowNs(), "connected again as late as %s after the takeover of %s", stats.MS(f.ReconnectedNs), id.Name)
	}
	return f, flip < t0, errors.Join(err, r.Heal(ctx, lab.FaultPower, id))
}

// await returns when the client is connected again, or has waited for long, and when ownership was flipped.
func (r *rig) await(ctx context.Context, id lab.Identity, ended <-chan int64) (f TickleFall, flip int64, err error) {
	select {
	case <-ctx.Done():
		return f, 0, context.Cause(ctx)
	case <-time.After(idleWait):
		flip, err = flipOf(ctx, r.Peer(id.Home), id)
		return f, flip, err
	case noticed := <-ended:
		again, err := r.connect(ctx, id)
		if err != nil {
			return f, 0, err
		}
		connected := lab.NowNs()
		again.Close()
		flip, err = flipOf(ctx, r.Peer(id.Home), id)
		return TickleFall{noticed - flip, connected - flip}, flip, err
	}
}

// connect gives the client as long as the pair has to be whole.
func (r *rig) connect(ctx context.Context, id lab.Identity) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.Connect(ctx, netip.AddrPortFrom(id.Addr, idlePort))
}

// awaitKnown returns when a node knows of the client's connection.
func (r *rig) awaitKnown(ctx context.Context, n *lab.Node, id lab.Identity) error {
	ctx, cancel := context.WithTimeoutCause(ctx, idleKnow, fmt.Errorf("%s does not know of the client's connection", n.Name))
	defer cancel()
	for {
		st, err := pair.Status(ctx, n)
		if err == nil && slices.ContainsFunc(st.Identities, func(i control.Identity) bool { return i.Name == id.Name && i.Tickle != nil && i.Tickle.Known > 0 }) {
			return nil
		}
		if err := pair.Pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// flipOf is when a node became the owner.
func flipOf(ctx context.Context, n *lab.Node, id lab.Identity) (int64, error) {
	st, err := pair.Status(ctx, n)
	if err != nil {
		return 0, err
	}
	for _, i := range st.Identities {
		if i.Name == id.Name && i.Takeover != nil {
			return i.Takeover.Timeline.AtNS + i.Takeover.Timeline.FlipUS*1000, nil
		}
	}
	return 0, fmt.Errorf("%s tells of no takeover of %s", n.Name, id.Name)
}
