// SPDX-License-Identifier: Apache-2.0

// Package loader owns the BPF objects: it loads, pins, attaches and upgrades the
// programs of package bpf and gives their maps as typed values. It knows nothing
// of policy: what a word means is the core's business, who may change it the
// kernel programs'.
package loader
