// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"slices"
	"time"
)

// Service is a thing with start, stop and check. One of Start, Systemd and OCF says in which way.
// What is left out is left out of the digest too, so that nodes of two versions still agree.
type Service struct {
	Name    string
	Start   string // exec: run by /bin/sh -c, exit status 0 is success
	Stop    string
	Promote string `json:",omitzero"` // exec, warm: from standby to active
	Demote  string `json:",omitzero"`
	Systemd string `json:",omitzero"` // the unit
	OCF     *OCF   `json:",omitempty"`

	// What is asked whether the service is good; all that is given must be.
	Check   string         // a command
	TCP     netip.AddrPort `json:",omitzero"` // takes connections
	HTTP    *HTTP          `json:",omitempty"`
	Process string         `json:",omitzero"` // runs: a name, or the path of its file with the process number

	Every      time.Duration // 0: as the OCF agent advises
	Rise, Fall int
	Timeout    ServiceTimeout
	Restart    ServiceRestart
	After      []string
	Concurrent bool
	// Warm: it runs on the standby too, unpromoted, and is promoted where the identity is owned.
	Warm bool `json:",omitzero"`
	// MoveIfUnhealthy: a concurrent service that fails takes its node's identities to another node.
	MoveIfUnhealthy bool `json:",omitzero"`
	// Ports are those of TCP that clients connect to; until the service is ready nobody should.
	Ports []uint16 `json:",omitempty"`
	// AfterSilence (start_after_silence): see Config.AfterSilence; nil: as it is derived.
	AfterSilence *time.Duration `json:",omitempty"`
}

// AfterSilence is how long after a node that may run an identity's services fell silent they may start
// on another one: the longest of theirs. Where the silent node cannot know that it is cut off, waiting
// does not help; and a fence agent's word is waited for in any case.
func (c *Config) AfterSilence(id Identity) (longest time.Duration) {
	for i := range c.Services {
		if s := &c.Services[i]; slices.Contains(id.Services, s.Name) {
			longest = max(longest, c.afterSilence(s))
		}
	}
	return longest
}

// AwaitServices is how long what must run once waits here for a peer to say that it has ended there:
// longer than the longest stop may take, for a peer that acts is stopping it.
func (c *Config) AwaitServices() time.Duration {
	if c.Timing.AwaitServices != 0 {
		return c.Timing.AwaitServices
	}
	longest := defaultAwaitServices
	for i := range c.Services {
		s := &c.Services[i]
		stop := s.Timeout.Stop
		if stop == 0 { // the agent's own
			stop = defaultUnitTimeout
		}
		if !s.Concurrent {
			longest = max(longest, stop+awaitMargin)
		}
	}
	return longest
}

func (c *Config) afterSilence(s *Service) time.Duration {
	switch {
	case s.AfterSilence != nil:
		return *s.AfterSilence
	case !c.Arbiter.AsksForRight():
		return 0
	}
	return c.Timing.EndServices + silenceMargin
}

// Kind names the way in which the service is started and stopped.
func (s *Service) Kind() string {
	switch {
	case s.OCF != nil:
		return "ocf"
	case s.Systemd != "":
		return "systemd"
	}
	return "exec"
}

// Checked reports whether anything tells a service that has died from one that runs.
func (s *Service) Checked() bool {
	return s.Kind() != "exec" || s.Check != "" || s.Probed()
}

// Probed reports whether the service is asked as its clients would.
func (s *Service) Probed() bool { return s.TCP.IsValid() || s.HTTP != nil || s.Process != "" }

// OCF is a resource agent of the ClusterLabs API.
type OCF struct {
	Provider, Type string
	Params         []OCFParam // in the order of their names
	Depth          int        // of its monitor action: OCF_CHECK_LEVEL
}

// Agent is its name, as Pacemaker writes it.
func (o *OCF) Agent() string { return "ocf:" + o.Provider + ":" + o.Type }

// OCFParam is a parameter as the agent calls it.
type OCFParam struct{ Name, Value string }

// HTTP is a request and what its answer must be.
type HTTP struct {
	URL       string
	StatusMin int
	StatusMax int
	Contains  string // within the first part of the body
}

// ServiceTimeout bounds each command; 0: as the OCF agent advises. A promotion is given what a start
// is, a demotion what a stop is.
type ServiceTimeout struct{ Start, Stop, Check time.Duration }

// ServiceRestart is the restart window: more than Times within Within moves the identity.
type ServiceRestart struct {
	Times  int
	Within time.Duration
}
