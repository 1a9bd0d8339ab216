// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/xdpha/xdpha/pkg/control"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden file")

type fixed Snapshot

func (f fixed) Snapshot() Snapshot { return Snapshot(f) }

func histogram(ns ...uint64) (h control.Histogram) {
	for _, v := range ns {
		h.Observe(v)
	}
	return h
}

// serv2 is the peer of a pair.
var serv2 = Peer{
	Name: "serv2", State: "supervisor-lost", Suspects: 3, SuspectsRefuted: 2, Reverted: 1, Silence: histogram(1_000_000, 2_100_000),
	Links: []Link{{"crossover", true, histogram(1300, 1400, 90_000), histogram(1_000_000, 1_100_000)}, {"lan", false, histogram(), histogram()}},
}

func sample() *Collector {
	c := NewCollector(fixed{
		Since:               time.Unix(1_700_000_000, 0),
		Peers:               []Peer{serv2},
		Frames:              []Frames{{"lan", "reply", "tx", "answered", 10}, {"lan", "probe", "drop", "bad_tag", 2}},
		Identities:          []Identity{{"files", true, true, 4, 1, map[string]uint64{"addresses": 2, "paths": 0}, "spare", &Tickle{12, 7}}, {"mail", false, false, 3, 0, nil, "lan", nil}},
		Services:            []Service{{"samba", true, 2}},
		Mirrors:             []Mirror{{"samba-data", 12.5, 3, 1, 4096}, {"never", -1, 0, 0, 0}},
		Ages:                []Age{{"serv1", 1_000_000}, {"serv2", 2_500_000}},
		SelfStalls:          1,
		PeerServices:        map[string]bool{"mail": true, "web": false},
		Etcd:                &Etcd{Reached: true, Held: map[string]bool{"files": true, "mail": false}},
		Troubles:            map[string]bool{"persist-failed": true, "nic-missing": false},
		RightToServeNS:      new(int64(4_200_000)),
		PacerGapMaxNS:       1_900_000,
		LeaseRemainingMinNS: -5_000_000,
		Build:               Build{"1.0.0", "abc", "go1.26"},
	})
	c.ObserveTakeover("files", "peer-dead")
	c.ObserveDetection(4200 * time.Microsecond)
	c.ObserveStage(StageDetect, 4200*time.Microsecond)
	c.ObserveStage(StageServices, 1500*time.Millisecond)
	return c
}

func TestExpositionIsTheGoldenFile(t *testing.T) {
	const golden = "testdata/metrics.txt"
	got := exposed(t, sample())
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Error(d)
	}
	if err := testutil.CollectAndCompare(sample(), bytes.NewReader(want)); err != nil { // reads as it is meant
		t.Error(err)
	}
}

func TestMetricsAreLintFree(t *testing.T) {
	problems, err := testutil.CollectAndLint(sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The names and labels that the contract promises.
func TestContractsMetricsAreThere(t *testing.T) {
	got := map[string]map[string]bool{}
	for _, mf := range gather(t, sample()) {
		got[mf.GetName()] = map[string]bool{}
		for _, l := range mf.GetMetric()[0].GetLabel() {
			got[mf.GetName()][l.GetName()] = true
		}
	}
	for _, want := range strings.Fields(`xdpha_detection_seconds xdpha_takeover_stage_seconds{stage} xdpha_takeovers_total{identity,cause} xdpha_owner{identity}
		xdpha_generation{identity} xdpha_gate_open{identity} xdpha_lease_remaining_min_seconds xdpha_heartbeat_rtt_seconds{link} xdpha_heartbeat_gap_seconds{link}
		xdpha_heartbeat_gap_max_seconds{link} xdpha_suspects_total xdpha_suspects_refuted_total xdpha_self_stalls_total xdpha_pacer_gap_max_seconds
		xdpha_frames_total{link,kind,verdict,reason} xdpha_address_conflicts_total{identity} xdpha_peer_state xdpha_supervisor_age_seconds{node}
		xdpha_silence_seconds xdpha_silence_max_seconds xdpha_deaths_reverted_total xdpha_right_to_serve_remaining_seconds xdpha_peer_services_up{identity}
		xdpha_service_up{service} xdpha_service_restarts_total{service} xdpha_mirror_lag_seconds{set} xdpha_build_info`) {
		name, labels, _ := strings.Cut(strings.TrimSuffix(want, "}"), "{")
		have, ok := got[name]
		if !ok {
			t.Errorf("no %s", name)
			continue
		}
		for _, l := range strings.Split(labels, ",") {
			if l != "" && !have[l] {
				t.Errorf("%s has no label %s", name, l)
			}
		}
	}
}

func gather(t *testing.T, c prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return mfs
}

func TestKernelHistogramsAreNativeAndClassic(t *testing.T) {
	for _, mf := range gather(t, sample()) {
		if mf.GetName() != "xdpha_heartbeat_rtt_seconds" {
			continue
		}
		h := mf.GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 3 || math.Abs(h.GetSampleSum()-92.7e-6) > 1e-12 {
			t.Errorf("count %d sum %v", h.GetSampleCount(), h.GetSampleSum())
		}
		// 1300 and 1400 are in [2^10, 2^11) ns: index 11-30; 90,000 in [2^16, 2^17): index 17-30.
		if len(h.GetPositiveSpan()) != 2 || h.GetPositiveSpan()[0].GetOffset() != -19 || h.GetPositiveSpan()[1].GetOffset() != 5 || h.GetSchema() != 0 {
			t.Errorf("spans %v schema %d", h.GetPositiveSpan(), h.GetSchema())
		}
		want := map[float64]uint64{1.024e-6: 0, 2.048e-6: 2, 65.536e-6: 2, 131.072e-6: 3}
		for _, b := range h.GetBucket() {
			if n, ok := want[b.GetUpperBound()]; ok {
				delete(want, b.GetUpperBound())
				if n != b.GetCumulativeCount() {
					t.Errorf("le %v: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), n)
				}
			}
		}
		if len(want) > 0 {
			t.Errorf("no buckets %v", want)
		}
		return
	}
	t.Error("no such histogram")
}

// Dashboards of a pair go on with more nodes: what has no node in its labels is of all peers together.
func TestOfManyPeersTheContractsMetricsAreOfAllTogether(t *testing.T) {
	serv3 := Peer{Name: "serv3", State: "up", Suspects: 4, SuspectsRefuted: 4, Silence: histogram(3_000_000),
		Links: []Link{{"crossover", false, histogram(2000), histogram(1_500_000)}, {"lan", true, histogram(1000), histogram()}}}
	got := exposed(t, NewCollector(fixed{Peers: []Peer{serv2, serv3}}))
	for _, want := range []string{
		`xdpha_peer_state 4`, `xdpha_suspects_total 7`, `xdpha_suspects_refuted_total 6`, `xdpha_deaths_reverted_total 1`,
		`xdpha_silence_seconds_count 3`, `xdpha_silence_max_seconds 0.003`,
		`xdpha_link_up{link="crossover"} 0`, `xdpha_link_up{link="lan"} 0`,
		`xdpha_heartbeat_rtt_seconds_count{link="crossover"} 4`, `xdpha_heartbeat_rtt_seconds_count{link="lan"} 1`,
		`xdpha_heartbeat_gap_max_seconds{link="crossover"} 0.0015`,
		`xdpha_node_state{node="serv2"} 4`, `xdpha_node_state{node="serv3"} 1`, `xdpha_node_suspects_total{node="serv3"} 4`,
		`xdpha_node_silence_max_seconds{node="serv2"} 0.0021`,
		`xdpha_node_link_up{link="crossover",node="serv2"} 1`, `xdpha_node_link_up{link="lan",node="serv2"} 0`, `xdpha_node_link_up{link="lan",node="serv3"} 1`,
		`xdpha_node_heartbeat_rtt_max_seconds{link="crossover",node="serv2"} 9e-05`, `xdpha_node_heartbeat_gap_max_seconds{link="crossover",node="serv2"} 0.0011`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if serv2.Links[0].RTT.Count() != 3 {
		t.Errorf("adding has changed what was added: %+v", serv2.Links[0].RTT)
	}
}

func exposed(t *testing.T, c *Collector) string {
	t.Helper()
	var b strings.Builder
	for _, mf := range gather(t, c) {
		if _, err := expfmt.MetricFamilyToText(&b, mf); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestUnknownSumIsNotANumber(t *testing.T) {
	h := histogram(1000)
	h.SumNS = 0
	for _, mf := range gather(t, NewCollector(fixed{Peers: []Peer{{Links: []Link{{Name: "lan", RTT: h}}}}})) {
		if mf.GetName() == "xdpha_heartbeat_rtt_seconds" {
			if got := mf.GetMetric()[0].GetHistogram().GetSampleSum(); !math.IsNaN(got) {
				t.Error(got)
			}
		}
	}
}

// With arbiter none there is no right to serve, and a peer that is not heard says nothing: a 0 would be an alarm.
func TestWhatDoesNotApplyIsAbsent(t *testing.T) {
	for _, mf := range gather(t, NewCollector(fixed{})) {
		if n := mf.GetName(); n == "xdpha_right_to_serve_remaining_seconds" || n == "xdpha_peer_services_up" {
			t.Errorf("%s is there: %v", n, mf.GetMetric())
		}
	}
}

func TestOneBadValueDoesNotTakeTheOthersWithIt(t *testing.T) {
	w := get(t, NewCollector(fixed{Services: []Service{{Name: "bad\xff"}}, SelfStalls: 5}), control.Status{}, "/metrics")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "xdpha_self_stalls_total 5\n") {
		t.Error(w.Code, w.Body)
	}
}

func get(t *testing.T, c *Collector, s control.Status, path string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := Handler(c, func() control.Status { return s }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestStatusPageTellsAllAndEscapesIt(t *testing.T) {
	s := control.Status{
		Node: "serv1", Cluster: "lj64", Standby: true, Peer: control.Peer{Name: "serv2", State: control.PeerDead},
		Links:        []control.Link{{Name: "crossover", Up: true, RTTUS: control.RTT{P50: 1.3}, LastHeardUS: 1500}},
		Identities:   []control.Identity{{Name: "files", Home: "serv1", Generation: 41, Gate: control.GateClosed, Reason: "lease", Addresses: []string{"192.0.2.21/24"}}},
		Services:     []control.Service{{Name: "samba", State: "failed", Reason: `<script>alert("x")</script>`}},
		Mirrors:      []control.Mirror{{Name: "samba-data", Direction: "out", LagS: 2}},
		LastTakeover: &control.Takeover{Identity: "files", Cause: "peer-dead", Timeline: control.Timeline{From: control.FromEvidence, DeadUS: 4200, OutUS: 6700}},
	}
	w := get(t, sample(), s, "/")
	page := w.Body.String()
	for _, want := range []string{
		`http-equiv="refresh"`, "serv1", "lj64", "xdpha standby off", `<span class="bad">dead</span>`, "crossover", "1.3µs", "1.5ms", "files",
		`<span class="bad">nobody</span>`, "41", "192.0.2.21/24", "samba", "&lt;script&gt;", "samba-data", "4.2ms", "6.7ms", "peer-dead",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	if strings.Contains(page, "<script") {
		t.Error("page has a script")
	}
	if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Error(w.Code, w.Header())
	}
}

func TestTheStatusPageShowsAllPeersAndWhoTakesWhat(t *testing.T) {
	peer := func(name, state string, up bool) control.Peer {
		return control.Peer{Name: name, State: state, SupervisorAgeUS: 48_000, Links: []control.Link{{Name: "crossover", Up: up, RTTUS: control.RTT{P50: 12}}}}
	}
	s := control.Status{Node: "serv1", Peers: []control.Peer{peer("serv2", control.PeerUp, true), peer("serv3", control.PeerDead, false)},
		Identities: []control.Identity{{Name: "files", Home: "serv1", Prefer: []string{"serv3", "serv2"}}}}
	s.Peer = control.Worst(s.Peers)
	page := get(t, sample(), s, "/").Body.String()
	for _, want := range []string{
		"Of 2 peers the worst, serv3:", `<td>serv2</td><td><span class="good">up</span></td><td class="n">48ms ago</td>`, `crossover <span class="good">up</span> <span class="dim">12µs</span>`,
		`<td>serv3</td><td><span class="bad">dead</span></td>`, `crossover <span class="bad">down</span>`, `then serv3</span><br><span class="dim">then serv2`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q:\n%s", want, page)
		}
	}
	s.Peers = s.Peers[:1]
	if page := get(t, sample(), s, "/").Body.String(); strings.Contains(page, "<h2>Peers") || strings.Contains(page, "then serv3") {
		t.Error("of a pair it shows more than its peer")
	}
}

func TestEmptyStatusPageAndUnknownPaths(t *testing.T) {
	if w := get(t, sample(), control.Status{}, "/"); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "Last takeover") {
		t.Error(w.Code)
	}
	if w := get(t, sample(), control.Status{}, "/etc"); w.Code != http.StatusNotFound {
		t.Error(w.Code)
	}
}

func TestServeAnswersUntilItsContextEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h, err := Handler(sample(), func() control.Status { return control.Status{} }, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, log) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Contains(b, []byte("xdpha_build_info")) || !bytes.Contains(b, []byte("process_")) {
		t.Errorf("%s, %v", b, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
