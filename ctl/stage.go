// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// How long a demo waits. The client's own record decides what is measured; these
// only bound it.
const (
	readyTimeout  = 30 * time.Second
	warmUp        = 300 * time.Millisecond // the client, before the fault
	settle        = 700 * time.Millisecond // services and late answers, after the last change
	switchTimeout = 15 * time.Second       // until the other node answers
	pollEvery     = 100 * time.Millisecond

	shownEvents = 10 // below the picture
)

// stage is one run of the demo, and what can be seen of it meanwhile.
type stage struct {
	plan  demoPlan
	title string
	say   func(line string) // told of every step; nil: nobody listens

	mu    sync.Mutex
	scene scene
	seen  map[eventKey]bool
	all   []control.Event
	probe *lab.Prober
	ended int64 // when the client stopped asking; 0: not yet
}

type eventKey struct {
	node string
	seq  uint64
	ns   int64
}

func newStage(p demoPlan) *stage {
	return &stage{plan: p, seen: map[eventKey]bool{}, scene: scene{plan: p, nodes: map[string]nodeView{}}}
}

// step tells of a new phase.
func (s *stage) step(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.scene.phase = text
	s.mu.Unlock()
	if s.say != nil {
		s.say(text)
	}
}

// look returns what can be seen now.
func (s *stage) look() scene {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.scene
	v.title = s.title
	v.nodes = maps.Clone(s.scene.nodes)
	v.events = slices.Clone(s.all[max(0, len(s.all)-shownEvents):])
	slices.SortStableFunc(v.events, func(a, b control.Event) int { return cmp.Compare(a.TimeNS, b.TimeNS) })
	v.nowNs = lab.NowNs()
	if s.probe != nil {
		v.client = s.probe.Live()
	}
	if s.ended != 0 {
		v.nowNs = s.ended
	}
	return v
}

var errInterrupted = errors.New("interrupted; the cluster is removed")

// run builds a cluster, breaks it, and says what was seen. All of it is gone
// when run returns.
func (s *stage) run(outer context.Context) (_ demoResult, err error) {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	s.step("building two nodes, two switches, a crossover cable and a client")
	l, err := lab.New(ctx, lab.Options{HandOver: moveAway})
	if err != nil {
		return demoResult{}, err
	}
	defer func() {
		if outer.Err() != nil {
			err = errInterrupted // whatever else failed, failed because of that
		}
		err = errors.Join(err, l.Close())
	}()
	defer cancel() // the followers go before the lab does
	if err := l.WriteConfig(lab.Scene{Profile: s.plan.profile, Staging: s.plan.staging}); err != nil {
		return demoResult{}, err
	}
	cfg, err := config.Load(l.ConfigPath(), config.Options{Node: lab.Serv1})
	if err != nil {
		return demoResult{}, err
	}
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	if err := s.startNodes(ctx, l, &watchers); err != nil {
		return demoResult{}, err
	}
	return s.measure(ctx, l, cfg.Timing)
}

// moveAway is the lab's planned hand-over.
func moveAway(ctx context.Context, n *lab.Node, identity string) error {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	return c.Move(ctx, identity, "", false)
}

func (s *stage) startNodes(ctx context.Context, l *lab.Lab, watchers *sync.WaitGroup) error {
	s.step("starting xdpha on serv1 and serv2")
	for _, n := range l.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
		watchers.Go(func() { s.followEvents(ctx, n) })
		watchers.Go(func() { s.followStatus(ctx, n) })
	}
	s.step("waiting until each node covers the other")
	return s.awaitReady(ctx, l)
}

// followEvents gathers a node's events, also over restarts of its daemon.
func (s *stage) followEvents(ctx context.Context, n *lab.Node) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	for every(ctx, pollEvery) {
		// An end is no news: the daemon may be down because the demo took it down.
		_ = c.Events(ctx, 0, true, func(e control.Event) error { s.note(e); return nil })
	}
}

// note keeps an event once.
func (s *stage) note(e control.Event) {
	key := eventKey{e.Node, e.Seq, e.TimeNS}
	s.mu.Lock()
	known := s.seen[key]
	s.seen[key] = true
	t0 := s.scene.t0
	if !known {
		s.all = append(s.all, e)
	}
	s.mu.Unlock()
	if !known && s.say != nil && t0 != 0 && e.TimeNS >= t0 {
		s.say(fmt.Sprintf("%10.3f ms  %-6s %s", float64(e.TimeNS-t0)/1e6, e.Node, eventWords(e)))
	}
}

// followStatus keeps the picture of a node up to date.
func (s *stage) followStatus(ctx context.Context, n *lab.Node) {
	c := control.NewClient(n.RunDir)
	defer c.Close()
	for every(ctx, pollEvery) {
		short, cancel := context.WithTimeout(ctx, 5*pollEvery)
		st, err := c.Status(short)
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		v := s.scene.nodes[n.Name]
		v.answers = err == nil
		if err == nil {
			v.status = st
		}
		s.scene.nodes[n.Name] = v
		s.mu.Unlock()
	}
}

// every waits for the next turn; false when ctx has ended.
func every(ctx context.Context, d time.Duration) bool {
	return pause(ctx, d) == nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stage) awaitReady(ctx context.Context, l *lab.Lab) error {
	missing := "nothing is known yet"
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); {
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
		if missing = notReady(s.look().nodes); missing == "" {
			return nil
		}
		for _, n := range l.Nodes {
			if !n.Alive() {
				return fmt.Errorf("start the cluster: the daemon of %s ended; its output:\n%s", n.Name, n.Tail(20))
			}
		}
	}
	var logs strings.Builder
	for _, n := range l.Nodes {
		fmt.Fprintf(&logs, "\noutput of %s:\n%s", n.Name, n.Tail(20))
	}
	return fmt.Errorf("start the cluster: not ready after %s: %s%s", readyTimeout, missing, logs.String())
}

// notReady says what is missing until both nodes are up, own what is theirs and
// are ready to take the rest; "" if nothing is.
func notReady(nodes map[string]nodeView) string {
	for _, name := range []string{lab.Serv1, lab.Serv2} {
		v := nodes[name]
		if !v.answers {
			return name + " does not answer"
		}
		if v.status.Peer.State != control.PeerUp {
			return fmt.Sprintf("%s sees its peer %s", name, orDash(v.status.Peer.State))
		}
		if len(v.status.Identities) != len(lab.Identities) {
			return name + " does not know its identities"
		}
		for _, id := range v.status.Identities {
			switch {
			case id.Owner != id.Home:
				return fmt.Sprintf("%s sees %s owned by %s, not at home", name, id.Name, orNobody(id.Owner))
			case id.Home == name && id.Gate != control.GateOpen:
				return fmt.Sprintf("%s has the gate of %s closed: %s", name, id.Name, id.Reason)
			case id.Home != name && !id.Armed:
				return fmt.Sprintf("%s is not ready to take %s: %s", name, id.Name, id.Reason)
			}
		}
		for _, l := range v.status.Links {
			if !l.Up {
				return fmt.Sprintf("%s has not heard link %s", name, l.Name)
			}
		}
	}
	return ""
}

// measure lets the client ask, breaks what shall break, and looks.
func (s *stage) measure(ctx context.Context, l *lab.Lab, t config.Timing) (demoResult, error) {
	o := observation{plan: s.plan, lease: t.SupervisorLease, before: s.generation()}
	stopBusy, err := lab.KeepBusy(ctx, s.plan.busy*runtime.NumCPU())
	if err != nil {
		return demoResult{}, err
	}
	defer stopBusy()
	probe, err := l.StartProber(ctx, s.plan.identity.Addr, probeOptions(s.plan))
	if err != nil {
		return demoResult{}, err
	}
	s.mu.Lock()
	s.probe = probe
	s.mu.Unlock()
	stop := sync.OnceValue(probe.Stop)
	defer stop()
	s.step("the client asks %s (%s) every %s", s.plan.identity.Addr, s.plan.identity.Name, probePeriod(s.plan))
	if err := pause(ctx, warmUp); err != nil {
		return demoResult{}, err
	}
	if err := s.breakAndWatch(ctx, l, probe, &o); err != nil {
		return demoResult{}, err
	}
	s.mu.Lock()
	s.ended = lab.NowNs()
	s.mu.Unlock()
	o.client = lab.Analyze(stop(), lab.Window{})
	stopBusy()
	s.gather(ctx, l, &o)
	return judge(o), nil
}

func probePeriod(p demoPlan) time.Duration {
	if p.hold > time.Minute {
		return time.Millisecond // ten minutes at 100 µs would be a quarter of a gigabyte
	}
	return 100 * time.Microsecond
}

func probeOptions(p demoPlan) lab.ProbeOptions {
	return lab.ProbeOptions{Period: probePeriod(p), Expect: warmUp + p.hold + p.restartAfter + switchTimeout}
}

// generation is the identity's highest known to any node.
func (s *stage) generation() uint64 {
	var g uint64
	for _, v := range s.look().nodes {
		for _, id := range v.status.Identities {
			if id.Name == s.plan.identity.Name {
				g = max(g, id.Generation)
			}
		}
	}
	return g
}

func (s *stage) breakAndWatch(ctx context.Context, l *lab.Lab, probe *lab.Prober, o *observation) error {
	p := s.plan
	if p.fault == "" {
		o.t0 = lab.NowNs()
		s.setT0(o.t0)
		s.step("at rest for %s", p.hold)
		err := pause(ctx, p.hold)
		o.end = lab.NowNs()
		return err
	}
	s.step("%s at %s: %s", p.fault, p.identity.Home, faultTexts[p.fault])
	s.setT0(lab.NowNs())
	t0, err := l.Inject(ctx, p.fault, p.identity)
	if err != nil {
		return err
	}
	o.t0 = t0
	s.setT0(t0)
	if p.restartAfter > 0 {
		if err := pause(ctx, p.restartAfter); err != nil {
			return err
		}
		o.healed = lab.NowNs()
		if err := l.Heal(ctx, p.fault, p.identity); err != nil {
			return err
		}
		s.step("mended after %s", p.restartAfter)
		if err := pause(ctx, o.lease); err != nil { // what the fault had started has come to an end by then
			return err
		}
	}
	if want := expected(p, o.lease); want != p.identity.Home {
		wait, cancel := context.WithTimeoutCause(ctx, switchTimeout, fmt.Errorf("%s did not answer within %s", want, switchTimeout))
		err := probe.AwaitAnswer(wait, want, t0)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.step("%v", err) // the record says so too, and the run is judged by it
		}
	}
	err = pause(ctx, settle)
	o.end = lab.NowNs()
	return err
}

func (s *stage) setT0(t0 int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scene.t0 = t0
}

// gather asks the nodes that are left for what they know.
func (s *stage) gather(ctx context.Context, l *lab.Lab, o *observation) {
	for _, n := range l.Nodes {
		if !n.Alive() {
			continue
		}
		c := control.NewClient(n.RunDir)
		short, cancel := context.WithTimeout(ctx, time.Second)
		st, err := c.Status(short)
		if err == nil {
			_ = c.Events(short, 0, false, func(e control.Event) error { s.note(e); return nil }) // those that came while nobody read
		}
		cancel()
		c.Close()
		if err != nil {
			continue // a stopped daemon does not answer
		}
		for _, id := range st.Identities {
			if id.Name != s.plan.identity.Name {
				continue
			}
			o.after = max(o.after, id.Generation)
			if n.Name != id.Home {
				o.takeover = id.Takeover
			}
		}
	}
	o.after = max(o.after, o.before)
	s.mu.Lock()
	defer s.mu.Unlock()
	o.events = slices.Clone(s.all)
}
