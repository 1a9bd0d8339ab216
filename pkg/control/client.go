// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrNoDaemon is wrapped by a client's errors if nobody answers the socket.
var ErrNoDaemon = errors.New("no daemon answers there")

// Error is a refusal by the daemon. It is one of this package's sentinels, by
// its status code.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is reports whether the status code stands for target.
func (e *Error) Is(target error) bool {
	for _, c := range codes {
		if c.code == e.Status {
			return c.err == target
		}
	}
	return false
}

// maxAnswer bounds what a client reads: an answer, or one event of a stream.
const maxAnswer = 16 << 20

// Client speaks to a daemon. It may be used by many goroutines.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client of the daemon with this run directory. It connects
// when it is used.
func NewClient(runDir string) *Client {
	path := SocketPath(runDir)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks what the node knows.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// History asks how near the peer's silences came to a takeover.
func (c *Client) History(ctx context.Context) (History, error) {
	var h History
	return h, c.call(ctx, http.MethodGet, "/v1/history", nil, &h)
}

// Ping asks for the round trips of the time d.
func (c *Client) Ping(ctx context.Context, d time.Duration) (Ping, error) {
	var p Ping
	return p, c.call(ctx, http.MethodGet, "/v1/ping?"+url.Values{"for": {d.String()}}.Encode(), nil, &p)
}

// Uses asks what the node's services used.
func (c *Client) Uses(ctx context.Context) (Uses, error) {
	var u Uses
	return u, c.call(ctx, http.MethodGet, "/v1/uses", nil, &u)
}

// Estimates asks what giving back would copy of what the node owns; that takes as long as comparing.
func (c *Client) Estimates(ctx context.Context) ([]Estimate, error) {
	var list []Estimate
	return list, c.call(ctx, http.MethodGet, "/v1/estimates", nil, &list)
}

// Move asks that an identity go to a node; to may be empty: the other one.
func (c *Client) Move(ctx context.Context, identity, to string, force bool) error {
	return c.call(ctx, http.MethodPost, "/v1/move", map[string]any{"identity": identity, "to": to, "force": force}, nil)
}

// Giveback asks that an identity, or all if it is empty, go back home.
func (c *Client) Giveback(ctx context.Context, identity string) error {
	return c.call(ctx, http.MethodPost, "/v1/giveback", map[string]any{"identity": identity}, nil)
}

// Standby evacuates and holds the node, or ends that.
func (c *Client) Standby(ctx context.Context, on bool) error {
	return c.call(ctx, http.MethodPost, "/v1/standby", map[string]any{"on": on}, nil)
}

// Freeze stops all automatic action, or ends that.
func (c *Client) Freeze(ctx context.Context, on bool) error {
	return c.call(ctx, http.MethodPost, "/v1/freeze", map[string]any{"on": on}, nil)
}

// Reload has the daemon follow its configuration as it is in its files now.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", map[string]any{}, nil)
}

// ConfirmOff says that somebody has seen that a dead peer is off: nothing of it will be heard
// before it is switched on again.
func (c *Client) ConfirmOff(ctx context.Context, node string) error {
	return c.call(ctx, http.MethodPost, "/v1/confirm-off", map[string]any{"node": node}, nil)
}

// Events calls fn with each event after number since, in order; with follow
// also with those to come, until ctx ends, fn fails or the daemon leaves. An
// event of KindMissed says that some were lost.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error {
	q := url.Values{"since": {strconv.FormatUint(since, 10)}}
	if follow {
		q.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok { // id, comment or the empty line between events
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("decode event: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, method, target string, body, into any) error {
	resp, err := c.do(ctx, method, target, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// do returns an answer of status 200, or an error.
func (c *Client) do(ctx context.Context, method, target string, body any) (*http.Response, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://xdpha"+target, rd)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("connect to %s: %w (%w): is xdpha running with this --run-dir?", c.path, ErrNoDaemon, op.Err)
		}
		return nil, fmt.Errorf("ask the daemon at %s: %w", c.path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	var eb errorBody
	if json.Unmarshal(b, &eb) != nil || eb.Error == "" {
		eb.Error = fmt.Sprintf("daemon at %s answers %s", c.path, resp.Status)
	}
	return nil, &Error{Status: resp.StatusCode, Message: eb.Error}
}
