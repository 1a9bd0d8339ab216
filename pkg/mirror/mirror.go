// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
)

// Options are what New needs.
type Options struct {
	Config   *config.Config
	Line     *line.Line
	StateDir string
	RunDir   string
	Program  string // this program: rsync calls it with PipeCommand
	Log      *slog.Logger
	// Changed is called when a set's run fails after one that did not, or succeeds after one that
	// failed. It must not block, and not wait for the manager.
	Changed func(State)
}

// Manager keeps one node's sets.
type Manager struct {
	Options
	shell  string
	memory *memory
	sets   map[string]*set
	names  []string    // of the sets, in configuration order
	ended  atomic.Bool // nothing is begun any more
}

// New returns a manager whose sets rest until Follow tells whose they are. What the peer sends comes by the line.
func New(o Options) (*Manager, error) {
	m := &Manager{Options: o, sets: map[string]*set{}}
	var err error
	if m.shell, err = shell(o.Program); err != nil {
		return nil, err
	}
	if m.memory, err = openMemory(o.StateDir); err != nil {
		return nil, err
	}
	for i := range o.Config.Mirrors {
		cfg := &o.Config.Mirrors[i]
		for _, path := range cfg.Paths {
			for _, own := range []string{o.StateDir, o.RunDir} {
				if meets(path, own) {
					return nil, fmt.Errorf("mirror set %s: %s and the daemon's own directory %s meet: write another path, or give another directory", cfg.Name, path, own)
				}
			}
		}
		m.sets[cfg.Name] = newSet(m, cfg)
		m.names = append(m.names, cfg.Name)
	}
	o.Line.Handle(protocol, m.hear)
	return m, nil
}

func meets(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// Run ends every run when ctx ends, here and there.
func (m *Manager) Run(ctx context.Context) {
	<-ctx.Done()
	m.rest()
}

// rest ends all runs.
func (m *Manager) rest() {
	m.ended.Store(true)
	for _, name := range m.names {
		_ = m.sets[name].follow(0, None) // generation 0 is never higher
	}
}

// Role is what a node has to do with an identity's sets.
type Role uint8

// The roles.
const (
	None    Role = iota // neither sends nor receives
	Owner               // sends
	Standby             // receives
)

// ErrStale is wrapped by Follow's error if the generation is lower than one that was seen already.
var ErrStale = errors.New("a higher generation is known")

// Follow tells the role for an identity's sets, and at which generation somebody owns it. When it
// returns, nothing writes here any more for a lower generation, nor for any if the role is not
// Standby, and nothing is sent for another. An error says what could not be made sure of; the role
// is in force all the same, but for ErrStale. To repeat it changes nothing, but tries again at once
// what failed before.
func (m *Manager) Follow(identity string, generation uint64, role Role) error {
	var errs []error
	for _, id := range m.Config.Identities {
		if id.Name != identity {
			continue
		}
		for _, name := range id.Mirror {
			if err := m.sets[name].follow(generation, role); err != nil {
				errs = append(errs, fmt.Errorf("mirror set %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Alone notes that this node owns an identity at a generation, and may write, while the other one is away: a copy
// from before, or data that was gone on from it, does not hold that. The next run compares all.
func (m *Manager) Alone(identity string, generation uint64) error {
	var errs []error
	for _, id := range m.Config.Identities {
		if id.Name != identity {
			continue
		}
		for _, name := range id.Mirror {
			errs = append(errs, m.sets[name].alone(generation))
		}
	}
	return errors.Join(errs...)
}

// SyncNow copies all of a set that this node owns, begun after the call, and returns what it did. If
// it returns without an error, the other node has all of it on disk as it was at some time after the
// call. When ctx ends first, the run ends too.
func (m *Manager) SyncNow(ctx context.Context, name string) (Stats, error) {
	return m.order(ctx, name, kindFull)
}

// Estimate is SyncNow that changes nothing: Copied, CopiedBytes and Deleted are what it would do.
func (m *Manager) Estimate(ctx context.Context, name string) (Stats, error) {
	return m.order(ctx, name, kindDry)
}

// AskPeer asks the other node what its data of an identity's sets has gone through: State.Whole says what follows.
func (m *Manager) AskPeer(ctx context.Context, identity string) error {
	for _, id := range m.Config.Identities {
		if id.Name != identity {
			continue
		}
		for _, name := range id.Mirror {
			conn, a, err := m.ask(ctx, hello{Kind: kindWhose, Set: name})
			if err != nil {
				return fmt.Errorf("mirror set %s: %w", name, err)
			}
			conn.Close()
			m.sets[name].told(a.Past)
		}
	}
	return nil
}

func (m *Manager) order(ctx context.Context, name string, k kind) (Stats, error) {
	s, ok := m.sets[name]
	if !ok {
		return Stats{}, fmt.Errorf("no mirror set is named %q", name)
	}
	stats, err := s.order(ctx, k)
	if err != nil {
		return stats, fmt.Errorf("mirror set %s: %w", name, err)
	}
	return stats, nil
}

// States returns all sets' states, in configuration order.
func (m *Manager) States() []State {
	states := make([]State, 0, len(m.names))
	for _, name := range m.names {
		states = append(states, m.sets[name].view())
	}
	return states
}

func (m *Manager) self() string { return m.Config.Nodes[m.Config.Self].Name }
func (m *Manager) peer() string { return m.Config.Nodes[m.Config.Peer()].Name }

// ownerOf is the node of a pair that owns at a generation: they are even on the first node, odd on the second.
func ownerOf(generation uint64) int { return int(generation & 1) }

func (m *Manager) stateFile(name string) string { return filepath.Join(m.StateDir, name) }
