// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/xdpha/xdpha/pkg/control"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("xdpha_"+name, help, labels, nil)
}

// The metrics that a Source's values become.
var (
	owner          = desc("owner", "1 if this node owns the identity.", "identity")
	generation     = desc("generation", "Generation of the identity as this node knows it.", "identity")
	gateOpen       = desc("gate_open", "1 if this node's gate lets the identity's traffic through.", "identity")
	carrier        = desc("carrier", "1 for the link whose NIC carries the identity on this node, its spare one where lan has lost the clients' network.", "identity", "link")
	conflicts      = desc("address_conflicts_total", "Claims of one of the identity's addresses by a foreign host.", "identity")
	repairs        = desc("repairs_total", "Times that something of the identity was put back which somebody else had taken away.", "identity", "what")
	trouble        = desc("trouble", "1 while the node cannot do something that it should; xdpha status says what.", "kind")
	leaseMin       = desc("lease_remaining_min_seconds", "Least that was ever left of the supervisor lease when it was renewed; negative if it had run out.")
	rtt            = desc("heartbeat_rtt_seconds", "Round trips of heartbeats, measured in the kernel.", "link")
	rttMax         = desc("heartbeat_rtt_max_seconds", "Longest round trip of a heartbeat.", "link")
	gap            = desc("heartbeat_gap_seconds", "Time between two accepted frames of a peer.", "link")
	linkUp         = desc("link_up", "1 if all peers are heard on the link.", "link")
	gapMax         = desc("heartbeat_gap_max_seconds", "Longest time between two accepted frames of a peer.", "link")
	suspects       = desc("suspects_total", "Times that a peer was suspected dead.")
	refuted        = desc("suspects_refuted_total", "Suspicions that a confirming probe's answer refuted.")
	selfStalls     = desc("self_stalls_total", "Evaluations of the peers that were skipped because this node itself was late.")
	reverted       = desc("deaths_reverted_total", "Deaths of a peer that were taken back, because a frame came while they were declared.")
	silence        = desc("silence_seconds", "Time in which a peer was not heard on any link; its death is none.")
	silenceMax     = desc("silence_max_seconds", "Longest time in which a peer was not heard on any link and did not die.")
	rightToServe   = desc("right_to_serve_remaining_seconds", "What is left of the right to serve, which the peers' frames or the arbiter renew; 0 if it has run out.")
	peerServices   = desc("peer_services_up", "1 if the services of the identity, which a peer owns, are up on that peer, as it says.", "identity")
	pacerGapMax    = desc("pacer_gap_max_seconds", "Longest time between two ticks of the pacer.")
	frames         = desc("frames_total", "Frames that the kernel side handled, by what became of them and why.", "link", "kind", "verdict", "reason")
	peerState      = desc("peer_state", "The peer that fares worst: 0 unknown, 1 up, 2 suspect, 3 dead, 4 up with its supervisor lost.")
	nodeState      = desc("node_state", "A peer: 0 unknown, 1 up, 2 suspect, 3 dead, 4 up with its supervisor lost.", "node")
	nodeSuspects   = desc("node_suspects_total", "Times that this peer was suspected dead.", "node")
	nodeSilence    = desc("node_silence_max_seconds", "Longest time in which this peer was not heard on any link and did not die.", "node")
	nodeLinkUp     = desc("node_link_up", "1 if this peer is heard on the link.", "node", "link")
	nodeRTT        = desc("node_heartbeat_rtt_max_seconds", "Longest round trip of a heartbeat to this peer.", "node", "link")
	nodeGap        = desc("node_heartbeat_gap_max_seconds", "Longest time between two accepted frames of this peer.", "node", "link")
	supervisorAge  = desc("supervisor_age_seconds", "Time since the node's supervisor gave a sign of life.", "node")
	serviceUp      = desc("service_up", "1 if the service is up on this node.", "service")
	serviceRestart = desc("service_restarts_total", "Restarts of the service in place.", "service")
	mirrorLag      = desc("mirror_lag_seconds", "Age of the mirror set's copy; infinite if there is none since the daemon's start.", "set")
	mirrorRuns     = desc("mirror_runs_total", "Runs of the mirror set, sent or received, by how they ended.", "set", "result")
	mirrorSent     = desc("mirror_sent_bytes_total", "Bytes that the mirror set's runs sent.", "set")
	tickleKnown    = desc("tickle_connections", "Established TCP connections of the identity that this node knows: its own, if it is the owner, else those that the owner has told of.", "identity")
	tickleSent     = desc("tickles_sent_total", "Clients that were sent a segment after a change of owner, for them to notice that their connection is gone.", "identity")
	etcdReached    = desc("etcd_reached", "1 if etcd answers.")
	etcdKeyHeld    = desc("etcd_key_held", "1 if this node holds the identity's key in etcd.", "identity")
	fences         = desc("fence_total", "Runs of the fence agent that switches the peer off, by how they ended.", "result")
	buildInfo      = desc("build_info", "Always 1; the labels name the program.", "version", "revision", "goversion")
)

// peerStates are the values of xdpha_peer_state and xdpha_node_state, as their help tells them.
var peerStates = map[string]float64{control.PeerUnknown: 0, control.PeerUp: 1, control.PeerSuspect: 2, control.PeerDead: 3, control.PeerSupervisorLost: 4}

// takeoverBuckets reach from what a flip in the kernel takes to what slow
// services do, in seconds.
var takeoverBuckets = []float64{
	10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6,
	1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
	1, 2.5, 5, 10, 30, 60,
}

func takeoverHistogram(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: "xdpha_" + name, Help: help,
		Buckets:                        takeoverBuckets,
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 160,
	}
}

// The stages of a takeover, each counted from the last evidence of life, or from the flip
// if no death went before it.
const (
	StageSuspect  = "suspect"
	StageDetect   = "detect"
	StageFlip     = "flip"
	StageAnnounce = "announce" // the kernel's first announcement
	StageAnswer   = "answer"   // the first ARP or ND question answered
	StageIn       = "in"       // the first packet through the open gate
	StageOut      = "out"
	StageAddress  = "address"
	StageServices = "services"
)

// The results of switching the peer off.
const (
	FenceOff       = "off"
	FenceFailed    = "failed"
	FenceCancelled = "cancelled"
)

// FenceResults lists them.
var FenceResults = []string{FenceOff, FenceFailed, FenceCancelled}

var stages = []string{StageSuspect, StageDetect, StageFlip, StageAnnounce, StageAnswer, StageIn, StageOut, StageAddress, StageServices}
