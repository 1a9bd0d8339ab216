// SPDX-License-Identifier: Apache-2.0

// Package journal keeps every input of the core with its time, so that any incident can be
// played again, and plays it.
//
// It owns the format, the files' bounds and the reader, which trusts nothing that it reads. It
// must not know the daemon, nor what an input means.
//
// # The files
//
// A journal is two files: `journal`, which is written, and `journal.1`, which was full. Each is
// lines of text, and each line one entry: eight hex digits, which are the CRC-32C of the rest
// without its newline; a space; a JSON object. An entry is one of
//
//   - a start: the builds' versions, the machine's boot, core.Config and core.Saved. A new core.
//   - a state, only as the first of a file: all that a start has, and core.State. The core goes on
//     from there, so every file can be played without the one before it.
//   - an input: its boottime, the event, and the sum of the text of what the core decided.
//
// A full file is therefore the least that is always there to be played, once one was full: 16 MiB,
// some 80,000 inputs.
//
// A Tick that changes nothing in the core's state but its clock is left out: the next input brings
// a later time, and the core is then what it would have been. An idle node writes nothing.
//
// # The disk
//
// Who steps a core never waits for a disk: entries wait in memory, up to 4 MiB, and a goroutine writes
// them, each second or sooner. At the first entry for which there is no room the journal ends, as it does
// at the first write that fails. What waits at the end is waited for, for a second.
//
// # Damage
//
// What a killed process left half written at the end is cut off at the next start, and is not
// damage while it stands there. Any other line that is not what was written is named, and what
// follows is not played before the next start: it may build on what is lost.
package journal
