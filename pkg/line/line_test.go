// SPDX-License-Identifier: Apache-2.0

package line

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

const protocol = "xdpha-test/1"

func key(n byte) config.Key { return config.Key{ID: n, Line: sha256.Sum256([]byte{n})} }

func TestAKeyIsANodesAndAClusters(t *testing.T) {
	of := func(keys []config.Key, self int) *credentials {
		c, err := newCredentials(&config.Config{Keys: keys, Self: self, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}, {Name: "serv3"}}})
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
	if err := talk(first.tls(1, protocol), second.tls(0, protocol)); err != nil {
		t.Errorf("the two nodes: %v", err)
	}
	if err := talk(first.tls(1, protocol), first.tls(1, protocol)); err == nil {
		t.Error("a node takes itself for its peer: what it sends could be sent back to it")
	}
	if err := talk(of([]config.Key{key(2)}, 0).tls(1, protocol), second.tls(0, protocol)); err == nil {
		t.Error("another secret is taken")
	}
	if err := talk(of([]config.Key{key(1)}, 2).tls(1, protocol), second.tls(0, protocol)); err == nil {
		t.Error("the third node is taken for the first")
	}
	if err := talk(first.tls(1, protocol), second.tls(0, "xdpha-other/1", protocol)); err != nil {
		t.Errorf("one of two protocols: %v", err)
	}
	none := first.tls(1, protocol)
	none.Certificates = nil
	if err := talk(none, second.tls(0, protocol)); err == nil {
		t.Error("a client that shows nothing is taken")
	}
	old := first.tls(1, protocol)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err := talk(old, second.tls(0, protocol)); err == nil {
		t.Error("TLS 1.2 is taken")
	}
	foreign := first.tls(1, protocol)
	foreign.NextProtos = []string{"xdpha-test/2"}
	if err := talk(foreign, second.tls(0, protocol)); err == nil {
		t.Error("another protocol is taken")
	}
	nameless := first.tls(1, protocol)
	nameless.NextProtos = nil
	if err := talk(nameless, second.tls(0, protocol)); err == nil {
		t.Error("no protocol is taken")
	}
}

func TestARefusalSaysWhatToDo(t *testing.T) {
	of := func(self int, n byte) *credentials {
		c, err := newCredentials(&config.Config{Keys: []config.Key{key(n)}, Self: self, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, s := range []struct {
		name   string
		server *tls.Config
		want   string
	}{
		{"an older version", of(1, 1).tls(0, "xdpha-other/1"), "serv2 knows nothing of this"},
		{"another secret", of(1, 2).tls(0, protocol), "copy the secret file"},
	} {
		a, b := net.Pipe()
		there := make(chan struct{})
		go func() {
			defer close(there)
			_ = tls.Server(b, s.server).Handshake() // its error is what it alerts of
			b.Close()
		}()
		conn := &Conn{Conn: tls.Client(a, of(0, 1).tls(1, protocol)), name: "serv2", Link: Crossover}
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if got := conn.Explain(err).Error(); !strings.Contains(got, s.want) {
			t.Errorf("%s: %s", s.name, got)
		}
		a.Close()
		<-there
	}
}

// word is a message of a protocol's own.
type word struct {
	Set        string `json:"set"`
	Generation uint64 `json:"generation"`
}

func TestMessagesAreBoundedAndWhole(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, word{Set: "data", Generation: 7}); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	b.WriteString("rsync's")
	var h word
	if err := Read(&b, &h); err != nil || h.Set != "data" || h.Generation != 7 || b.String() != "rsync's" {
		t.Errorf("%+v, %v, left %q", h, err, b.String())
	}
	if err := Write(&b, word{Set: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message over the limit is written")
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "half a length": whole[:1], "half": whole[:len(whole)/2],
		"too long": append([]byte{0xff, 0xff}, make([]byte, 0xffff)...), "no JSON": {0, 2, '{', '{'},
		"another type": []byte("\x00\x0e" + `{"generation":`), "a number below zero": []byte("\x00\x11" + `{"generation":-1}`),
	} {
		if err := Read(bytes.NewReader(in), &h); err == nil {
			t.Errorf("%s is taken as %+v", name, h)
		}
	}
}
