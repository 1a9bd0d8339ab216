// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// rig is a manager whose services write what they do to files in dir.
type rig struct {
	*Manager
	t      *testing.T
	dir    string
	log    *buffer
	states chan State
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// shortLimit is for what must run into its time limit: long enough for a busy machine to come so far.
const shortLimit = 3 * time.Second

// svc is a service with short times; in its commands, $D is the rig's directory.
func svc(name string, change func(*config.Service)) config.Service {
	s := config.Service{
		Name:  name,
		Start: "echo start-$XDPHA_SERVICE >>$D/trace",
		Stop:  "echo stop-$XDPHA_SERVICE >>$D/trace",
		Every: 10 * time.Millisecond, Rise: 1, Fall: 2,
		Timeout: config.ServiceTimeout{Start: 10 * time.Second, Stop: 10 * time.Second, Check: 10 * time.Second},
		Restart: config.ServiceRestart{Within: time.Hour},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func newRig(t *testing.T, services ...config.Service) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &buffer{}, states: make(chan State, 10_000)}
	for i := range services {
		for _, c := range []*string{&services[i].Start, &services[i].Stop, &services[i].Check, &services[i].Promote, &services[i].Demote, &services[i].Process} {
			*c = strings.ReplaceAll(*c, "$D", r.dir)
		}
		if o := services[i].OCF; o != nil {
			for j := range o.Params {
				o.Params[j].Value = strings.ReplaceAll(o.Params[j].Value, "$D", r.dir)
			}
		}
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	r.Manager = New(services, r.dir, log, func(s State) { r.states <- s })
	r.Locks = r.dir
	t.Cleanup(func() {
		r.Close()
		for _, s := range services {
			if r.groups != nil { // what a service leaves running would outlive the test
				_ = r.groups.of(s.Name).end(t.Context())
			}
		}
	})
	return r
}

// until waits for a report that fits.
func (r *rig) until(name string, p Phase) State {
	r.t.Helper()
	return r.untilFunc(fmt.Sprint(name, " ", p), func(s State) bool { return s.Service == name && s.Phase == p })
}

func (r *rig) untilFunc(what string, fits func(State) bool) State {
	r.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		select {
		case s := <-r.states:
			if fits(s) {
				return s
			}
		case <-patience:
			r.t.Fatalf("no report of %s; states %+v\n%s", what, r.States(), r.log)
		}
	}
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) []string {
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// word is the first one of a file that a command must have written by now.
func (r *rig) word(name string) string {
	r.t.Helper()
	words := r.read(name)
	if len(words) == 0 {
		r.t.Fatalf("nothing has written to %s\n%s", name, r.log)
	}
	return words[0]
}

func (r *rig) fifo(name string) {
	r.t.Helper()
	if err := syscall.Mkfifo(filepath.Join(r.dir, name), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// await waits for a line that a command writes to a fifo.
func (r *rig) await(name string) string {
	r.t.Helper()
	got := make(chan string, 1)
	go func() {
		b, _ := os.ReadFile(filepath.Join(r.dir, name))
		got <- strings.TrimSpace(string(b))
	}()
	select {
	case s := <-got:
		return s
	case <-time.After(30 * time.Second):
		r.t.Fatalf("nothing written to %s\n%s", name, r.log)
		return ""
	}
}

func (r *rig) phase(name string) Phase {
	s, _ := r.State(name)
	return s.Phase
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
}
