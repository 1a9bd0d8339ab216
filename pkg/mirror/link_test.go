// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

func TestACutCrossoverIsReplacedByTheLanUntilItIsBack(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.flows(t, serv1Owns)
	for i, step := range []struct {
		up   bool
		link string
	}{{true, linkCrossover}, {false, linkLan}, {true, linkCrossover}} {
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
	eventually(t, "a run over the crossover", func() bool { return r.b.unfinished() && r.a.view().Link == linkCrossover })
	r.a.do("Cable", Cable{"crossover", false})
	eventually(t, "a run over the lan", func() bool {
		v := r.a.view()
		return v.Running && v.Link == linkLan && v.Progress.Bytes > 0 && r.b.unfinished()
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
	case <-time.After(2 * unackedTime):
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

func TestAKeyIsANodesAndAClusters(t *testing.T) {
	of := func(keys []config.Key, self int) *credentials {
		c, err := newCredentials(&config.Config{Keys: keys, Self: self, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	talk := func(client, server *tls.Config) error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		there := make(chan error, 1)
		go func() {
			there <- tls.Server(b, server).Handshake()
			b.Close()
		}()
		conn := tls.Client(a, client)
		here := conn.Handshake()
		if here == nil {
			_, here = conn.Read(make([]byte, 1)) // the server's word on the client comes after the handshake
		}
		a.Close()
		if err := <-there; err != nil {
			return err
		}
		if here != nil && strings.Contains(here.Error(), "secret") {
			return here
		}
		return nil
	}
	first, second := of([]config.Key{key(1)}, 0), of([]config.Key{key(1)}, 1)
	if err := talk(first.tls(), second.tls()); err != nil {
		t.Errorf("the two nodes: %v", err)
	}
	if err := talk(first.tls(), first.tls()); err == nil {
		t.Error("a node takes itself for its peer: what it sends could be sent back to it")
	}
	if err := talk(of([]config.Key{key(2)}, 0).tls(), second.tls()); err == nil {
		t.Error("another secret is taken")
	}
	none := first.tls()
	none.Certificates = nil
	if err := talk(none, second.tls()); err == nil {
		t.Error("a client that shows nothing is taken")
	}
	old := first.tls()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err := talk(old, second.tls()); err == nil {
		t.Error("TLS 1.2 is taken")
	}
	foreign := first.tls()
	foreign.NextProtos = []string{"xdpha-mirror/2"}
	if err := talk(foreign, second.tls()); err == nil {
		t.Error("another protocol is taken")
	}
	nameless := first.tls()
	nameless.NextProtos = nil
	if err := talk(nameless, second.tls()); err == nil {
		t.Error("no protocol is taken")
	}
}

func TestGarbageOnThePortHoldsNothingUp(t *testing.T) {
	r := newRig(t, config.Mirror{})
	r.flows(t, serv1Owns)
	r.a.do("Address", "192.0.2.99/24")
	to := net.JoinHostPort("192.0.2.12", fmt.Sprint(Port))
	for name, talk := range map[string]Talk{
		"noise from the peer's address":     {From: "192.0.2.11", To: to, Says: bytes.Repeat([]byte{0xff, 0, 0x16, 3}, 1<<16), Times: 1},
		"a request from the peer's address": {From: "192.0.2.11", To: to, Says: []byte("GET / HTTP/1.0\r\n\r\n"), Times: 1},
		"silence from the peer's address":   {From: "192.0.2.11", To: to, Times: 3 * mostGreeting},
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

func TestMessagesAreBoundedAndWhole(t *testing.T) {
	var b bytes.Buffer
	if err := writeMessage(&b, hello{Kind: kindFull, Set: "data", Generation: 7}); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	b.WriteString("rsync's")
	var h hello
	if err := readMessage(&b, &h); err != nil || h.Set != "data" || h.Generation != 7 || b.String() != "rsync's" {
		t.Errorf("%+v, %v, left %q", h, err, b.String())
	}
	if err := writeMessage(&b, hello{Path: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message over the limit is written")
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "half a length": whole[:1], "half": whole[:len(whole)/2],
		"too long": append([]byte{0xff, 0xff}, make([]byte, 0xffff)...), "no JSON": {0, 2, '{', '{'},
		"another type": []byte("\x00\x0e" + `{"generation":`), "a number below zero": []byte("\x00\x11" + `{"generation":-1}`),
	} {
		if err := readMessage(bytes.NewReader(in), &h); err == nil {
			t.Errorf("%s is taken as %+v", name, h)
		}
	}
}
