// SPDX-License-Identifier: Apache-2.0

package control

import (
	"math/bits"
	"slices"
	"time"
)

// Status is what a node knows, as `xdpha status --json` prints it.
type Status struct {
	Node    string    `json:"node"`
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
	Cluster string    `json:"cluster"`
	Standby bool      `json:"standby"`
	Frozen  bool      `json:"frozen"`
	Peer    Peer      `json:"peer"`  // of more than two nodes the one that fares worst
	Peers   []Peer    `json:"peers"` // all of them, by name, with the links to each
	Pacer   Pacer     `json:"pacer"`
	// RightToServeUS is what is left of the right to serve, 0 if it has run out; nil with
	// arbiter none, which asks for none.
	RightToServeUS *int64     `json:"right_to_serve_us,omitempty"`
	Links          []Link     `json:"links"` // with more than two nodes each to all peers: up if all are heard on it
	Identities     []Identity `json:"identities"`
	Services       []Service  `json:"services"`
	Mirrors        []Mirror   `json:"mirrors"`
	Arbiter        Arbiter    `json:"arbiter"`
	LastTakeover   *Takeover  `json:"last_takeover"`
	Troubles       []Trouble  `json:"troubles"`
}

// Trouble is what this node cannot do for as long as it lasts.
type Trouble struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// The values of Peer.State.
const (
	PeerUp             = "up"
	PeerSupervisorLost = "supervisor-lost"
	PeerDead           = "dead"
	PeerUnknown        = "unknown"
	PeerSuspect        = "suspect" // in metrics alone: it is up, and silent for a moment
)

// The values of Peer.Supervisor.
const (
	SupervisorUp      = "up"
	SupervisorLost    = "lost"
	SupervisorUnknown = "unknown"
)

// The values of Peer.Services.
const (
	ServicesUp   = "up"
	ServicesDown = "down"
)

// Peer is another node: its kernel (State), its daemon, and the services of what it owns, as
// far as it is heard. BootID is hexadecimal: a 64-bit number does not survive every reader of JSON.
type Peer struct {
	Name            string            `json:"name"`
	State           string            `json:"state"`
	BootID          string            `json:"boot_id"`
	Supervisor      string            `json:"supervisor"`
	SupervisorAgeUS int64             `json:"supervisor_age_us"`
	Services        map[string]string `json:"services"` // by identity that it owns
	Solo            bool              `json:"solo"`     // it serves by the arbiter's leave
	Policy          Policy            `json:"policy"`
	Links           []Link            `json:"links,omitempty"` // to it; in Status.Peers alone
	Cross           []Link            `json:"cross,omitempty"` // to it across, there as well: "lan-spare" leaves by this node's lan NIC, "spare-lan" by its spare one
}

// states of a peer, the worst one last. The status does not tell a suspect from a peer that is up,
// the metrics do.
var states = []string{PeerUp, PeerUnknown, PeerSuspect, PeerSupervisorLost, PeerDead}

// Worse reports whether a peer in state a fares worse than one in state b.
func Worse(a, b string) bool { return slices.Index(states, a) > slices.Index(states, b) }

// Worst is the peer in the worst state, the first of several, as Status.Peer shows it. There is one at least.
func Worst(peers []Peer) Peer {
	worst := peers[0]
	for _, p := range peers[1:] {
		if Worse(p.State, worst.State) {
			worst = p
		}
	}
	worst.Links = nil
	return worst
}

// The values of Policy.SupervisorLost.
const (
	PolicyTakeover = "takeover" // its kernel is asked to release what it owns
	PolicyWait     = "wait"     // nothing, until its kernel releases it by itself
)

// Policy is what this node does about a peer whose kernel answers and whose supervisor
// has been silent for AfterUS.
type Policy struct {
	SupervisorLost string `json:"supervisor_lost"`
	AfterUS        int64  `json:"after_us"`
}

// Pacer is what sends the probes in time.
type Pacer struct {
	Mode       string `json:"mode"`         // "kernel (tbf)", "kernel (fq)" or "thread"
	Wanted     string `json:"wanted"`       // kernel | thread | auto
	LastTickUS int64  `json:"last_tick_us"` // ago; -1: none yet
	GapMaxUS   int64  `json:"gap_max_us"`
	TokensSent uint64 `json:"tokens_sent"` // more than one: some got lost
}

// Link is one path between the nodes.
type Link struct {
	Name        string `json:"name"`
	Interface   string `json:"interface"`
	Up          bool   `json:"up"`
	LastHeardUS int64  `json:"last_heard_us"`
	RTTUS       RTT    `json:"rtt_us"`
	GapMaxUS    int64  `json:"gap_max_us"`
	Mode        string `json:"mode"` // native | generic
}

// RTT is a distribution of round trips, in microseconds.
type RTT struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// The values of Identity.Gate.
const (
	GateOpen   = "open"
	GateClosed = "closed"
)

// Identity is what moves. Owner is a node's name, or empty if nobody owns it
// as far as this node knows.
type Identity struct {
	Name       string   `json:"name"`
	Home       string   `json:"home"`
	Prefer     []string `json:"prefer"` // who takes it when its home cannot, in this order; nobody else ever does
	Owner      string   `json:"owner"`
	Generation uint64   `json:"generation"`
	Gate       string   `json:"gate"` // open | closed: on this node
	Reason     string   `json:"reason"`
	Carrier    string   `json:"carrier"` // lan | spare: the link whose NIC carries it on this node
	Armed      bool     `json:"armed"`
	Addresses  []string `json:"addresses"`
	MAC        string   `json:"mac"`
	// Takeover is its last change of owner to this node; nil if there was none.
	Takeover *Takeover `json:"takeover,omitempty"`
	// Tickle is of the clients that a new owner tells of a takeover; nil if it tells none.
	Tickle *Tickle `json:"tickle,omitempty"`
}

// Tickle is how many established TCP connections of an identity are known, this node's own or as its owner
// says, and how many clients this node has told that theirs is gone.
type Tickle struct {
	Known int    `json:"known"`
	Sent  uint64 `json:"sent"`
}

// Service is a service on this node.
type Service struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Restarts uint64 `json:"restarts"`
	Reason   string `json:"reason,omitempty"`
}

// The values of Mirror.Direction.
const (
	MirrorOut     = "out" // this node owns it
	MirrorIn      = "in"
	MirrorStopped = "stopped"
)

// Mirror is a mirror set.
type Mirror struct {
	Name       string          `json:"name"`
	Direction  string          `json:"direction"`
	LagS       float64         `json:"lag_s"` // age of the last complete copy's start; -1: none since the daemon's start
	Generation uint64          `json:"generation"`
	Running    bool            `json:"running"`
	Link       string          `json:"link,omitempty"` // of the last run: crossover | lan
	Progress   *MirrorProgress `json:"progress,omitempty"`
	Files      uint64          `json:"files"` // and Bytes: of all of the set, as the last complete run found it; 0: not known here
	Bytes      uint64          `json:"bytes"`
	LastRunS   float64         `json:"last_run_s"`          // how long that run took
	Error      string          `json:"error,omitempty"`     // why the last run failed
	Unwatched  string          `json:"unwatched,omitempty"` // why changes wait for the interval, at least in part
}

// MirrorProgress is how far a sender's run is.
type MirrorProgress struct {
	Bytes     uint64 `json:"bytes"`
	Percent   int    `json:"percent"`
	FilesLeft uint64 `json:"files_left"`
}

// Arbiter is what decides while the peer is silent.
type Arbiter struct {
	Kind      string        `json:"kind"` // reach | fence | reach+fence | etcd | none
	Satisfied bool          `json:"satisfied"`
	Reached   int           `json:"reached"`
	Needed    int           `json:"needed"`
	Hosts     []ArbiterHost `json:"hosts"`
	Fence     *Fence        `json:"fence,omitempty"` // nil: no agent switches the peer off
	Etcd      *Etcd         `json:"etcd,omitempty"`  // nil: it is not asked
}

// Etcd is the cluster in which the identities' keys are won.
type Etcd struct {
	Endpoints []string  `json:"endpoints"`
	Reached   bool      `json:"reached"`
	Error     string    `json:"error,omitempty"` // why not, and what to do
	Keys      []EtcdKey `json:"keys"`
}

// EtcdKey is an identity's key, as it was read last. While all nodes are up nobody holds any.
type EtcdKey struct {
	Identity   string `json:"identity"`
	Holder     string `json:"holder,omitempty"` // a node; empty: nobody
	Generation uint64 `json:"generation"`       // the highest one that ever held it
	LeftUS     int64  `json:"left_us"`          // for which this node surely holds it; 0: it does not
}

// The values of Fence.State.
const (
	FenceIdle    = "idle"
	FenceRunning = "running"  // the agent is at work
	FencePeerOff = "peer-off" // the kernel knows that the peer is off
)

// Fence is the agent that switches the peer off before anything of it is taken.
type Fence struct {
	Agent      string     `json:"agent"`
	State      string     `json:"state"`
	DelayUS    int64      `json:"delay_us"`              // that this node waits before it does so
	LastResult string     `json:"last_result,omitempty"` // off | failed | cancelled; empty: none since the daemon's start
	LastError  string     `json:"last_error,omitempty"`
	LastAt     *time.Time `json:"last_at,omitempty"`
}

// ArbiterHost is one of the hosts that `reach` counts.
type ArbiterHost struct {
	Address     string `json:"address"`
	Reached     bool   `json:"reached"`
	LastHeardUS int64  `json:"last_heard_us"`
}

// Takeover is a change of owner to this node. Each stage is counted from the last
// evidence of the former owner's life, or from the flip if no death went before it (see
// Timeline.From); a stage not reached yet is zero.
type Takeover struct {
	Identity   string    `json:"identity"`
	Time       time.Time `json:"time"`
	DetectUS   int64     `json:"detect_us"`
	FlipUS     int64     `json:"flip_us"`
	AnnounceUS int64     `json:"announce_us"` // the kernel's first announcement
	AddressUS  int64     `json:"address_us"`
	ServicesUS int64     `json:"services_us"`
	Cause      string    `json:"cause"`
	Generation uint64    `json:"generation"`
	Timeline   Timeline  `json:"timeline"`
}

// The values of Timeline.From.
const (
	FromEvidence = "evidence" // the last sign of the former owner's life
	FromFlip     = "flip"     // hand-over, stand-down, or armed long after the death
)

// Timeline is the stages of a takeover by the kernel's clock. Each is counted from AtNS
// and rounded up, so that only what has not been reached (or, with FromFlip, the flip) is zero.
type Timeline struct {
	From        string `json:"from"`
	AtNS        int64  `json:"at_ns"` // CLOCK_BOOTTIME
	SuspectUS   int64  `json:"suspect_us,omitempty"`
	DeadUS      int64  `json:"dead_us,omitempty"`
	FlipUS      int64  `json:"flip_us,omitempty"`
	AnnouncedUS int64  `json:"announced_us,omitempty"` // the kernel's first announcement left
	AnsweredUS  int64  `json:"answered_us,omitempty"`  // the first ARP or ND question was answered
	InUS        int64  `json:"in_us,omitempty"`        // the first packet came in by the open gate
	OutUS       int64  `json:"out_us,omitempty"`       // and the first went out
	AddressesUS int64  `json:"addresses_us,omitempty"` // user space put the addresses in place,
	RepeatedUS  int64  `json:"repeated_us,omitempty"`  // announced again,
	ServicesUS  int64  `json:"services_us,omitempty"`  // and had the services up
}

// Stages lists them as tables show them; the first seven are the kernel's.
func (t Timeline) Stages() []int64 {
	return []int64{t.SuspectUS, t.DeadUS, t.FlipUS, t.AnnouncedUS, t.AnsweredUS, t.InUS, t.OutUS, t.AddressesUS, t.ServicesUS}
}

// lists gives every list a value, so that none is printed as null.
func (s Status) lists() Status {
	s.Links = nonNil(s.Links)
	s.Peer = s.Peer.lists()
	peers := make([]Peer, len(s.Peers)) // a copy: the backend's stays as it is
	for i, p := range s.Peers {
		peers[i] = p.lists()
	}
	s.Peers = peers
	s.Services = nonNil(s.Services)
	s.Mirrors = nonNil(s.Mirrors)
	s.Arbiter.Hosts = nonNil(s.Arbiter.Hosts)
	s.Troubles = nonNil(s.Troubles)
	ids := make([]Identity, len(s.Identities))
	for i, id := range s.Identities {
		id.Addresses, id.Prefer = nonNil(id.Addresses), nonNil(id.Prefer)
		ids[i] = id
	}
	s.Identities = ids
	return s
}

func (p Peer) lists() Peer {
	if p.Services == nil {
		p.Services = map[string]string{}
	}
	return p
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Event is something that happened.
type Event struct {
	Seq      uint64         `json:"seq"`     // given by the Hub, from 1, without gaps
	TimeNS   int64          `json:"time_ns"` // CLOCK_BOOTTIME
	Wall     time.Time      `json:"wall"`
	Node     string         `json:"node"`
	Kind     string         `json:"kind"`
	Identity string         `json:"identity,omitempty"`
	Text     string         `json:"text"`
	Fields   map[string]any `json:"fields,omitempty"`
}

// KindMissed is the kind of the event, without a number of its own, that tells
// a reader how many events it was too slow for: Fields["missed"].
const KindMissed = "missed"

// The verbs.
const (
	Move     = "move"
	Giveback = "giveback"
	Standby  = "standby"
	Freeze   = "freeze"
	Reload   = "reload"
	// ConfirmOff is a person's word that a dead peer is off, where no fence agent can say so.
	ConfirmOff = "confirm-off"
)

// Command is something that the node is asked to do.
type Command struct {
	Verb     string // one of the above
	Identity string // Move, Giveback (empty: all)
	To       string // Move: a node's name (empty: the other one, of two)
	Force    bool   // Move
	On       bool   // Standby, Freeze
	Node     string // ConfirmOff
}

// Uses is what a node measured of its services, and what it has.
type Uses struct {
	Node       string   `json:"node"`
	Processors int      `json:"processors"`
	Memory     uint64   `json:"memory"` // bytes; 0: not known
	Nodes      []string `json:"nodes"`
	Homes      []HomeOf `json:"homes"`
	Services   []Use    `json:"services"`
}

// HomeOf is an identity's home.
type HomeOf struct {
	Identity string `json:"identity"`
	Home     string `json:"home"`
}

// Use is what a service used while it ran and was watched: means, and peaks over some seconds.
type Use struct {
	Service    string  `json:"service"`
	Identity   string  `json:"identity,omitempty"`
	Concurrent bool    `json:"concurrent,omitempty"`
	CPU        float64 `json:"cpu"` // processors
	CPUPeak    float64 `json:"cpu_peak"`
	Memory     uint64  `json:"memory"` // the most, bytes
	IO         float64 `json:"io"`     // bytes read and written in a second
	IOPeak     float64 `json:"io_peak"`
	MeasuredS  float64 `json:"measured_s"` // 0: not measured here
	Given      bool    `json:"given,omitempty"`
}

// Estimate is what giving an identity back to its home would copy.
type Estimate struct {
	Identity string  `json:"identity"`
	To       string  `json:"to"`
	Files    uint64  `json:"files"`     // of all its mirror sets
	Copied   uint64  `json:"copied"`    // that differ there or are missing
	Bytes    uint64  `json:"bytes"`     // of those
	Deleted  uint64  `json:"deleted"`   // that are there and not here
	CompareS float64 `json:"compare_s"` // what comparing takes: at least so long services are off
}

// Ping is the round trips that the kernels measured while it lasted.
type Ping struct {
	ForNS int64      `json:"for_ns"`
	Links []PingLink `json:"links"`
}

// PingLink is one link's part of a Ping; with more than two nodes, one peer's on it.
type PingLink struct {
	Peer string    `json:"peer"`
	Name string    `json:"name"`
	Node string    `json:"node,omitempty"` // whose answers; of a pair it goes without saying
	Sent uint64    `json:"sent"`
	Lost uint64    `json:"lost"`
	RTT  Histogram `json:"rtt"`
}

// Histogram counts durations by powers of two: Buckets[i] those of at least
// 2^i and less than 2^(i+1) nanoseconds; Buckets[0] those of zero, too.
// SumNS is zero if nobody added them up.
type Histogram struct {
	Buckets []uint64 `json:"buckets"`
	SumNS   uint64   `json:"sum_ns"`
	MaxNS   uint64   `json:"max_ns"`
}

// Bucket returns the index of the bucket for a duration.
func Bucket(ns uint64) int { return max(bits.Len64(ns), 1) - 1 }

// Observe counts one duration.
func (h *Histogram) Observe(ns uint64) {
	i := Bucket(ns)
	for len(h.Buckets) <= i {
		h.Buckets = append(h.Buckets, 0)
	}
	h.Buckets[i]++
	h.SumNS += ns
	h.MaxNS = max(h.MaxNS, ns)
}

// Count returns how many durations were counted.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.Buckets {
		n += c
	}
	return n
}

// Add counts what o counted, too.
func (h *Histogram) Add(o Histogram) {
	h.Buckets = append([]uint64(nil), h.Buckets...) // it may be somebody else's
	for len(h.Buckets) < len(o.Buckets) {
		h.Buckets = append(h.Buckets, 0)
	}
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
	h.SumNS += o.SumNS
	h.MaxNS = max(h.MaxNS, o.MaxNS)
}

// Quantile returns the duration in nanoseconds that a share q of all did not
// exceed, interpolated within its bucket and never above the maximum if that
// is known; 0 if there are none.
func (h Histogram) Quantile(q float64) float64 {
	rank := q * float64(h.Count())
	var below float64
	for i, c := range h.Buckets {
		if c == 0 || below+float64(c) < rank {
			below += float64(c)
			continue
		}
		lo, hi := float64(uint64(1)<<i), 2*float64(uint64(1)<<i)
		if i == 0 {
			lo = 0
		}
		if h.MaxNS > 0 {
			hi = min(hi, max(lo, float64(h.MaxNS)))
		}
		return lo + (hi-lo)*max(0, rank-below)/float64(c)
	}
	return float64(h.MaxNS)
}
