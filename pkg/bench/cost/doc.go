// SPDX-License-Identifier: Apache-2.0

// Package cost measures what it costs that xdpha is there: a pair of nodes at rest in the
// lab (pkg/lab), by the interval of its probes. It starts the real program and reads
// what the kernel says of its process, its BPF programs and its maps.
//
// It uses the lab and the control API, and must not know how the program works inside. It
// is not part of pkg/bench because the lab is no lower than that.
package cost
