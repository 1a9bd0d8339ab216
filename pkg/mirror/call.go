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
	conn, err := m.Line.Call(ctx, m.Config.Peer(), protocol)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	err = greet(conn, h)
	if err == nil {
		return conn, nil
	}
	conn.NetConn().Close()
	var r refusal
	switch {
	case errors.As(err, &r):
		r.Text = m.peer() + " refuses: " + r.Text
		return nil, r
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return nil, conn.Explain(err)
}

func greet(conn *line.Conn, h hello) error {
	wait := answerTime
	if h.Kind == kindComplete {
		wait = diskTime
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if err := line.Write(conn, h); err != nil {
		return err
	}
	var a answer
	if err := line.Read(conn, &a); err != nil {
		return err
	}
	if !a.OK {
		return refusal{a}
	}
	return conn.SetDeadline(time.Time{})
}
