// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// agentMeta is what an agent says of itself: the part of ra-api-1.dtd that is used here.
type agentMeta struct {
	Parameters []struct {
		Name     string `xml:"name,attr"`
		Required string `xml:"required,attr"`
	} `xml:"parameters>parameter"`
	Actions []agentAction `xml:"actions>action"`
}

type agentAction struct {
	Name     string `xml:"name,attr"`
	Timeout  string `xml:"timeout,attr"`
	Interval string `xml:"interval,attr"`
	Depth    string `xml:"depth,attr"`
	Role     string `xml:"role,attr"`
}

// Defaults where an agent says nothing: Pacemaker's default-action-timeout, and the interval that
// most agents advise.
const (
	defaultActionTimeout   = 20 * time.Second
	defaultMonitorInterval = 10 * time.Second
)

func parseMeta(text []byte) (*agentMeta, error) {
	// An agent may print other things before.
	if i := bytes.IndexByte(text, '<'); i > 0 {
		text = text[i:]
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // names and times are ASCII
	var m agentMeta
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("read meta-data: %w", err)
	}
	if len(m.Actions) == 0 {
		return nil, errors.New("the meta-data lists no actions")
	}
	return &m, nil
}

func (m *agentMeta) has(action string) bool {
	return slices.ContainsFunc(m.Actions, func(a agentAction) bool { return a.Name == action })
}

// timeout is the longest that the agent asks for, for an action.
func (m *agentMeta) timeout(action string) time.Duration {
	longest := time.Duration(0)
	for _, a := range m.Actions {
		if a.Name == action {
			longest = max(longest, agentTime(a.Timeout))
		}
	}
	return cmp.Or(longest, defaultActionTimeout)
}

// interval is how often the agent advises to monitor, in a role and at a depth.
func (m *agentMeta) interval(r role, depth int) time.Duration {
	best, bestFit := time.Duration(0), -1
	for _, a := range m.Actions {
		if a.Name != "monitor" || agentTime(a.Interval) == 0 {
			continue
		}
		fit := 0
		if d, _ := strconv.Atoi(cmp.Or(a.Depth, "0")); d == depth {
			fit += 2
		}
		if a.Role == "" || agentRole(a.Role) == r {
			fit++
		}
		if fit > bestFit {
			best, bestFit = agentTime(a.Interval), fit
		}
	}
	return cmp.Or(best, defaultMonitorInterval)
}

// agentRole knows the words of before and since version 1.1 of the API.
func agentRole(word string) role {
	switch strings.ToLower(word) {
	case "master", "promoted":
		return active
	case "slave", "unpromoted":
		return standby
	}
	return gone
}

// agentTime reads seconds, or a number with a unit; 0 if it is neither.
func agentTime(s string) time.Duration {
	s = strings.ToLower(strings.TrimSpace(s))
	units := []struct {
		suffix string
		unit   time.Duration
	}{
		{"msec", time.Millisecond}, {"ms", time.Millisecond}, {"usec", time.Microsecond}, {"us", time.Microsecond},
		{"sec", time.Second}, {"s", time.Second}, {"min", time.Minute}, {"m", time.Minute}, {"hr", time.Hour}, {"h", time.Hour}, {"", time.Second},
	}
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
			if err != nil {
				return 0
			}
			return time.Duration(n) * u.unit
		}
	}
	return 0
}

// fits says what is wrong with a configuration for this agent.
func (m *agentMeta) fits(s *config.Service) error {
	var errs []error
	var known []string
	for _, p := range m.Parameters {
		known = append(known, p.Name)
		if (p.Required == "1" || p.Required == "true") && !slices.ContainsFunc(s.OCF.Params, func(q config.OCFParam) bool { return q.Name == p.Name }) {
			errs = append(errs, fmt.Errorf("it requires the parameter %s: write it in params", p.Name))
		}
	}
	for _, p := range s.OCF.Params {
		if !slices.Contains(known, p.Name) && !strings.HasPrefix(p.Name, "trace_") { // those are of all agents' common part
			errs = append(errs, fmt.Errorf("it has no parameter %s: it has %s", p.Name, strings.Join(known, ", ")))
		}
	}
	if s.Warm && (!m.has("promote") || !m.has("demote")) {
		errs = append(errs, errors.New("it cannot be promoted: remove warm: true"))
	}
	return errors.Join(errs...)
}
