// SPDX-License-Identifier: Apache-2.0

// Package stats is what benchmarks of outages have in common: how a spread of durations
// is summed up, printed and written, and what a report says of the machine. It knows nothing of
// what was measured.
package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Spread is what a number of durations come to.
type Spread struct {
	MedianNS int64 `json:"median_ns"`
	P90NS    int64 `json:"p90_ns"`
	P99NS    int64 `json:"p99_ns"`
	MaxNS    int64 `json:"max_ns"`
}

// Of sums up durations in any order, which it keeps.
func Of(ns []int64) Spread {
	s := slices.Sorted(slices.Values(ns))
	return Spread{MedianNS: Median(s), P90NS: Quantile(s, 0.9), P99NS: Quantile(s, 0.99), MaxNS: Quantile(s, 1)}
}

// Median of sorted values; of two in the middle, what lies between them.
func Median(sorted []int64) int64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Quantile is the least of the sorted values that a share q of them does not exceed.
func Quantile(sorted []int64, q float64) int64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// MS prints a duration for a table.
func MS(ns int64) string { return fmt.Sprintf("%.2f ms", float64(ns)/1e6) }

// KernelRelease is that of this machine.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// WriteJSON writes a report for programs to a file.
func WriteJSON(file string, report any) error {
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("encode figures: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}
