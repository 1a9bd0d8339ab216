// SPDX-License-Identifier: Apache-2.0

// Package privilege owns what the program may do and who may make it do it: the
// capabilities that the daemon needs, each with its reason, that no child gets
// them, that no dump shows the program's memory, and whose process is at the
// other end of a unix socket. It knows nothing of what they are used for.
package privilege
