// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/xdpha/xdpha/pkg/control"
)

const (
	// A native histogram of schema 0 has its bounds at powers of two of a
	// second, the kernel's has them at powers of two of a nanosecond. 2^30 ns
	// are 1.07 s: taking them for one second puts a value at most 7 % low and
	// keeps one bucket one bucket.
	nativeSchema = 0
	secondShift  = 30

	// The classic buckets' bounds: 2^10 ns to 2^33 ns, 1 µs to 9 s.
	classicFirst, classicLast = 10, 33
)

func (e emitter) histogram(d *prometheus.Desc, h control.Histogram, labels ...string) {
	sum := seconds(h.SumNS)
	if h.SumNS == 0 && h.Count() > 0 {
		sum = math.NaN() // nobody added them up
	}
	native := make(map[int]int64, len(h.Buckets))
	for i, n := range h.Buckets {
		if n > 0 { // index k holds (2^(k-1), 2^k] seconds
			native[i+1-secondShift] = int64(n)
		}
	}
	classic := make(map[float64]uint64, classicLast-classicFirst+1)
	for k := classicFirst; k <= classicLast; k++ {
		below := control.Histogram{Buckets: h.Buckets[:min(k, len(h.Buckets))]}
		classic[seconds(uint64(1)<<k)] = below.Count()
	}
	n, err := prometheus.NewConstNativeHistogram(d, h.Count(), sum, native, nil, 0, nativeSchema, prometheus.DefNativeHistogramZeroThreshold, e.since, labels...)
	if err != nil {
		e.send(d)(nil, err)
		return
	}
	c, err := prometheus.NewConstHistogram(d, h.Count(), sum, classic, labels...)
	e.send(d)(both{n, c, !e.since.IsZero()}, err)
}

// both is a native histogram with a classic one's buckets, as the library's own
// histograms are; it has no constant one of the kind.
type both struct {
	prometheus.Metric
	classic prometheus.Metric
	dated   bool
}

// Write implements prometheus.Metric.
func (b both) Write(out *dto.Metric) error {
	if err := b.Metric.Write(out); err != nil {
		return err
	}
	var c dto.Metric
	if err := b.classic.Write(&c); err != nil {
		return err
	}
	out.Histogram.Bucket = c.Histogram.Bucket
	if !b.dated {
		out.Histogram.CreatedTimestamp = nil
	}
	return nil
}
