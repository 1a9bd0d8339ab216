// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// wants is what a body must hold for each verb: keys and the types of their values.
var wants = map[string]map[string]any{
	"/v1/move":     {"identity": "", "to": "", "force": false},
	"/v1/giveback": {"identity": ""},
	"/v1/standby":  {"on": false},
	"/v1/freeze":   {"on": false},
	"/v1/reload":   {},
}

// Whatever comes over the socket, a command is given only by a well-formed request for it, and
// everything else is told in one short answer what was wrong.
func FuzzRequest(f *testing.F) {
	for _, line := range []string{"GET /v1/status", "GET /v1/history", "GET /v1/ping?for=1s", "GET /v1/events?since=1&follow=0", "GET http://x/v1/events", "PUT /v1/freeze",
		"POST /v1/move", "POST /v1/giveback", "POST /v1/standby", "POST /v1/freeze", "POST /v1/reload", "POST /v1/move?x=1", "POST /v1/freeze/", "POST /v2"} {
		for _, body := range []string{"", "{}", "null", "[1]", "\x00", `{"identity":"files","to":"serv2","force":true}`, `{"identity":"files"}`, `{"identity":null}`, `{"Identity":"files"}`,
			`{"on":true}`, `{"on":1}`, `{"ON":true}`, `{"on":true,"on":false}`, `{"on":true}{}`, `{"identity":"files","identity":"mail"}`, "{\"o\u017f\":true}"} {
			f.Add([]byte(line+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n"), []byte(body))
		}
	}
	f.Add([]byte("POST /v1/freeze HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{\"on\":true}\r\n0\r\n\r\n"), []byte{})
	f.Add([]byte("POST /v1/freeze HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nLast-Event-ID: 18446744073709551616\r\n\r\n"), []byte(`{"on":true}`))
	f.Add([]byte("POST /v1/move HTTP/1.1\r\nHost: x\r\n\r\n"), []byte(`{"identity":"`+strings.Repeat("x", maxBody)+`"}`))
	f.Fuzz(func(t *testing.T, raw, more []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return // the library answers
		}
		if r.URL.Query().Get("follow") == "1" {
			return // a stream does not end by itself
		}
		body, err := io.ReadAll(io.LimitReader(io.MultiReader(r.Body, bytes.NewReader(more)), 2*maxBody))
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
		b := &fake{hub: NewHub(4)}
		b.hub.Publish(Event{Kind: "test"})
		w := httptest.NewRecorder()
		NewServer(b, quiet()).ServeHTTP(w, r)
		switch {
		case len(b.done) > 1:
			t.Fatalf("one request gave %v", b.done)
		case len(b.done) == 1 && (err != nil || r.Method != "POST" || r.URL.RawQuery != "" && len(r.URL.Query()) > 0 || !wellFormed(r.URL.Path, body)):
			t.Fatalf("%q with %q gave %+v", raw, body, b.done[0])
		case len(b.done) == 0 && r.Method == "POST" && w.Code < 400:
			t.Fatalf("%q with %q was answered %d, and nothing was done", raw, body, w.Code)
		case w.Body.Len() > 64<<10:
			t.Fatalf("an answer of %d bytes", w.Body.Len())
		}
		if ct := w.Header().Get("Content-Type"); ct == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("answered %q", w.Body)
		}
	})
}

// failing ends a body as it ended when it was read first.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// wellFormed reads a body on its own: one object, each key once and as it is documented, no value
// of another type.
func wellFormed(path string, body []byte) bool {
	var object map[string]any
	if len(body) > maxBody || json.Unmarshal(body, &object) != nil || object == nil {
		return false
	}
	known := wants[path]
	for key, value := range object {
		want, ok := known[key]
		if _, text := want.(string); !ok || text != isText(value) || value == nil {
			return false
		}
	}
	needs := map[string]string{"/v1/move": "identity", "/v1/standby": "on", "/v1/freeze": "on"}[path]
	return keysOnce(body) && (needs == "" || slices.Contains(slices.Collect(maps.Keys(object)), needs))
}

func isText(v any) bool { _, ok := v.(string); return ok }

// keysOnce tells whether no key of a flat object stands there twice.
func keysOnce(body []byte) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	seen := map[json.Token]bool{}
	for n := 0; ; n++ {
		token, err := d.Token()
		if err != nil {
			return true
		}
		if n%2 == 1 && seen[token] {
			return false
		}
		if n%2 == 1 {
			seen[token] = true
		}
	}
}
