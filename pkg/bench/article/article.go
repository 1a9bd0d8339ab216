// SPDX-License-Identifier: Apache-2.0

package article

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Faults are those that are injected at each node in turn.
var Faults = []lab.Fault{lab.FaultPower, lab.FaultHang, lab.FaultDaemonStop, lab.FaultLAN}

// Options of a run.
type Options struct {
	Executable string // xdpha, an absolute path
	Example    string // the example's folder
	Faults     []lab.Fault
	Progress   func(string) // told of every step
}

// scene is the lab with the article's cluster in it.
type scene struct {
	*lab.Lab
	opt       Options
	cfg       *config.Config
	secret    []byte
	exclusive []string // services that must run once
	page      string   // what the web site's first page holds
	readme    string   // and the one file to download
	clients   []*client
	events    *pair.Events
}

// Run plays the scene, and writes what the clients saw.
func Run(ctx context.Context, w io.Writer, o Options) (r Report, err error) {
	l, err := lab.New(ctx, lab.Options{Executable: o.Executable})
	if err != nil {
		return r, err
	}
	s := &scene{Lab: l, opt: o}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := s.prepare(); err != nil {
		return r, err
	}
	s.tell("starting xdpha and %d services on serv1 and serv2", len(s.cfg.Services))
	for _, n := range s.Nodes {
		if err := s.start(n); err != nil {
			return r, err
		}
	}
	s.events = pair.Follow(ctx, l)
	defer s.events.Stop()
	for _, id := range lab.Identities { // the first daemon to run may have taken all
		if err := s.orderHome(ctx, id); err != nil {
			return r, err
		}
	}
	return s.play(ctx, w)
}

func (s *scene) prepare() error {
	if err := s.readExample(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.clientDir(), 0o700); err != nil {
		return err
	}
	return s.install()
}

// readExample makes of the example what is known of it here: its services and their clients.
func (s *scene) readExample() error {
	key := make([]byte, 32)
	rand.Read(key)
	s.secret = []byte(hex.EncodeToString(key) + "\n")
	cfg, err := config.Load(filepath.Join(s.opt.Example, configPath), config.Options{Node: lab.Serv1, ReadFile: func(string) ([]byte, error) { return bytes.Clone(s.secret), nil }})
	if err != nil {
		return err
	}
	s.cfg = cfg
	for _, v := range cfg.Services {
		if !v.Concurrent {
			s.exclusive = append(s.exclusive, v.Name)
		}
	}
	for path, content := range map[string]*string{"srv/www/index.html": &s.page, "srv/ftp/README": &s.readme} {
		b, err := os.ReadFile(filepath.Join(s.opt.Example, path))
		if err != nil {
			return err
		}
		*content = string(b)
	}
	return s.newClients()
}

// locks is the directory with a lock of each service that must run once.
func (s *scene) locks() string { return filepath.Join(s.Dir, "locks") }

// clientDir is where clients keep their files.
func (s *scene) clientDir() string { return filepath.Join(s.Dir, "client") }

func (s *scene) tell(format string, args ...any) {
	if s.opt.Progress != nil {
		s.opt.Progress(fmt.Sprintf(format, args...))
	}
}

// play has the clients at work while one thing after the other breaks.
func (s *scene) play(ctx context.Context, w io.Writer) (r Report, err error) {
	working, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, c := range s.clients {
		wg.Go(func() { c.run(working) })
	}
	defer wg.Wait()
	defer stop()
	for _, kind := range s.opt.Faults {
		for _, id := range lab.Identities {
			if err := s.soundRound(ctx, w, &r, kind, id); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// maxVoid is how often a round may begin anew because something moved unasked.
const maxVoid = 3

// soundRound has rounds until one counts.
func (s *scene) soundRound(ctx context.Context, w io.Writer, r *Report, kind lab.Fault, id lab.Identity) error {
	for range maxVoid {
		round, err := s.round(ctx, kind, id)
		if err != nil {
			return err
		}
		if err := round.print(w); err != nil {
			return err
		}
		r.Rounds = append(r.Rounds, round)
		if !round.Void {
			return nil
		}
	}
	return fmt.Errorf("%s at %s: identities moved unasked in all of %d rounds: this machine is too busy", kind, id.Home, maxVoid)
}

const (
	patience  = 90 * time.Second // for the pair to be whole, every service up and every client served
	pollEvery = 50 * time.Millisecond
	inARow    = 3               // right answers after which a client is served
	rest      = 4 * time.Second // of the clients, before a fault
)

// await returns when f has nothing to say any more.
func (s *scene) await(ctx context.Context, what string, f func() (missing string)) error {
	for deadline := time.Now().Add(patience); ; {
		missing := f()
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not after %s: %s%s", what, patience, missing, s.logs())
		}
		if err := pair.Pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// logs are the last lines of what the daemons and the services printed.
func (s *scene) logs() string {
	text := pair.Logs(s.Lab)
	for _, n := range s.Nodes {
		names, _ := filepath.Glob(onDisk(n, "/var/log/*.log")) // the pattern is good
		for _, name := range names {
			b, err := os.ReadFile(name)
			if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); err == nil && len(b) > 0 {
				text += fmt.Sprintf("\n%s on %s:\n%s", filepath.Base(name), n.Name, strings.Join(lines[max(0, len(lines)-5):], "\n"))
			}
		}
	}
	return text
}

// atRest says who owns what, or what is missing until both nodes agree on that, all services run where
// they should, and each node is ready to take over from the other.
func (s *scene) atRest(ctx context.Context) (owners map[string]string, missing string) {
	if err := pair.Ended(s.Lab); err != nil {
		return nil, err.Error()
	}
	st, err := pair.Status(ctx, s.Nodes[0])
	if err != nil {
		return nil, err.Error()
	}
	owners = map[string]string{}
	for _, id := range st.Identities {
		owners[id.Name] = id.Owner
	}
	for _, n := range s.Nodes {
		if missing := s.missing(ctx, n, func(id lab.Identity) string { return owners[id.Name] }, true); missing != "" {
			return owners, missing
		}
	}
	return owners, ""
}

// missing is what a node lacks until it owns what owner says, and all its services run.
func (s *scene) missing(ctx context.Context, n *lab.Node, owner func(lab.Identity) string, withPeer bool) string {
	st, err := pair.Status(ctx, n)
	if err != nil {
		return fmt.Sprintf("%s does not answer: %v", n.Name, err)
	}
	if withPeer && st.Peer.State != "up" {
		return fmt.Sprintf("%s sees its peer %s", n.Name, st.Peer.State)
	}
	wanted := map[string]bool{}
	for i, id := range lab.Identities {
		got := st.Identities[i]
		here := owner(id) == n.Name
		switch {
		case got.Owner != owner(id):
			return fmt.Sprintf("%s sees %s owned by %q", n.Name, id.Name, got.Owner)
		case here && got.Gate != "open":
			return fmt.Sprintf("%s has the gate of %s closed: %s", n.Name, id.Name, got.Reason)
		case !here && withPeer && !got.Armed:
			return fmt.Sprintf("%s is not ready to take %s: %s", n.Name, id.Name, got.Reason)
		}
		for _, v := range s.cfg.Identities[i].Services {
			wanted[v] = here
		}
	}
	for _, v := range st.Services {
		here, exclusive := wanted[v.Name]
		if up := v.State == "up"; up != (here || !exclusive) {
			return fmt.Sprintf("%s on %s is %s: %s", v.Name, n.Name, v.State, v.Reason)
		}
	}
	return ""
}

// awaitServed returns when every client got right answers to what it asked after a time.
func (s *scene) awaitServed(ctx context.Context, sinceNs int64) error {
	return s.await(ctx, "every client served", func() string {
		for _, c := range s.clients {
			if n, why := c.servedSince(sinceNs); n < inARow {
				return fmt.Sprintf("%s: %d right answers in a row, the last trouble was: %v", c, n, why)
			}
		}
		return ""
	})
}
