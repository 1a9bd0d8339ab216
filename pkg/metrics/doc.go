// SPDX-License-Identifier: Apache-2.0

// Package metrics turns what a node knows into Prometheus metrics and a status
// page.
//
// It owns the metrics' names, types and help, which are a contract with
// dashboards: names.go. Values come from a Source at each scrape; only what a
// takeover took is observed when it happens. It must not know where a Source
// gets its values.
//
// Distributions are native histograms. They carry classic buckets, too, for
// readers of the text format; and the maximum is a metric of its own, because
// a percentile hides the one that hurts.
package metrics
