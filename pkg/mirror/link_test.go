// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
)

func TestACutCrossoverIsReplacedByTheLanUntilItIsBack(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.flows(t, serv1Owns)
	for i, step := range []struct {
		up   bool
		link string
	}{{true, line.Crossover}, {false, line.Lan}, {true, line.Crossover}} {
		r.a.do("Cable", Cable{"crossover", step.up})
		name := fmt.Sprint("file", i)
		r.a.write(name, "x")
		// A cable that was plugged in needs a moment before it carries.
		eventually(t, fmt.Sprintf("crossover up %v: a run over the %s", step.up, step.link), func() bool {
			r.a.sync()
			return r.a.view().Link == step.link
		})
		if !r.b.has(name) {
			t.Errorf("over the %s nothing arrives", step.link)
		}
	}
	r.a.do("Cable", Cable{"crossover", false})
	r.a.do("Cable", Cable{"lan", false})
	if got := r.a.syncError(); !strings.Contains(got, "reach serv2") {
		t.Errorf("both cut: %q", got)
	}
}

func TestARunOnACableThatIsCutGoesOnElsewhere(t *testing.T) {
	r := slow(t)
	r.flows(t, serv1Owns)
	eventually(t, "a run over the crossover", func() bool { return r.b.unfinished() && r.a.view().Link == line.Crossover })
	r.a.do("Cable", Cable{"crossover", false})
	eventually(t, "a run over the lan", func() bool {
		v := r.a.view()
		return v.Running && v.Link == line.Lan && v.Progress.Bytes > 0 && r.b.unfinished()
	})
}

// A disk that hangs for a while is no cut cable: the other end answers, and takes nothing.
func TestAReceiverMayBeBusyForLongerThanACableMayBeCut(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.flows(t, serv1Owns)
	r.a.sync()
	r.a.write("huge", "")
	if err := os.Truncate(filepath.Join(r.a.data, "huge"), 64<<30); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.a.try("Sync", time.Minute, &Stats{}) }()
	eventually(t, "a run is under way", r.b.unfinished)
	r.b.do("SignalRsync", syscall.SIGSTOP)
	defer r.b.do("SignalRsync", syscall.SIGCONT)
	select {
	case err := <-ended:
		t.Errorf("the run has ended while the other end was busy: %v", err)
	case <-time.After(2 * line.UnackedTime):
	}
}

func TestAnotherSecretIsRefusedAndARotationIsNot(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.a.write("file", "x")
	r.b.follow(serv1Owns, Standby)
	r.b.do("Keys", []config.Key{key(2)})
	r.a.follow(serv1Owns, Owner)
	refuses(t, r.a, "copy the secret file")
	r.a.do("Keys", []config.Key{key(2)})
	r.b.do("Keys", []config.Key{key(1)})
	refuses(t, r.a, "copy the secret file")
	if r.b.has("file") {
		t.Fatal("it was written all the same")
	}
	for i, step := range []struct{ a, b []config.Key }{
		{[]config.Key{key(1), key(2)}, []config.Key{key(1)}},
		{[]config.Key{key(1), key(2)}, []config.Key{key(1), key(2)}},
		{[]config.Key{key(2), key(1)}, []config.Key{key(1), key(2)}},
		{[]config.Key{key(1), key(2)}, []config.Key{key(2), key(1)}},
		{[]config.Key{key(2), key(1)}, []config.Key{key(2), key(1)}},
		{[]config.Key{key(2)}, []config.Key{key(2), key(1)}},
		{[]config.Key{key(2)}, []config.Key{key(2)}},
	} {
		r.a.do("Keys", step.a)
		r.b.do("Keys", step.b)
		name := fmt.Sprint("file", i)
		r.a.write(name, "x")
		r.a.sync()
		if !r.b.has(name) {
			t.Errorf("step %d: not copied", i)
		}
	}
}

func TestGarbageOnThePortHoldsNothingUp(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.flows(t, serv1Owns)
	r.a.do("Address", "192.0.2.99/24")
	to := net.JoinHostPort("192.0.2.12", fmt.Sprint(line.Port))
	for name, talk := range map[string]Talk{
		"noise from the peer's address":     {From: "192.0.2.11", To: to, Says: bytes.Repeat([]byte{0xff, 0, 0x16, 3}, 1<<16), Times: 1},
		"a request from the peer's address": {From: "192.0.2.11", To: to, Says: []byte("GET / HTTP/1.0\r\n\r\n"), Times: 1},
		"silence from the peer's address":   {From: "192.0.2.11", To: to, Times: 3 * line.MostGreeting},
		"silence from a stranger's address": {From: "192.0.2.99", To: to, Times: 1},
	} {
		var heard []byte
		if err := r.a.try("Talk", talk, &heard); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(heard) > 64 {
			t.Errorf("%s is told %d bytes", name, len(heard))
		}
		r.a.write(name, "x")
		r.a.sync()
		if !r.b.has(name) {
			t.Errorf("after %s nothing is copied", name)
		}
	}
}
