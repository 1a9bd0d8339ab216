// SPDX-License-Identifier: Apache-2.0

// Package config turns the one YAML file of the contract into a checked Config.
//
// It owns the file's shape, every default, every derived timing and every
// message about a mistake in it: file → private raw structs with positions →
// Config. A value is taken as it is written or refused; nothing is rounded.
//
// It must not know of the kernel, of interfaces that exist or of a running
// daemon: what it says about a file is the same on every machine, but for the
// name of this node and the secret.
package config
