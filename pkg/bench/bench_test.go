// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/bench"
)

// Times are not asserted: they are the machine's. That every answer came is.
func TestEverySectionMeasuresAndPrints(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("root is needed for namespaces and programs, and XDPHA_REQUIRE_ROOT=1 forbids to skip")
		}
		t.Skip("root is needed for namespaces and programs")
	}
	for _, c := range []struct {
		section string
		runs    int
		check   func(*testing.T, bench.Result)
		prints  []string
	}{
		{"answers", 2, checkAnswers, []string{"heartbeat / bare reflector", "kernel's own ARP", "NS / bare reflector", "gate open, out"}},
		{"gate", 1, checkGates, []string{"IPv4, 1 addresses", "IPv6, 10000 addresses"}},
		{"flip", 1, checkFlips, []string{"16 identities, 10000 addresses", "is it flat?"}},
		{"flood", 1, checkStretches, []string{"heartbeats with a wrong tag", "takeovers", "heartbeat dropped bad_tag"}},
	} {
		t.Run(c.section, func(t *testing.T) {
			var out strings.Builder
			r, err := bench.Run(t.Context(), &out, bench.Options{Short: true, Repeat: c.runs, Only: []string{c.section}})
			t.Log(out.String())
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Runs) != c.runs {
				t.Fatalf("%d runs, want %d", len(r.Runs), c.runs)
			}
			for _, run := range r.Runs {
				c.check(t, run)
			}
			for _, want := range c.prints {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the table lacks %q", want)
				}
			}
		})
	}
}

func checkAnswers(t *testing.T, run bench.Result) {
	t.Helper()
	if run.Mode != "native" {
		t.Errorf("XDP is %q on veth, want native", run.Mode)
	}
	trips, ratios := 8, 5
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil { // the kernel itself answers no NS
		trips, ratios = 7, 4
	}
	if len(run.RoundTrips) != trips || len(run.Ratios) != ratios || len(run.Costs) != 10 {
		t.Errorf("%d round trips, %d ratios, %d costs; want %d, %d, 10", len(run.RoundTrips), len(run.Ratios), len(run.Costs), trips, ratios)
	}
	for _, x := range run.RoundTrips {
		if x.Answers == 0 || x.Lost != 0 || x.MedianNS <= 0 || x.P99NS < x.MedianNS || x.MaxNS < x.P99NS {
			t.Errorf("not every question was answered, or times are out of order: %+v", x)
		}
	}
	for _, x := range run.Ratios {
		if !isTime(x.Value) || x.AtMost < 1 {
			t.Errorf("not a ratio: %+v", x)
		}
	}
	for _, x := range run.Costs {
		if !isTime(x.NS) {
			t.Errorf("not a time: %+v", x)
		}
	}
}

func isTime(ns float64) bool { return ns > 0 && !math.IsInf(ns, 0) }

func checkGates(t *testing.T, run bench.Result) {
	t.Helper()
	if len(run.Gates) != 4 {
		t.Errorf("%d tables, want 4", len(run.Gates))
	}
	for _, x := range run.Gates {
		if !isTime(x.NotOursInNS) || !isTime(x.NotOursOutNS) { // a difference may be lost in noise
			t.Errorf("not a time: %+v", x)
		}
	}
}

func checkFlips(t *testing.T, run bench.Result) {
	t.Helper()
	if len(run.Flips) != 4 || len(run.Flat) != 2 {
		t.Errorf("%d kinds of flip, %d compared; want 4, 2", len(run.Flips), len(run.Flat))
	}
	for _, x := range run.Flips {
		if x.Takeovers != 3 || x.FirstMedianNS <= 0 || x.LastMinNS <= 0 || x.LastMedianNS < x.FirstMedianNS || x.LastMaxNS < x.LastMedianNS {
			t.Errorf("not every identity was flipped, or times are out of order: %+v", x)
		}
	}
}

// Nobody is taken for dead because of what a stranger sends. Nothing is said of gaps: the test
// runs on machines that stand still by themselves.
func checkStretches(t *testing.T, run bench.Result) {
	t.Helper()
	exits := map[string]string{
		"crossover heartbeats with a wrong tag": "heartbeat dropped bad_tag",
		"lan heartbeats with a wrong tag":       "heartbeat dropped bad_tag",
		"spare heartbeats with a wrong tag":     "heartbeat dropped bad_tag",
		"crossover heartbeats of another key":   "heartbeat dropped unknown_key",
		"lan heartbeats of another key":         "heartbeat dropped unknown_key",
		"spare heartbeats of another key":       "heartbeat dropped unknown_key",
		"lan ARP requests for an address":       "arp answered ok",
		"spare ARP requests for an address":     "arp dropped wrong_nic",
		"lan ARP claims of an address":          "arp dropped conflict",
		"lan noise to a virtual MAC":            "in pass gate_open",
		"crossover noise to a virtual MAC":      "in dropped wrong_nic",
	}
	if len(run.Stretches) != len(exits)+2 {
		t.Errorf("%d stretches, want %d", len(run.Stretches), len(exits)+2)
	}
	for _, x := range run.Stretches {
		if x.Takeovers != 0 {
			t.Errorf("%d takeovers: %+v", x.Takeovers, x)
		}
		if x.Probes == 0 || x.Crossover.GapNS == 0 || x.Lan.GapNS == 0 || x.Spare.GapNS == 0 {
			t.Errorf("no heartbeats: %+v", x)
		}
		if exit := exits[x.Link+" "+x.Flood]; exit != "" && (x.Sent == 0 || len(x.Counted) == 0 || x.Counted[0].Exit != exit) {
			t.Errorf("not a flood that ends as %s: %+v", exit, x)
		}
	}
}
