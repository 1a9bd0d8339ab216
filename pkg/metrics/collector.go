// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xdpha/xdpha/pkg/control"
)

// Collector is a prometheus.Collector of one node's metrics.
type Collector struct {
	src       Source
	detection prometheus.Histogram
	stage     *prometheus.HistogramVec
	takeovers *prometheus.CounterVec
}

// NewCollector returns a collector of the source's values.
func NewCollector(src Source) *Collector {
	c := &Collector{
		src:       src,
		detection: prometheus.NewHistogram(takeoverHistogram("detection_seconds", "From the last evidence of the peer's life to the flip of ownership.")),
		stage:     prometheus.NewHistogramVec(takeoverHistogram("takeover_stage_seconds", "From the last evidence of the peer's life, or the flip of a planned change, to the end of a takeover's stage."), []string{"stage"}),
		takeovers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "xdpha_takeovers_total", Help: "Changes of owner to this node, by cause."}, []string{"identity", "cause"}),
	}
	for _, s := range stages { // a series that is missing until the first takeover cannot be alerted on
		c.stage.WithLabelValues(s)
	}
	return c
}

// ObserveTakeover counts a change of owner to this node.
func (c *Collector) ObserveTakeover(identity, cause string) {
	c.takeovers.WithLabelValues(identity, cause).Inc()
}

// ObserveDetection tells how long after the last evidence of the peer's life
// its identities were flipped.
func (c *Collector) ObserveDetection(d time.Duration) { c.detection.Observe(d.Seconds()) }

// ObserveStage tells how long after the last evidence of the peer's life, or the
// flip of a planned change, a stage of the takeover ended.
func (c *Collector) ObserveStage(stage string, d time.Duration) {
	c.stage.WithLabelValues(stage).Observe(d.Seconds())
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		nodeState, nodeSuspects, nodeSilence, nodeLinkUp, nodeRTT, nodeGap, owner, generation, gateOpen, carrier, conflicts, repairs, trouble, leaseMin, rtt, rttMax, gap, gapMax, linkUp, suspects, refuted, selfStalls, pacerGapMax,
		reverted, silence, silenceMax, rightToServe, peerServices, etcdReached, etcdKeyHeld, frames, peerState, supervisorAge, serviceUp, serviceRestart, mirrorLag, mirrorRuns, mirrorSent, tickleKnown, tickleSent, buildInfo,
	} {
		ch <- d
	}
	c.detection.Describe(ch)
	c.stage.Describe(ch)
	c.takeovers.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.src.Snapshot()
	e := emitter{ch, s.Since}
	e.node(s)
	e.peers(s.Peers)
	for _, f := range s.Frames {
		e.counter(frames, f.Count, f.Link, f.Kind, f.Verdict, f.Reason)
	}
	for _, i := range s.Identities {
		e.flag(owner, i.Owner, i.Name)
		e.gauge(generation, float64(i.Generation), i.Name)
		e.flag(gateOpen, i.GateOpen, i.Name)
		e.flag(carrier, true, i.Name, i.Carrier)
		e.counter(conflicts, i.Conflicts, i.Name)
		for what, n := range i.Repairs {
			e.counter(repairs, n, i.Name, what)
		}
		if t := i.Tickle; t != nil {
			e.gauge(tickleKnown, float64(t.Known), i.Name)
			e.counter(tickleSent, t.Sent, i.Name)
		}
	}
	for _, v := range s.Services {
		e.flag(serviceUp, v.Up, v.Name)
		e.counter(serviceRestart, v.Restarts, v.Name)
	}
	for _, m := range s.Mirrors {
		lag := m.LagSeconds
		if lag < 0 {
			lag = math.Inf(1)
		}
		e.gauge(mirrorLag, lag, m.Set)
		e.counter(mirrorRuns, m.Good, m.Set, "good")
		e.counter(mirrorRuns, m.Failed, m.Set, "failed")
		e.counter(mirrorSent, m.SentBytes, m.Set)
	}
	c.detection.Collect(ch)
	c.stage.Collect(ch)
	c.takeovers.Collect(ch)
}

// emitter sends metrics of one snapshot.
type emitter struct {
	ch    chan<- prometheus.Metric
	since time.Time
}

func (e emitter) node(s Snapshot) {
	e.gauge(leaseMin, seconds(s.LeaseRemainingMinNS))
	e.counter(selfStalls, s.SelfStalls)
	if s.RightToServeNS != nil {
		e.gauge(rightToServe, seconds(*s.RightToServeNS))
	}
	for identity, up := range s.PeerServices {
		e.flag(peerServices, up, identity)
	}
	if s.Etcd != nil {
		e.flag(etcdReached, s.Etcd.Reached)
		for identity, held := range s.Etcd.Held {
			e.flag(etcdKeyHeld, held, identity)
		}
	}
	if s.Fences != nil {
		for _, result := range FenceResults {
			e.counter(fences, s.Fences[result], result)
		}
	}
	for kind, there := range s.Troubles {
		e.flag(trouble, there, kind)
	}
	e.gauge(pacerGapMax, seconds(s.PacerGapMaxNS))
	for _, a := range s.Ages {
		e.gauge(supervisorAge, seconds(a.NS), a.Node)
	}
	e.gauge(buildInfo, 1, s.Build.Version, s.Build.Revision, s.Build.GoVersion)
}

// peers tells of all peers together, by the names that a pair has, and of each by its node's name.
func (e emitter) peers(peers []Peer) {
	for _, p := range peers {
		e.gauge(nodeState, peerStates[p.State], p.Name)
		e.counter(nodeSuspects, p.Suspects, p.Name)
		e.gauge(nodeSilence, seconds(p.Silence.MaxNS), p.Name)
		for _, l := range p.Links {
			e.flag(nodeLinkUp, l.Up, p.Name, l.Name)
			e.gauge(nodeRTT, seconds(l.RTT.MaxNS), p.Name, l.Name)
			e.gauge(nodeGap, seconds(l.Gap.MaxNS), p.Name, l.Name)
		}
	}
	all := together(peers)
	e.counter(suspects, all.Suspects)
	e.counter(refuted, all.SuspectsRefuted)
	e.counter(reverted, all.Reverted)
	e.histogram(silence, all.Silence)
	e.gauge(silenceMax, seconds(all.Silence.MaxNS))
	e.gauge(peerState, peerStates[all.State])
	for _, l := range all.Links {
		e.histogram(rtt, l.RTT, l.Name)
		e.gauge(rttMax, seconds(l.RTT.MaxNS), l.Name)
		e.histogram(gap, l.Gap, l.Name)
		e.gauge(gapMax, seconds(l.Gap.MaxNS), l.Name)
		e.flag(linkUp, l.Up, l.Name)
	}
}

// together is what all peers are as one: counts are added, the state is the worst, a link is up if
// all are heard on it.
func together(peers []Peer) (all Peer) {
	links := map[string]int{} // where they are in all
	for i, p := range peers {
		if i == 0 || control.Worse(p.State, all.State) {
			all.State = p.State
		}
		all.Suspects += p.Suspects
		all.SuspectsRefuted += p.SuspectsRefuted
		all.Reverted += p.Reverted
		all.Silence.Add(p.Silence)
		for _, l := range p.Links {
			at, seen := links[l.Name]
			if !seen {
				links[l.Name] = len(all.Links)
				all.Links = append(all.Links, l)
				continue
			}
			sum := &all.Links[at]
			sum.Up = sum.Up && l.Up
			sum.RTT.Add(l.RTT)
			sum.Gap.Add(l.Gap)
		}
	}
	return all
}

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.send(d)(prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...))
}

func (e emitter) counter(d *prometheus.Desc, v uint64, labels ...string) {
	if e.since.IsZero() {
		e.send(d)(prometheus.NewConstMetric(d, prometheus.CounterValue, float64(v), labels...))
		return
	}
	e.send(d)(prometheus.NewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(v), e.since, labels...))
}

func (e emitter) flag(d *prometheus.Desc, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	e.gauge(d, v, labels...)
}

// send sends a metric, or its error: a label that is no UTF-8 fails the scrape
// and not the daemon.
func (e emitter) send(d *prometheus.Desc) func(prometheus.Metric, error) {
	return func(m prometheus.Metric, err error) {
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		e.ch <- m
	}
}

func seconds[T int64 | uint64](ns T) float64 { return float64(ns) / 1e9 }
