// SPDX-License-Identifier: Apache-2.0

package article

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

const (
	requestEvery = 300 * time.Millisecond
	requestLimit = 2 * time.Second // a client that hears nothing for so long tries anew
)

// request is one use of a service. It returns nothing good but the right answer.
type request func(ctx context.Context, c *client, number int) error

// client uses one service at one address, over and over.
type client struct {
	service string
	at      lab.Identity
	ask     request
	book    *ledger // of what it writes
	s       *scene

	mu   sync.Mutex
	past []sample
}

// sample is one request: when it began and ended, and why it was no good.
type sample struct {
	fromNs, toNs int64
	err          error
}

func (c *client) addr() string { return c.at.Addr.String() }

func (c *client) String() string { return c.service + " at " + c.addr() }

// run asks until ctx ends.
func (c *client) run(ctx context.Context) {
	tick := time.NewTicker(requestEvery)
	defer tick.Stop()
	for i := 0; pair.Pause(ctx, 0) == nil; i++ {
		c.once(ctx, i)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (c *client) once(ctx context.Context, number int) {
	limited, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	from := lab.NowNs()
	err := c.ask(limited, c, number)
	if ctx.Err() != nil {
		return // it was stopped in the middle
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past = append(c.past, sample{from, lab.NowNs(), err})
}

// seen is what a client saw in a time.
type seen struct {
	gapNs    int64 // the longest time between two right answers
	answered int
	failed   int
	lastErr  error // of the last request that failed
	servedBy int64 // when the last right answer came
}

// look sums up what came in a time; the last answer before it counts, since silence begins there.
func (c *client) look(fromNs, toNs int64) (v seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := int64(0)
	for _, p := range c.past {
		switch {
		case p.toNs > toNs:
		case p.err != nil && p.toNs >= fromNs:
			v.failed, v.lastErr = v.failed+1, p.err
		case p.err != nil:
		case p.toNs < fromNs:
			last = p.toNs
		default:
			if last != 0 {
				v.gapNs = max(v.gapNs, p.toNs-last)
			}
			last = p.toNs
			v.answered++
		}
	}
	v.servedBy = last
	return v
}

// servedSince is how many right answers came to requests that began after a time, in a row until now.
func (c *client) servedSince(ns int64) (n int, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.past) - 1; i >= 0 && c.past[i].fromNs > ns; i-- {
		if c.past[i].err != nil {
			return n, c.past[i].err
		}
		n++
	}
	return n, nil
}

// program runs a client's program in the lab's client namespace and returns what it printed.
func (s *scene) program(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return s.programOn(ctx, lab.Client, stdin, name, args...)
}

// programOn runs a program in any namespace of the lab.
func (s *scene) programOn(ctx context.Context, namespace, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	cmd.Dir, cmd.Env = s.clientDir(), append(os.Environ(), "HOME="+s.clientDir(), "LC_ALL=C")
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = time.Second
	err := s.Do(namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", name, err, lastLine(errs.String()+out.String()))
	}
	return out.String(), nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
