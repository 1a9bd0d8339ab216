// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// Limits of what a probe takes from a service.
const (
	maxBody      = 1 << 20 // bytes of an answer that are searched
	commLen      = 15      // bytes that the kernel keeps of a process's name
	probeTimeout = 5 * time.Second
)

// probe asks a service as its clients would. nil: it is good.
type probe func(ctx context.Context) error

// probesOf are those of the configuration; each has a time limit of its own.
func probesOf(s config.Service) []probe {
	var list []probe
	if s.TCP.IsValid() {
		list = append(list, func(ctx context.Context) error { return probeTCP(ctx, s.TCP) })
	}
	if s.HTTP != nil {
		list = append(list, func(ctx context.Context) error { return probeHTTP(ctx, s.HTTP) })
	}
	if s.Process != "" {
		list = append(list, func(context.Context) error { return probeProcess("/proc", s.Process) })
	}
	limit := s.Timeout.Check
	if limit == 0 {
		limit = probeTimeout
	}
	for i, p := range list {
		list[i] = func(ctx context.Context) error {
			ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeLimit)
			defer cancel()
			err := p(ctx)
			if err != nil && errors.Is(context.Cause(ctx), errTimeLimit) {
				return fmt.Errorf("%w: no answer within %v", err, limit)
			}
			return err
		}
	}
	return list
}

func probeTCP(ctx context.Context, to netip.AddrPort) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return fmt.Errorf("tcp check: %w", err)
	}
	return c.Close()
}

func probeHTTP(ctx context.Context, h *config.HTTP) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return fmt.Errorf("http check: %w", err)
	}
	req.Header.Set("User-Agent", "xdpha")
	transport := &http.Transport{DisableKeepAlives: true} // each check is a client of its own, and asks no proxy
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport: transport,
		// Where it sends one is its answer; what is there is another check.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("http check: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < h.StatusMin || resp.StatusCode > h.StatusMax {
		return fmt.Errorf("http check: %s answers %s, wanted is %d..%d", h.URL, resp.Status, h.StatusMin, h.StatusMax)
	}
	if h.Contains == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case bytes.Contains(body, []byte(h.Contains)):
		return nil
	case err != nil:
		return fmt.Errorf("http check: %s: %w", h.URL, err)
	}
	return fmt.Errorf("http check: the answer of %s does not contain %q", h.URL, h.Contains)
}

// probeProcess looks for a process: by the file that holds its number, or by its name.
func probeProcess(proc, want string) error {
	if filepath.IsAbs(want) {
		return probePidFile(proc, want)
	}
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return fmt.Errorf("process check: %w", err)
	}
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err == nil && named(filepath.Join(proc, d.Name()), want) {
			return nil
		}
	}
	return fmt.Errorf("process check: no process is named %s", want)
}

func probePidFile(proc, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("process check: %w", err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n") // PostgreSQL writes more below
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return fmt.Errorf("process check: %s holds no process number", file)
	}
	if _, alive := nameOf(filepath.Join(proc, strconv.Itoa(pid))); !alive {
		return fmt.Errorf("process check: process %d, as %s says, does not run", pid, file)
	}
	return nil
}

// named reports whether a living process has a name. One that is longer than what the kernel keeps
// is compared with the program's own word for itself, too.
func named(dir, want string) bool {
	name, alive := nameOf(dir)
	if !alive || name == want {
		return alive
	}
	if len(want) <= commLen || name != want[:commLen] {
		return false
	}
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	arg0, _, _ := bytes.Cut(args, []byte{0})
	return filepath.Base(string(arg0)) == want
}

// nameOf reads proc_pid_stat(5): pid (comm) state …; one that has ended and waits for its parent does not live.
func nameOf(dir string) (name string, alive bool) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", false
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open || end+2 >= len(b) {
		return "", false
	}
	state := b[end+2]
	return string(b[open+1 : end]), state != 'Z' && state != 'X'
}
