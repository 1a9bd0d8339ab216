// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// outcome fails unless err is nil or contains want, whichever is meant.
func outcome(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func probeOnce(t *testing.T, s config.Service) error {
	t.Helper()
	list := probesOf(s)
	if len(list) != 1 {
		t.Fatalf("%d probes", len(list))
	}
	return list[0](t.Context())
}

func TestATCPCheckConnects(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := config.Service{TCP: netip.MustParseAddrPort(l.Addr().String())}
	outcome(t, probeOnce(t, s), "")
	l.Close()
	outcome(t, probeOnce(t, s), "tcp check: dial tcp "+s.TCP.String()+": connect: connection refused")
}

func TestAnHTTPCheckLooksAtStatusAndText(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/broken":
			http.Error(w, "no database", http.StatusInternalServerError)
		case "/never":
			<-r.Context().Done()
		default:
			fmt.Fprint(w, "all is well")
		}
	}))
	defer srv.Close()
	for _, tt := range []struct {
		path, contains, want string
		min, max             int
	}{
		{"/", "", "", 200, 399},
		{"/", "is well", "", 200, 299},
		{"/", "database", `the answer of ` + srv.URL + `/ does not contain "database"`, 200, 299},
		{"/moved", "", "", 200, 399},
		{"/moved", "", "answers 302 Found, wanted is 200..299", 200, 299},
		{"/broken", "", "answers 500 Internal Server Error, wanted is 200..399", 200, 399},
		{"/broken", "no database", "", 500, 500},
		{"/never", "", "no answer within 50ms", 200, 399},
	} {
		s := config.Service{HTTP: &config.HTTP{URL: srv.URL + tt.path, StatusMin: tt.min, StatusMax: tt.max, Contains: tt.contains}}
		if tt.path == "/never" {
			s.Timeout.Check = 50 * time.Millisecond
		}
		outcome(t, probeOnce(t, s), tt.want)
	}
}

// proc is a /proc with the processes of the test.
func proc(t *testing.T, pid, stat, cmdline string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"stat": stat, "cmdline": cmdline} {
		file := filepath.Join(dir, pid, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAProcessCheckFindsWhatLivesByItsName(t *testing.T) {
	for _, tt := range []struct{ stat, cmdline, name, want string }{
		{"7 (smbd) S 1 7", "/usr/sbin/smbd\x00-D\x00", "smbd", ""},
		{"7 (smbd) Z 1 7", "", "smbd", "no process is named smbd"}, // a zombie
		{"7 (nmbd) S 1 7", "/usr/sbin/nmbd\x00", "smbd", "no process is named smbd"},
		{"7 (a) b (c) R 1 7", "", "a) b (c", ""},
		{"7 (a-name-of-fifte) S 1 7", "/usr/bin/a-name-of-fifteen-and-more\x00", "a-name-of-fifteen-and-more", ""},
		{"7 (a-name-of-fifte) S 1 7", "/usr/bin/a-name-of-fifteen-or-less\x00", "a-name-of-fifteen-and-more", "no process"},
		{"", "", "smbd", "no process"},
	} {
		outcome(t, probeProcess(proc(t, "7", tt.stat, tt.cmdline), tt.name), tt.want)
	}
}

func TestAProcessCheckReadsThePidFile(t *testing.T) {
	dir := proc(t, "7", "7 (postgres) S 1 7", "")
	file := filepath.Join(t.TempDir(), "pid")
	outcome(t, probeProcess(dir, file), "no such file")
	for text, want := range map[string]string{
		"7\n": "", "  7\n/var/lib/postgresql\n5432\n": "",
		"8\n": "process 8, as " + file + " says, does not run",
		"":    "holds no process number", "-1": "holds no process number", "smbd": "holds no process number",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		outcome(t, probeProcess(dir, file), want)
	}
}

func TestAServiceIsUpWhenItsClientsWouldBeServed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	r := newRig(t, svc("a", func(s *config.Service) { s.TCP = at }))
	ended := make(chan error, 1)
	go func() { ended <- r.Start(t.Context(), []string{"a"}, Env{}) }()
	r.until("a", Starting)
	if l, err = net.Listen("tcp", at.String()); err != nil {
		t.Fatal(err)
	}
	r.ok(<-ended)
	r.until("a", Up)
	l.Close()
	if s := r.until("a", Failed); !strings.Contains(s.Reason, "connection refused") {
		t.Error(s.Reason)
	}
}
