// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/xdpha/xdpha/pkg/privilege"
)

// Backend is the daemon behind the API. Its errors wrap one of the sentinels
// below if the caller is to know whose fault it is.
type Backend interface {
	Status() Status
	History() History
	Events() *Hub
	Do(ctx context.Context, c Command) error
	// Ping gathers the round trips of the given time.
	Ping(ctx context.Context, d time.Duration) (Ping, error)
	Uses() Uses
	// Estimates tells what giving back would copy.
	Estimates(ctx context.Context) ([]Estimate, error)
}

// What a Backend's error may wrap; a Client's errors are them, too.
var (
	ErrInvalid     = errors.New("invalid request")
	ErrNotFound    = errors.New("not found")
	ErrRefused     = errors.New("refused")
	ErrUnavailable = errors.New("unavailable")
)

// Limits on what one peer of the socket can take.
const (
	maxBody     = 16 << 10
	maxHeader   = 16 << 10
	maxStreams  = 64
	readTimeout = 10 * time.Second // for the request
	sendTimeout = 10 * time.Second // for each piece of the answer
	keepAlive   = 15 * time.Second // comment on an idle stream: finds a reader that is gone
	defaultPing = time.Second
	maxPing     = time.Minute
	drainTime   = 2 * time.Second // for running requests when the server ends
)

// Server answers the API.
type Server struct {
	backend Backend
	log     *slog.Logger
	streams atomic.Int64
	routes  map[string]route
}

type route struct {
	method  string
	handler func(http.ResponseWriter, *http.Request) error
}

// NewServer returns a server of the backend.
func NewServer(b Backend, log *slog.Logger) *Server {
	s := &Server{backend: b, log: log}
	s.routes = map[string]route{
		"/v1/status":      {http.MethodGet, s.status},
		"/v1/history":     {http.MethodGet, s.history},
		"/v1/events":      {http.MethodGet, s.events},
		"/v1/uses":        {http.MethodGet, s.uses},
		"/v1/estimates":   {http.MethodGet, s.estimates},
		"/v1/ping":        {http.MethodGet, s.ping},
		"/v1/move":        {http.MethodPost, s.move},
		"/v1/giveback":    {http.MethodPost, s.giveback},
		"/v1/standby":     {http.MethodPost, s.toggle(Standby)},
		"/v1/freeze":      {http.MethodPost, s.toggle(Freeze)},
		"/v1/reload":      {http.MethodPost, s.reload},
		"/v1/confirm-off": {http.MethodPost, s.confirmOff},
	}
	return s
}

// Serve answers on l until ctx ends, and closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	reqCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	hs := &http.Server{
		Handler: http.HandlerFunc(s.admitted),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, admission{}, privilege.Admit(c))
		},
		ReadTimeout:    readTimeout,
		MaxHeaderBytes: maxHeader,
		BaseContext:    func(net.Listener) context.Context { return reqCtx },
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- hs.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve control socket: %w", errors.Join(err, l.Close()))
	case <-ctx.Done():
	}
	stop() // streams end by themselves
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := hs.Shutdown(drain); err != nil {
		err = errors.Join(fmt.Errorf("shut down control server: %w", err), hs.Close())
		return errors.Join(err, l.Close())
	}
	return l.Close()
}

// admission is the key of what privilege.Admit said of a connection.
type admission struct{}

// admitted answers those who may ask; all others are told why not.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request) {
	if err, _ := r.Context().Value(admission{}).(error); err != nil {
		s.log.Warn("control socket refuses", "path", r.URL.Path, "err", err)
		s.fail(w, r, &Error{Status: http.StatusForbidden, Message: err.Error()})
		return
	}
	s.ServeHTTP(w, r)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, ok := s.routes[r.URL.Path]
	switch {
	case !ok:
		s.fail(w, r, fmt.Errorf("%w: no %s here", ErrNotFound, r.URL.Path))
	case r.Method != rt.method:
		w.Header().Set("Allow", rt.method)
		s.fail(w, r, &Error{Status: http.StatusMethodNotAllowed, Message: r.URL.Path + " takes " + rt.method})
	default:
		if err := rt.handler(w, r); err != nil {
			s.fail(w, r, err)
		}
	}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	if err := query(r); err != nil {
		return err
	}
	return reply(w, s.backend.Status().lists())
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) error {
	if err := query(r); err != nil {
		return err
	}
	h := s.backend.History()
	h.Minutes = nonNil(h.Minutes)
	return reply(w, h)
}

func (s *Server) uses(w http.ResponseWriter, r *http.Request) error {
	if err := query(r); err != nil {
		return err
	}
	u := s.backend.Uses()
	u.Services, u.Homes, u.Nodes = nonNil(u.Services), nonNil(u.Homes), nonNil(u.Nodes)
	return reply(w, u)
}

func (s *Server) estimates(w http.ResponseWriter, r *http.Request) error {
	if err := query(r); err != nil {
		return err
	}
	if err := readDone(w); err != nil {
		return err
	}
	list, err := s.backend.Estimates(r.Context())
	if err != nil {
		return err
	}
	return reply(w, nonNil(list))
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) error {
	if err := query(r, "for"); err != nil {
		return err
	}
	d := defaultPing
	if v := r.URL.Query().Get("for"); v != "" {
		var err error
		if d, err = time.ParseDuration(v); err != nil || d <= 0 || d > maxPing {
			return fmt.Errorf("%w: for=%q: want a duration up to %v, as 5s", ErrInvalid, v, maxPing)
		}
	}
	if err := readDone(w); err != nil {
		return err
	}
	p, err := s.backend.Ping(r.Context(), d)
	if err != nil {
		return err
	}
	p.Links = nonNil(p.Links)
	return reply(w, p)
}

func (s *Server) move(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Identity string `json:"identity"`
		To       string `json:"to"`
		Force    bool   `json:"force"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if body.Identity == "" {
		return fmt.Errorf("%w: identity is missing", ErrInvalid)
	}
	return s.do(w, r, Command{Verb: Move, Identity: body.Identity, To: body.To, Force: body.Force})
}

func (s *Server) giveback(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Identity string `json:"identity"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	return s.do(w, r, Command{Verb: Giveback, Identity: body.Identity})
}

func (s *Server) toggle(verb string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var body struct {
			On *bool `json:"on"`
		}
		if err := decode(w, r, &body); err != nil {
			return err
		}
		if body.On == nil { // leaving it out must not mean off
			return fmt.Errorf("%w: on is missing", ErrInvalid)
		}
		return s.do(w, r, Command{Verb: verb, On: *body.On})
	}
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) error {
	var body struct{}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	return s.do(w, r, Command{Verb: Reload})
}

func (s *Server) confirmOff(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Node string `json:"node"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if body.Node == "" { // it must be said which
		return fmt.Errorf("%w: node is missing", ErrInvalid)
	}
	return s.do(w, r, Command{Verb: ConfirmOff, Node: body.Node})
}

func (s *Server) do(w http.ResponseWriter, r *http.Request, c Command) error {
	if err := readDone(w); err != nil {
		return err
	}
	s.log.Info("command", "verb", c.Verb, "identity", c.Identity, "to", c.To, "force", c.Force, "on", c.On, "node", c.Node)
	// As long as the client waits: the core has limits for all that a command waits for, and data takes hours.
	if err := s.backend.Do(r.Context(), c); err != nil {
		return err
	}
	return reply(w, struct{}{})
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	if err := query(r, "since", "follow"); err != nil {
		return err
	}
	since, follow, err := eventsQuery(r)
	if err != nil {
		return err
	}
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		return fmt.Errorf("%w: %d readers follow the events already", ErrUnavailable, maxStreams)
	}
	defer s.streams.Add(-1)
	if err := readDone(w); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	// From here on the answer has begun: an error ends it and says no more.
	if err := stream(r.Context(), w, s.backend.Events().Read(since), follow); err != nil {
		s.log.Debug("event stream ended", "error", err)
	}
	return nil
}

func eventsQuery(r *http.Request) (since uint64, follow bool, err error) {
	q := r.URL.Query()
	from := q.Get("since")
	if from == "" {
		from = r.Header.Get("Last-Event-ID") // a browser's EventSource that reconnects
	}
	if from != "" {
		if since, err = strconv.ParseUint(from, 10, 64); err != nil {
			return 0, false, fmt.Errorf("%w: since=%q: want an event's number", ErrInvalid, from)
		}
	}
	switch v := q.Get("follow"); v {
	case "", "0":
	case "1":
		follow = true
	default:
		return 0, false, fmt.Errorf("%w: follow=%q: want 0 or 1", ErrInvalid, v)
	}
	return since, follow, nil
}

func stream(ctx context.Context, w http.ResponseWriter, rd *Reader, follow bool) error {
	events, missed := rd.Ready()
	for {
		if err := send(w, frames(events, missed)); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		var err error
		wait, cancel := context.WithTimeout(ctx, keepAlive)
		events, missed, err = rd.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			if err := send(w, []byte(": idle\n\n")); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// frames writes events as the HTML standard's section 9.2.6 has them. JSON has
// no line breaks, so each is one data line.
func frames(events []Event, missed uint64) []byte {
	var b bytes.Buffer
	if missed > 0 {
		frame(&b, Event{
			Kind:   KindMissed,
			Text:   fmt.Sprintf("%d events missed: too slow, or they were asked for too late", missed),
			Fields: map[string]any{"missed": missed},
		})
	}
	for _, e := range events {
		frame(&b, e)
	}
	return b.Bytes()
}

func frame(b *bytes.Buffer, e Event) {
	data, err := json.Marshal(e)
	if err != nil { // only Fields can fail: the event must not be lost for them
		e.Fields = map[string]any{"error": err.Error()}
		data, _ = json.Marshal(e)
	}
	if e.Seq > 0 {
		fmt.Fprintf(b, "id: %d\n", e.Seq)
	}
	fmt.Fprintf(b, "data: %s\n\n", data)
}

// send writes a piece of a stream, which the reader must take in time.
func send(w http.ResponseWriter, b []byte) error {
	if err := sendSoon(w); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// sendSoon limits the time for what is written next. Every answer sets its own
// limit: the connection keeps the last one.
func sendSoon(w http.ResponseWriter) error {
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(sendTimeout))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// readDone lifts the request's time limit: it has been read, the answer may
// take longer.
func readDone(w http.ResponseWriter) error {
	err := http.NewResponseController(w).SetReadDeadline(time.Time{})
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// query refuses parameters that nobody reads.
func query(r *http.Request, known ...string) error {
next:
	for k := range r.URL.Query() {
		for _, want := range known {
			if k == want {
				continue next
			}
		}
		return fmt.Errorf("%w: unknown parameter %q", ErrInvalid, k)
	}
	return nil
}

// decode reads a body of exactly one JSON object with known keys only.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	if err := query(r); err != nil {
		return err
	}
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if mt, _, err := mime.ParseMediaType(ct); err != nil || mt != "application/json" {
			return &Error{Status: http.StatusUnsupportedMediaType, Message: fmt.Sprintf("body is %q: want application/json", ct)}
		}
	}
	var read bytes.Buffer
	d := json.NewDecoder(io.TeeReader(http.MaxBytesReader(w, r.Body, maxBody), &read))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			err = exact(read.Bytes())
		} else if err == nil {
			err = errors.New("more than one value")
		}
		if err == nil {
			return nil
		}
	}
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("body is longer than %d bytes", tooBig.Limit)}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("empty")
	}
	return fmt.Errorf("%w: decode body: %s", ErrInvalid, strings.TrimPrefix(err.Error(), "json: "))
}

// exact refuses what package json lets pass: no object at all, a key twice or in capitals, and null,
// which would be taken for a value left out. The body is sound JSON of known keys without structure.
func exact(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.New("want an object")
	}
	seen := map[json.Token]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		value, err := d.Token()
		switch {
		case err != nil:
			return err
		case value == nil:
			return fmt.Errorf("%q is null: leave it out", key)
		case seen[key]:
			return fmt.Errorf("%q is given twice", key)
		case strings.ContainsFunc(key.(string), func(r rune) bool { return r < 'a' || r > 'z' }):
			return fmt.Errorf("unknown field %q", key)
		}
		seen[key] = true
	}
	return nil
}

func reply(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if err := sendSoon(w); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // its reader is gone: nobody to tell
	return nil
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := statusOf(err)
	if code >= http.StatusInternalServerError {
		s.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if err := sendSoon(w); err != nil {
		return // the connection is gone
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(errorBody{err.Error()})
}

type errorBody struct {
	Error string `json:"error"`
}

var codes = []struct {
	err  error
	code int
}{
	{ErrInvalid, http.StatusBadRequest},
	{ErrNotFound, http.StatusNotFound},
	{ErrRefused, http.StatusConflict},
	{ErrUnavailable, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

func statusOf(err error) int {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Status
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return http.StatusInternalServerError
}
