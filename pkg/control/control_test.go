// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xdpha/xdpha/pkg/host"
)

type fake struct {
	hub     *Hub
	status  Status
	history History

	mu      sync.Mutex
	done    []Command
	limited bool // a command was
	err     error
}

func (f *fake) Status() Status   { return f.status }
func (f *fake) History() History { return f.history }
func (f *fake) Events() *Hub     { return f.hub }

func (f *fake) Do(ctx context.Context, c Command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, limited := ctx.Deadline()
	f.limited = f.limited || limited
	f.done = append(f.done, c)
	return f.err
}

func (f *fake) Ping(_ context.Context, d time.Duration) (Ping, error) {
	p := Ping{ForNS: int64(d), Links: []PingLink{{Name: "lan", Sent: 1}}}
	p.Links[0].RTT.Observe(1500)
	return p, nil
}

func (f *fake) Estimates(context.Context) ([]Estimate, error) {
	return []Estimate{{Identity: "files", To: "serv1", Files: 50_000, Copied: 3, Bytes: 1 << 20, CompareS: 0.79}}, nil
}

func (f *fake) Uses() Uses { return Uses{Node: "serv1", Services: []Use{{Service: "samba", CPU: 1.5}}} }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve runs a server in a run directory and returns a client of it, and what
// stops the server and returns its error.
func serve(t *testing.T, b Backend) (*Client, func() error) {
	t.Helper()
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewServer(b, quiet()).Serve(ctx, l) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return c, stop
}

func TestStatusCrossesTheSocketWhole(t *testing.T) {
	want := Status{
		Node: "serv1", Time: time.Unix(1, 2).UTC(), Version: "1", Cluster: "lj64", Standby: true, Frozen: true,
		Peer: Peer{Name: "serv2", State: PeerUp, BootID: "00000000000000ff", Supervisor: SupervisorUp, SupervisorAgeUS: 7,
			Services: map[string]string{"mail": ServicesDown}, Solo: true, Policy: Policy{PolicyTakeover, 750_000}},
		Peers: []Peer{{Name: "serv2", State: PeerUp, BootID: "00000000000000ff", Services: map[string]string{},
			Links: []Link{{Name: "lan", Interface: "eth0", Up: true, LastHeardUS: 3, RTTUS: RTT{1.3, 1.9, 80}, GapMaxUS: 9, Mode: "native"}}}},
		Pacer: Pacer{Mode: "kernel (fq)", Wanted: "auto", LastTickUS: 9, GapMaxUS: 1100, TokensSent: 1}, RightToServeUS: new(int64),
		Links:      []Link{{Name: "lan", Interface: "eth0", Up: true, LastHeardUS: 3, RTTUS: RTT{1.3, 1.9, 80}, GapMaxUS: 9, Mode: "native"}},
		Identities: []Identity{{Name: "files", Home: "serv1", Prefer: []string{"serv2"}, Owner: "serv1", Generation: 1<<56 - 1, Gate: GateOpen, Carrier: "lan", Addresses: []string{"192.0.2.21/24"}, MAC: "02:00:00:00:00:01"}},
		Services:   []Service{{Name: "samba", State: "up", Restarts: 2}},
		Mirrors:    []Mirror{},
		Arbiter:    Arbiter{Kind: "reach", Satisfied: true, Reached: 2, Needed: 2, Hosts: []ArbiterHost{{Address: "192.0.2.1", Reached: true}}},
		LastTakeover: &Takeover{Identity: "files", DetectUS: 5000, Cause: "peer-dead", Generation: 4,
			Timeline: Timeline{From: FromEvidence, AtNS: 1, SuspectUS: 3000, DeadUS: 5000, FlipUS: 5001, AnnouncedUS: 5002, AnsweredUS: 5003, InUS: 5004, OutUS: 5005, AddressesUS: 5006, RepeatedUS: 5007, ServicesUS: 5008}},
		Troubles: []Trouble{{Kind: "nic-missing", Text: "spare: there is no eth2"}},
	}
	c, _ := serve(t, &fake{status: want})
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestHistoryCrossesTheSocketWhole(t *testing.T) {
	want := History{
		Node: "serv1", Time: time.Unix(1, 2).UTC(), ProbeUS: 1000, DeadAfterUS: 5000,
		SinceStart: SinceStart{Time: time.Unix(0, 0).UTC(), SilenceMaxUS: 2100, Suspects: 3, Refuted: 2, SelfStalls: 4, Reverted: 1},
		Minutes:    []Minute{{Time: time.Unix(60, 0).UTC(), MinutesAgo: 7, SilenceUS: 2100, LinksUS: map[string]int64{"lan": 2100, "crossover": 9000}, StallUS: 12}},
	}
	want.SinceStart.Silence.Observe(2_100_000)
	c, _ := serve(t, &fake{history: want})
	got, err := c.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestHistoryOfNothingHasNoNullList(t *testing.T) {
	w := httptest.NewRecorder()
	NewServer(&fake{}, quiet()).ServeHTTP(w, httptest.NewRequest("GET", "/v1/history", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"minutes":[]`) {
		t.Error(w.Code, w.Body)
	}
}

func TestStatusHasTheContractsKeysAndNoNullList(t *testing.T) {
	b, err := json.Marshal(Status{Peers: []Peer{{Links: []Link{{}}}}, Identities: []Identity{{}}, Links: []Link{{}}, LastTakeover: &Takeover{}}.lists())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"node", "time", "version", "peer", "peers", "prefer", "state", "boot_id", "supervisor_age_us", "links", "name", "up", "last_heard_us", "rtt_us", "p50", "p99", "max",
		"gap_max_us", "mode", "identities", "home", "owner", "generation", "gate", "reason", "carrier", "addresses", "mac", "services", "mirrors", "arbiter", "troubles",
		"last_takeover", "detect_us", "flip_us", "announce_us", "address_us", "services_us", "cause",
	} {
		if !strings.Contains(string(b), `"`+key+`":`) {
			t.Errorf("no key %q", key)
		}
	}
	if strings.Contains(string(b), "null") {
		t.Errorf("null in %s", b)
	}
}

func TestThePeerOfManyIsTheOneThatFaresWorst(t *testing.T) {
	peer := func(name, state string) Peer { return Peer{Name: name, State: state, Links: []Link{{}}} }
	for _, tt := range []struct {
		want   string
		states []string
	}{
		{"0", []string{PeerUp}},
		{"0", []string{PeerUp, PeerUp}},
		{"1", []string{PeerUp, PeerUnknown, PeerUp}},
		{"2", []string{PeerUp, PeerUnknown, PeerSupervisorLost}},
		{"1", []string{PeerSupervisorLost, PeerDead, PeerUnknown, PeerDead}},
	} {
		var peers []Peer
		for i, s := range tt.states {
			peers = append(peers, peer(fmt.Sprint(i), s))
		}
		if got := Worst(peers); got.Name != tt.want || got.Links != nil || peers[0].Links == nil {
			t.Errorf("of %q it is %+v", tt.states, got)
		}
	}
}

func TestHistogramsAreAdded(t *testing.T) {
	var a, b Histogram
	a.Observe(1000)
	b.Observe(1010)
	b.Observe(70_000)
	sum := a
	sum.Add(b)
	if sum.Count() != 3 || sum.SumNS != 72_010 || sum.MaxNS != 70_000 || sum.Buckets[Bucket(1000)] != 2 {
		t.Errorf("%+v", sum)
	}
	if a.Count() != 1 {
		t.Errorf("what was added to has changed elsewhere: %+v", a)
	}
}

func TestVerbsArriveAsCommands(t *testing.T) {
	f := &fake{}
	c, _ := serve(t, f)
	ctx := t.Context()
	if err := errors.Join(c.Move(ctx, "files", "serv2", true), c.Giveback(ctx, ""), c.Standby(ctx, true), c.Freeze(ctx, false), c.Reload(ctx), c.ConfirmOff(ctx, "serv2")); err != nil {
		t.Fatal(err)
	}
	want := []Command{{Verb: Move, Identity: "files", To: "serv2", Force: true}, {Verb: Giveback}, {Verb: Standby, On: true}, {Verb: Freeze}, {Verb: Reload}, {Verb: ConfirmOff, Node: "serv2"}}
	if d := cmp.Diff(want, f.done); d != "" {
		t.Error(d)
	}
	if f.limited {
		t.Error("a command ends before its work, which may be to copy for hours")
	}
}

func TestPingReturnsHistograms(t *testing.T) {
	c, _ := serve(t, &fake{})
	p, err := c.Ping(t.Context(), 2*time.Second)
	if err != nil || p.ForNS != 2e9 || len(p.Links) != 1 || p.Links[0].RTT.Count() != 1 || p.Links[0].RTT.MaxNS != 1500 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := c.Ping(t.Context(), time.Hour); !errors.Is(err, ErrInvalid) {
		t.Errorf("an hour: %v", err)
	}
}

func TestUsesAreTheBackends(t *testing.T) {
	c, _ := serve(t, &fake{})
	if u, err := c.Uses(t.Context()); err != nil || u.Node != "serv1" || len(u.Services) != 1 || u.Services[0].CPU != 1.5 || u.Homes == nil {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestEstimatesAreTheBackends(t *testing.T) {
	c, _ := serve(t, &fake{})
	list, err := c.Estimates(t.Context())
	if err != nil || len(list) != 1 || list[0] != (Estimate{Identity: "files", To: "serv1", Files: 50_000, Copied: 3, Bytes: 1 << 20, CompareS: 0.79}) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestBackendErrorsKeepTheirMeaning(t *testing.T) {
	f := &fake{}
	c, _ := serve(t, f)
	for _, want := range []error{ErrInvalid, ErrNotFound, ErrRefused, ErrUnavailable} {
		f.err = fmt.Errorf("move files: %w: because", want)
		err := c.Move(t.Context(), "files", "", false)
		if !errors.Is(err, want) || err.Error() != f.err.Error() {
			t.Errorf("got %v, want %v", err, f.err)
		}
	}
	f.err = errors.New("disk on fire")
	var e *Error
	if err := c.Move(t.Context(), "files", "", false); !errors.As(err, &e) || e.Status != http.StatusInternalServerError {
		t.Errorf("got %v", err)
	}
}

func TestBadRequestsAreRefusedBeforeTheBackend(t *testing.T) {
	for _, tc := range []struct {
		name, method, target, body string
		code                       int
		says                       string
	}{
		{"unknown path", "GET", "/v2", "", 404, "/v2"},
		{"wrong method", "GET", "/v1/move", "", 405, "POST"},
		{"post to status", "POST", "/v1/status", "", 405, "GET"},
		{"unknown parameter", "GET", "/v1/status?x=1", "", 400, `"x"`},
		{"parameter of history", "GET", "/v1/history?minutes=5", "", 400, `"minutes"`},
		{"no body", "POST", "/v1/move", "", 400, "empty"},
		{"no JSON", "POST", "/v1/move", "move it", 400, "invalid character"},
		{"unknown key", "POST", "/v1/move", `{"identity":"files","form":"serv1"}`, 400, `"form"`},
		{"wrong type", "POST", "/v1/move", `{"identity":7}`, 400, "identity"},
		{"two values", "POST", "/v1/move", `{"identity":"files"}{}`, 400, "more than one"},
		{"null for everything", "POST", "/v1/giveback", "null", 400, "object"},
		{"null for a name", "POST", "/v1/giveback", `{"identity":null}`, 400, "null"},
		{"a key in capitals", "POST", "/v1/standby", `{"ON":true}`, 400, `"ON"`},
		{"a key twice", "POST", "/v1/standby", `{"on":true,"on":false}`, 400, "twice"},
		{"garbage after", "POST", "/v1/move", `{"identity":"files"}]`, 400, "decode"},
		{"identity missing", "POST", "/v1/move", `{}`, 400, "identity is missing"},
		{"on missing", "POST", "/v1/standby", `{}`, 400, "on is missing"},
		{"too long", "POST", "/v1/move", `{"identity":"` + strings.Repeat("x", maxBody) + `"}`, 413, "longer"},
		{"bad since", "GET", "/v1/events?since=-1", "", 400, "since"},
		{"bad follow", "GET", "/v1/events?follow=yes", "", 400, "follow"},
		{"bad time", "GET", "/v1/ping?for=-1s", "", 400, "for"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{hub: NewHub(1)}
			w := httptest.NewRecorder()
			NewServer(f, quiet()).ServeHTTP(w, httptest.NewRequest(tc.method, tc.target, strings.NewReader(tc.body)))
			var e errorBody
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
				t.Fatalf("body %q: %v", w.Body, err)
			}
			if w.Code != tc.code || !strings.Contains(e.Error, tc.says) {
				t.Errorf("got %d %q, want %d and %q", w.Code, e.Error, tc.code, tc.says)
			}
			if len(f.done) > 0 {
				t.Errorf("backend was asked: %v", f.done)
			}
		})
	}
}

func TestBodyOfAnotherTypeIsRefused(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v1/freeze", strings.NewReader(`{"on":true}`))
	r.Header.Set("Content-Type", "text/plain")
	NewServer(&fake{}, quiet()).ServeHTTP(w, r)
	if w.Code != http.StatusUnsupportedMediaType {
		t.Error(w.Code, w.Body)
	}
}

func TestSocketIsPrivateAndGoesWithItsServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(SocketPath(dir))
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Mode().Type() != fs.ModeSocket {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(SocketPath(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("socket stays:", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".new*"))
	if len(left) > 0 {
		t.Error("left behind:", left)
	}
}

func TestLiveDaemonsSocketIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(dir); !errors.Is(err, ErrLive) {
		t.Errorf("by its lock: %v", err)
	}
	other := t.TempDir() // of a daemon whose lock file was removed
	ul, err := net.Listen("unix", SocketPath(other))
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	if _, err := Listen(other); !errors.Is(err, ErrLive) {
		t.Errorf("by its answer: %v", err)
	}
}

func TestDeadDaemonsSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ul.SetUnlinkOnClose(false)
	ul.Close()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotASocketIsNotRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(SocketPath(dir), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(dir); err == nil {
		l.Close()
		t.Fatal("listens")
	}
	if b, _ := os.ReadFile(SocketPath(dir)); string(b) != "precious" {
		t.Error("file is gone")
	}
}

func TestTooLongRunDirectoryIsNamedAsSuch(t *testing.T) {
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("d", 120))); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Error(err)
	}
}

func TestClientSaysThatNoDaemonRuns(t *testing.T) {
	if _, err := NewClient(t.TempDir()).Status(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
}

func TestQuantilesLieInTheirBucket(t *testing.T) {
	var h Histogram
	for range 99 {
		h.Observe(1500)
	}
	h.Observe(40_000)
	for q, in := range map[float64][2]float64{0.5: {1024, 2048}, 0.99: {1024, 2048}, 1: {32768, 40000}} {
		if v := h.Quantile(q); v < in[0] || v > in[1] {
			t.Errorf("q %v: %v not in %v", q, v, in)
		}
	}
	if v := (Histogram{}).Quantile(0.5); v != 0 {
		t.Errorf("of none: %v", v)
	}
	for ns, b := range map[uint64]int{0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 1<<63 + 1: 63} {
		if got := Bucket(ns); got != b {
			t.Errorf("Bucket(%d) = %d, want %d", ns, got, b)
		}
	}
}

func TestIdleConnectionIsUsedAgainAfterAnError(t *testing.T) {
	c, _ := serve(t, &fake{err: ErrRefused})
	for range 3 {
		if err := c.Freeze(t.Context(), true); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
}

// TestOrdersAreTakenByWhoConnectsNotByWhatTheModeLetsIn opens the socket's mode to all, as an
// administrator might, and asks as root, and as somebody else.
func TestOrdersAreTakenByWhoConnectsNotByWhatTheModeLetsIn(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	const stranger = 64998
	f := &fake{}
	c, _ := serve(t, f)
	for path, mode := range map[string]os.FileMode{c.path: 0o666, filepath.Dir(c.path): 0o755, filepath.Dir(filepath.Dir(c.path)): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		uid  int
		code int
		says string
	}{
		{0, http.StatusOK, "{}"},
		{stranger, http.StatusForbidden, "permission denied: user 64998 (process "},
	} {
		for _, ask := range []string{"GET /v1/status", "POST /v1/freeze"} {
			code, body := askAs(t, tt.uid, c.path, ask, `{"on":true}`)
			if code != tt.code || ask != "GET /v1/status" && !strings.Contains(body, tt.says) {
				t.Errorf("%s by user %d: %d %s; want %d with %q", ask, tt.uid, code, body, tt.code, tt.says)
			}
		}
	}
	if len(f.done) != 1 {
		t.Errorf("the daemon was given %d orders: %v; want root's alone", len(f.done), f.done)
	}
}

// askAs connects as a user: a thread's, which the kernel looks at, and ends with the thread.
func askAs(t *testing.T, uid int, path, line, body string) (code int, answer string) {
	t.Helper()
	var conn net.Conn
	var err error
	host.OnOwnThread(func() {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			err = errno
			return
		}
		conn, err = net.Dial("unix", path)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: xdpha\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", line, len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}
