// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/line"
)

// protocol is what both ends speak (package line): offers, each followed by its list and answered.
const protocol = "xdpha-tickle/1"

// offer comes before a list.
type offer struct {
	Identity   string `json:"identity"`
	Generation uint64 `json:"generation"`
	Bytes      int    `json:"bytes"`
}

// answer is to an offer and its list.
type answer struct {
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"`
}

const (
	talkTime = 10 * time.Second // for an offer, its list and the answer
	repeat   = 10 * time.Second // what has not changed is told again: the other daemon may have been restarted
	maxBytes = Limit * (1 + 2*(16+2))
)

// tellAll tells each candidate what it does not know; who does not answer is told again with the next look.
func (e *Exchange) tellAll(ctx context.Context, now []told, known [][]told) {
	var telling sync.WaitGroup
	for _, node := range e.Config.Others() {
		due := e.due(node, now, known[node])
		if len(due) == 0 || !e.Heard(node) {
			continue
		}
		telling.Go(func() {
			err := e.tell(ctx, node, due, now, known[node])
			if ctx.Err() == nil {
				e.note(node, err)
			}
		})
	}
	telling.Wait()
}

// due are the identities of which a node has to be told.
func (e *Exchange) due(node int, now, known []told) (due []int) {
	for i, id := range e.Config.Identities {
		is, was := now[i], known[i]
		same := is.generation == was.generation && slices.Equal(is.list, was.list)
		switch {
		case is.at.IsZero() || !id.Candidate(node):
		case len(is.list) == 0 && len(was.list) == 0: // nothing, and nothing to take back
		case !same || is.at.Sub(was.at) >= repeat:
			due = append(due, i)
		}
	}
	return due
}

// tell tells a node, and notes what it then knows.
func (e *Exchange) tell(ctx context.Context, node int, due []int, now, known []told) error {
	conn, err := e.Line.Call(ctx, node, protocol)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	for _, i := range due {
		if err := e.tellOne(conn, i, now[i]); err != nil {
			return err
		}
		known[i] = now[i]
	}
	return nil
}

func (e *Exchange) tellOne(conn *line.Conn, identity int, t told) error {
	if err := conn.SetDeadline(time.Now().Add(talkTime)); err != nil {
		return conn.Explain(err)
	}
	list := Marshal(t.list)
	if err := line.Write(conn, offer{e.Config.Identities[identity].Name, t.generation, len(list)}); err != nil {
		return conn.Explain(err)
	}
	if _, err := conn.Write(list); err != nil {
		return conn.Explain(err)
	}
	var a answer
	if err := line.Read(conn, &a); err != nil {
		return conn.Explain(err)
	}
	if !a.OK {
		return fmt.Errorf("%s refuses: %s", e.Config.Nodes[conn.Node].Name, a.Text)
	}
	return nil
}

// note logs when a node begins not to be told, and when it is told again.
func (e *Exchange) note(node int, err error) {
	e.mu.Lock()
	was := e.failed[node]
	e.failed[node] = err != nil
	e.mu.Unlock()
	switch name := e.Config.Nodes[node].Name; {
	case err != nil && !was:
		e.Log.Warn("another node is not told of clients' connections", "node", name, "err", err)
	case err == nil && was:
		e.Log.Info("another node is told of clients' connections again", "node", name)
	}
}

// hear takes offers until the other node has no more.
func (e *Exchange) hear(_ context.Context, conn *line.Conn) error {
	for {
		var o offer
		err := line.Read(conn, &o)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = conn.SetDeadline(time.Now().Add(talkTime))
		}
		if err == nil {
			err = e.hearOne(conn, o)
		}
		if err != nil {
			return err
		}
	}
}

// hearOne answers an offer. One that is refused is no error of the connection.
func (e *Exchange) hearOne(conn *line.Conn, o offer) error {
	if o.Bytes < 0 || o.Bytes > maxBytes {
		return fmt.Errorf("a list of %d bytes is offered, the limit is %d", o.Bytes, maxBytes)
	}
	b := make([]byte, o.Bytes)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	list, err := Unmarshal(b)
	if err == nil {
		err = e.accept(conn.Node, o, list)
	}
	if err != nil {
		return line.Write(conn, answer{Text: err.Error()})
	}
	return line.Write(conn, answer{OK: true})
}
