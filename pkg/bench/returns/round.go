// SPDX-License-Identifier: Apache-2.0

package returns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	patience  = 90 * time.Second // for anything to come about
	pollEvery = 10 * time.Millisecond
	someWords = 20 // that the other node writes before the home comes back
)

// What a return is at when it is hit.
const (
	coming   = "the home came back"
	copying  = "data was copied to it"
	giving   = "it was given back, services running"
	off      = "the service was off on both nodes"
	returned = "the service ran at home"
)

var everyPhase = []string{coming, copying, giving, off, returned}

// await returns when f has nothing to say any more.
func await(ctx context.Context, what string, f func() (missing string)) error {
	for deadline := time.Now().Add(patience); ; {
		missing := f()
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %s", what, patience, missing)
		}
		if err := pair.Pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// round is one return. What went wrong with the data is no error.
func (c *campaign) round(ctx context.Context, r Round) (Round, error) {
	if err := await(ctx, "all at home", func() string { return c.missing(ctx) }); err != nil {
		return r, err
	}
	r.beganNs = lab.NowNs()
	began, err := c.starts()
	if err != nil {
		return r, err
	}
	if err := c.fail(ctx, &r); err != nil {
		return r, err
	}
	if err := c.hit(ctx, &r); err != nil {
		return r, err
	}
	if err := await(ctx, "all at home", func() string { return c.missing(ctx) }); err != nil {
		return r, err
	}
	r.TookNs = lab.NowNs() - r.beganNs
	if err := c.same(ctx); err != nil {
		r.Wrong = append(r.Wrong, err.Error())
	}
	return r, c.judged(&r, len(began))
}

// missing is what both nodes lack until each identity is served at home, the service runs there alone, and
// the other node could take over.
func (c *campaign) missing(ctx context.Context) string {
	missing, err := pair.Settle(ctx, c.Lab)
	switch {
	case err != nil:
		return err.Error()
	case missing == "" && c.Peer(home).ServiceRuns("filesd"):
		return "the service runs on " + c.Peer(home).Name
	}
	return missing
}

// fail has the home fail, until the other node serves and has written.
func (c *campaign) fail(ctx context.Context, r *Round) error {
	if _, err := c.Inject(ctx, r.First, files); err != nil {
		return err
	}
	other := c.Peer(home)
	return await(ctx, other.Name+" serves and writes", func() string {
		if !other.ServiceRuns("filesd") {
			return "the service does not run"
		}
		if n := words(other); n < someWords {
			return fmt.Sprintf("%d words are written", n)
		}
		return ""
	})
}

// words is how many a node has.
func words(n *lab.Node) int {
	b, err := os.ReadFile(filepath.Join(n.Srv(), "words"))
	if err != nil {
		return 0 // it has none yet
	}
	return bytes.Count(b, []byte("\n"))
}

// hit has the home come back and its services given back, and hits that with the second fault.
func (c *campaign) hit(ctx context.Context, r *Round) error {
	if err := c.Heal(ctx, r.First, files); err != nil {
		return err
	}
	asking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pair.Pause(asking, pollEvery) == nil {
			_ = pair.Giveback(asking, c.Node(home), files.Name) // refused until the home is fit for it
		}
	}()
	defer func() { stop(); <-done }()
	back := lab.NowNs()
	err := await(ctx, string(r.Moment), func() string {
		phase, err := c.phase(ctx, back)
		if err != nil {
			return err.Error()
		}
		if slices.Index(everyPhase, phase) < slices.Index(moments, r.Moment) {
			return phase
		}
		return ""
	})
	if err != nil {
		return err
	}
	if err := pair.Pause(ctx, time.Duration(r.AfterNs)); err != nil {
		return err
	}
	if r.Phase, err = c.phase(ctx, back); err != nil {
		return err
	}
	if _, err := c.Inject(ctx, r.Second, r.At); err != nil && !errors.Is(err, lab.ErrNothingToBreak) {
		return err
	}
	if err := pair.Pause(ctx, time.Duration(r.LastsNs)); err != nil {
		return err
	}
	return c.Heal(ctx, r.Second, r.At)
}

// phase is what a return is at that began at a time; each is one of the moments.
func (c *campaign) phase(ctx context.Context, back int64) (string, error) {
	all, err := c.starts()
	if err != nil {
		return "", err
	}
	last := all[len(all)-1]
	switch {
	case last.Node == home:
		return returned, nil
	case last.Left != nil:
		return off, nil
	case c.events.Count("hand-over", back, lab.NowNs()) > 0:
		return giving, nil
	}
	st, err := pair.Status(ctx, c.Node(home))
	if err != nil || len(st.Mirrors) == 0 {
		return coming, ctx.Err() // its daemon is not there yet
	}
	if m := st.Mirrors[0]; m.Direction == control.MirrorIn && (m.Running || m.LagS >= 0) {
		return copying, nil
	}
	return coming, nil
}

// same returns when both nodes have the same data, while the service writes nothing.
func (c *campaign) same(ctx context.Context) error {
	still := c.judge("still")
	if err := os.WriteFile(still, nil, 0o600); err != nil {
		return err
	}
	err := await(ctx, "the same data on both nodes", func() string {
		return difference(c.Nodes[0].Srv(), c.Nodes[1].Srv())
	})
	return errors.Join(err, os.Remove(still))
}

// difference names what two directories do not have alike; "" if there is nothing.
func difference(a, b string) string {
	one, err := contents(a)
	two, err2 := contents(b)
	if err := errors.Join(err, err2); err != nil {
		return err.Error()
	}
	for name := range one {
		if _, there := two[name]; !there || one[name] != two[name] {
			return name + " differs"
		}
	}
	if len(one) != len(two) {
		return fmt.Sprintf("%d files here, %d there", len(one), len(two))
	}
	return ""
}

// contents are a directory's files.
func contents(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err // a copy is under way: it is looked again
		}
		all[e.Name()] = string(b)
	}
	return all, nil
}

// judged looks at each start of a round.
func (c *campaign) judged(r *Round, first int) error {
	all, err := c.starts()
	if err != nil {
		return err
	}
	for i := max(first, 1); i < len(all); i++ {
		s, last := all[i], all[i-1]
		handed := c.handed(s)
		r.Starts++
		switch {
		case handed:
			r.Handed++
		case s.Node != last.Node:
			r.Taken++
		}
		if why := wrong(s, all[:i], handed); why != "" {
			r.Wrong = append(r.Wrong, why)
		}
	}
	return nil
}

// handed reports whether a node that started the service had got the identity by a planned hand-over.
func (c *campaign) handed(s *start) bool {
	return slices.ContainsFunc(c.events.From(0), func(e control.Event) bool {
		return e.Kind == "hand-over-in" && e.Node == s.Node && e.Identity == files.Name && strings.HasSuffix(e.Text, fmt.Sprintf(" at generation %d", s.Generation))
	})
}
