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

func sample() *Collector {
	c := NewCollector(fixed{
		Since:               time.Unix(1_700_000_000, 0),
		Links:               []Link{{"crossover", true, histogram(1300, 1400, 90_000), histogram(1_000_000, 1_100_000)}, {"lan", false, histogram(), histogram()}},
		Frames:              []Frames{{"lan", "reply", "tx", "answered", 10}, {"lan", "probe", "drop", "bad_tag", 2}},
		Identities:          []Identity{{"files", true, true, 4, 1, map[string]uint64{"addresses": 2, "paths": 0}}, {"mail", false, false, 3, 0, nil}},
		Services:            []Service{{"samba", true, 2}},
		Mirrors:             []Mirror{{"samba-data", 12.5, 3, 1, 4096}, {"never", -1, 0, 0, 0}},
		Ages:                []Age{{"serv1", 1_000_000}, {"serv2", 2_500_000}},
		PeerState:           "supervisor-lost",
		Suspects:            3,
		SuspectsRefuted:     2,
		SelfStalls:          1,
		Reverted:            1,
		Silence:             histogram(1_000_000, 2_100_000),
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
	var got bytes.Buffer
	for _, mf := range gather(t, sample()) {
		if _, err := expfmt.MetricFamilyToText(&got, mf); err != nil {
			t.Fatal(err)
		}
	}
	if *rewrite {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); d != "" {
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

func TestUnknownSumIsNotANumber(t *testing.T) {
	h := histogram(1000)
	h.SumNS = 0
	for _, mf := range gather(t, NewCollector(fixed{Links: []Link{{Name: "lan", RTT: h}}})) {
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
	w := get(t, NewCollector(fixed{Services: []Service{{Name: "bad\xff"}}, Suspects: 5}), control.Status{}, "/metrics")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "xdpha_suspects_total 5\n") {
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
