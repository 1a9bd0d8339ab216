// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/xdpha/xdpha/pkg/line"
)

// What the peer may keep waiting for.
const (
	answerTime = 30 * time.Second // the receiver ends an older run first, and writes to its disk
	diskTime   = 10 * time.Minute // for all of a copy to be on disk
)

// call connects to the peer, says what for, and returns the connection if it agrees.
func (m *Manager) call(ctx context.Context, h hello) (*line.Conn, error) {
	conn, _, err := m.ask(ctx, h)
	return conn, err
}

// ask is call, and returns the answer too.
func (m *Manager) ask(ctx context.Context, h hello) (*line.Conn, answer, error) {
	conn, err := m.Line.Call(ctx, m.Config.Peer(), protocol)
	if err != nil {
		return nil, answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	a, err := greet(conn, h)
	if err == nil {
		return conn, a, nil
	}
	conn.NetConn().Close()
	var r refusal
	switch {
	case errors.As(err, &r):
		r.Text = m.peer() + " refuses: " + r.Text
		return nil, a, r
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return nil, a, conn.Explain(err)
}

func greet(conn *line.Conn, h hello) (a answer, err error) {
	wait := answerTime
	if h.Kind == kindComplete {
		wait = diskTime
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return a, err
	}
	if err := line.Write(conn, h); err != nil {
		return a, err
	}
	if err := line.Read(conn, &a); err != nil {
		return a, err
	}
	if !a.OK {
		return a, refusal{a}
	}
	return a, conn.SetDeadline(time.Time{})
}
