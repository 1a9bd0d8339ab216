// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Report is what was seen of all faults.
type Report struct {
	Rounds []Round
}

// Good reports whether everything was as it should be.
func (r Report) Good() bool {
	for _, v := range r.Rounds {
		if len(v.Wrong) > 0 && !v.Void {
			return false
		}
	}
	return len(r.Rounds) > 0 && !r.Rounds[len(r.Rounds)-1].Void
}

// Round is one fault at one node.
type Round struct {
	Fault lab.Fault
	Node  string
	Rows  []Row
	Notes []string
	Wrong []string
	Void  bool // something moved that nothing was done to
}

// Row is what one client saw of it.
type Row struct {
	Service, Address string
	OutageNs, RestNs int64 // the longest time between two right answers: from the fault on, and before it
	Failed           int   // requests, meanwhile
	ServedBy         string
	Data             string // what was there before it and is there after it; empty: it has none of its own
}

func (r *Round) wrong(format string, args ...any) {
	r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
}

func (r *Round) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// owners are who must serve what with a fault at an identity's home: the other node all of it, but for a
// lost LAN cable, which the home's spare NIC makes up for.
func (s *scene) owners(kind lab.Fault, broken lab.Identity) func(lab.Identity) string {
	return func(id lab.Identity) string {
		if kind == lab.FaultLAN {
			return id.Home
		}
		return s.Peer(broken.Home).Name
	}
}

// round breaks a node, looks until everything is served all the same, mends it and gives back.
func (s *scene) round(ctx context.Context, kind lab.Fault, id lab.Identity) (r Round, err error) {
	r = Round{Fault: kind, Node: id.Home}
	s.tell("%s at %s: all is at home", kind, id.Home)
	began := lab.NowNs()
	if err := s.awaitServed(ctx, began); err != nil {
		return r, s.told(began, err)
	}
	calm := lab.NowNs()
	if err := errors.Join(pair.Pause(ctx, rest), s.promise(ctx, &r, id, s.Node(id.Home))); err != nil {
		return r, s.told(began, err)
	}
	s.tell("%s at %s: it breaks now", kind, id.Home)
	t0, err := s.breakIt(ctx, &r, kind, id, calm)
	if err != nil {
		return r, s.told(began, err)
	}
	s.tell("%s at %s: all is served; mending it", kind, id.Home)
	healing := lab.NowNs()
	if err := s.Heal(ctx, kind, id); err != nil {
		return r, err
	}
	unasked := func() bool { return s.movedUnasked(id, began, t0, healing) }
	if err := s.bringHome(ctx, &r, unasked); err != nil {
		return r, s.told(began, err)
	}
	s.checkOnce(&r)
	r.Void = r.Void || unasked()
	return r, nil
}

// movedUnasked reports whether an identity moved that nothing was done to: if the machine stands still
// for longer than dead_after, or a daemon does not come to run, a node cannot tell that from a fault.
// Such a round says nothing.
func (s *scene) movedUnasked(id lab.Identity, began, t0, healing int64) bool {
	for _, e := range s.events.From(began) {
		unplanned := e.Kind == "takeover" || e.Kind == "stand-down"
		if unplanned && (e.TimeNS < t0 || e.TimeNS >= healing || e.Node == id.Home) {
			return true
		}
	}
	return false
}

// breakIt injects a fault, and looks at what is then.
func (s *scene) breakIt(ctx context.Context, r *Round, kind lab.Fault, id lab.Identity, calm int64) (t0 int64, err error) {
	judge, err := s.judge(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, judge.end(r)) }()
	if t0, err = s.Inject(ctx, kind, id); err != nil {
		return t0, err
	}
	if err := s.awaitTaken(ctx, s.owners(kind, id)); err != nil {
		return t0, err
	}
	taken := lab.NowNs()
	if err := s.awaitServed(ctx, taken); err != nil {
		return t0, err
	}
	s.rows(r, calm, t0, s.owners(kind, id))
	s.checkOnce(r)
	return t0, errors.Join(s.checkNames(ctx, r), s.checkData(ctx, r, id, taken))
}

// awaitTaken returns when everything is served by who must.
func (s *scene) awaitTaken(ctx context.Context, owner func(lab.Identity) string) error {
	for _, id := range lab.Identities {
		n := s.Node(owner(id))
		err := s.await(ctx, n.Name+" serves what it must", func() string { return s.missing(ctx, n, owner, false) })
		if err != nil {
			return err
		}
	}
	return nil
}

// bringHome gives back what is away as soon as its home is fit and has its data.
func (s *scene) bringHome(ctx context.Context, r *Round, unasked func() bool) error {
	for {
		away, err := s.away(ctx)
		if err != nil || len(away) == 0 {
			return err
		}
		if r.Void = r.Void || unasked(); r.Void {
			for _, b := range s.books(nil) {
				b.forget(lab.NowNs())
			}
		}
		if err := s.giveBack(ctx, r, away[0]); err != nil {
			return err
		}
	}
}

// away returns which identities are not at home, once both nodes are at rest.
func (s *scene) away(ctx context.Context) (away []lab.Identity, err error) {
	err = s.await(ctx, "both nodes are up and at rest", func() string {
		owners, missing := s.atRest(ctx)
		away = nil
		for _, id := range lab.Identities {
			if owners[id.Name] != id.Home {
				away = append(away, id)
			}
		}
		return missing
	})
	return away, err
}

// giveBack brings an identity home, while its clients go on writing, and then looks whether all that they had
// written came with it.
func (s *scene) giveBack(ctx context.Context, r *Round, id lab.Identity) error {
	s.tell("%s: it is given back to %s, with its data", id.Name, id.Home)
	began := lab.NowNs()
	if err := s.orderHome(ctx, id); err != nil {
		return err
	}
	back := lab.NowNs()
	if err := s.awaitServed(ctx, back); err != nil {
		return err
	}
	s.noteSilence(r, id, began)
	return s.eachBook(ctx, id, func(b *ledger, got map[string]string, readNs int64) {
		if _, total, lost := b.check(got, readNs, b.service != "smtp", false); len(lost) > 0 {
			r.wrong("%s: %d of %d lost by the give-back: %s", b.service, len(lost), total, some(lost))
		}
	})
}

// noteSilence notes for how long an identity's services that run once were not there, as their clients saw it.
func (s *scene) noteSilence(r *Round, id lab.Identity, since int64) {
	var words []string
	for _, c := range s.clients {
		if c.at.Name == id.Name && slices.Contains(s.exclusive, c.service) {
			words = append(words, c.service+" "+seconds(c.look(since, lab.NowNs()).gapNs))
		}
	}
	r.note("%s was given back; longest time between two right answers meanwhile: %s", id.Name, strings.Join(words, ", "))
}

// orderHome orders an identity home, if it is not there, until it is.
func (s *scene) orderHome(ctx context.Context, id lab.Identity) error {
	return s.await(ctx, id.Name+" is at home", func() string {
		owners, missing := s.atRest(ctx)
		if missing == "" && owners[id.Name] != id.Home {
			missing = fmt.Sprintf("%s owns it; the order: %v", owners[id.Name], s.order(ctx, s.Node(id.Home), "giveback", id.Name))
		}
		return missing
	})
}

// order has a node's administrator run a command of xdpha.
func (s *scene) order(ctx context.Context, n *lab.Node, args ...string) error {
	_, err := s.programOn(ctx, n.Name, "", s.opt.Executable, append([]string{"--run-dir", n.RunDir}, args...)...)
	return err
}

// checkNames looks at the name of what runs on both nodes: each name server knows both addresses, and
// both addresses answer, with one node dead too.
func (s *scene) checkNames(ctx context.Context, r *Round) error {
	for _, id := range lab.Identities {
		addresses, err := s.resolve(ctx, id.Addr.String(), roundRobin)
		if err != nil || strings.Join(addresses, " ") != bothAddresses() {
			r.wrong("%s has the addresses %v at %s (%v)", roundRobin, addresses, id.Addr, err)
		}
		for _, a := range addresses {
			if got, err := s.curl(ctx, "-m", "2", "-H", "Host: "+roundRobin, "http://"+a+"/"); err != nil || got != s.page {
				r.wrong("%s does not answer at %s: %v", roundRobin, a, err)
			}
		}
	}
	r.note("%s has the addresses %s at both name servers; each answers", roundRobin, bothAddresses())
	return ctx.Err()
}

// rows are what the clients saw from a fault until now.
func (s *scene) rows(r *Round, calm, t0 int64, owner func(lab.Identity) string) {
	now := lab.NowNs()
	for _, c := range s.clients {
		before, after := c.look(calm, t0), c.look(t0, now)
		by, err := s.servedBy(c.at)
		if err != nil {
			r.wrong("%v", err)
		}
		r.Rows = append(r.Rows, Row{Service: c.service, Address: c.addr(), OutageNs: after.gapNs, RestNs: before.gapNs, Failed: after.failed, ServedBy: by})
		if want := owner(c.at); by != want {
			r.wrong("%s is served by %q, not by %s", c, by, want)
		}
	}
}

// servedBy is the node from which the switches saw the identity's MAC last.
func (s *scene) servedBy(id lab.Identity) (node string, err error) {
	for i, v := range lab.Identities {
		if v.Name != id.Name {
			continue
		}
		all, err := s.Sightings(i)
		if err != nil {
			return "", err
		}
		last := int64(0)
		for _, at := range all {
			if at.LastNs > last {
				last, node = at.LastNs, at.Port.Node
			}
		}
	}
	return node, nil
}

// told adds to an error what the daemons told since a fault.
func (s *scene) told(t0 int64, err error) error {
	text := ""
	for _, e := range s.events.From(t0) {
		text += fmt.Sprintf("\n%+11.3f ms  %s  %s %s: %s", float64(e.TimeNS-t0)/1e6, e.Node, e.Kind, e.Identity, e.Text)
	}
	return fmt.Errorf("%w\nwhat the daemons told since the fault:%s", err, text)
}
