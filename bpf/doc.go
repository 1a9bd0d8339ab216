// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel side in C, and what is generated of it: the compiled
// programs and the Go mirror of their maps. It has no Go logic; package loader uses it.
package bpf
