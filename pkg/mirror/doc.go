// SPDX-License-Identifier: Apache-2.0

// Package mirror keeps sets of directories on both nodes: from the owner of the identity that a set
// belongs to, to the other node, by the distribution's rsync.
//
// It owns when a set is copied, what must be true of a directory before anything is deleted for its
// sake, and which generation may write. What is sent goes by the line between the daemons (package line).
//
// It must not know how an owner is chosen: [Manager.Follow] tells it. Nor does it know how files are
// compared and copied, which is rsync's work.
//
// # Who may write
//
// A generation names one time of one owner (package core), and only that node may send under it. The
// receiving side remembers the highest generation of each set, on disk before it answers, and refuses
// a lower one before a byte is written. A run of a lower generation that is under way ends: Follow
// returns when its process is gone.
//
// # Whose data is kept
//
// Each node remembers the terms of owners that its data has gone through ([past]). A run is refused
// unless the sender's data has gone through the last term of the receiver's: what is here and not there
// is given up by an administrator alone. What the last runs of a term did not bring over belongs to
// that term, and goes with it. What an owner writes while the other node is away is of a term of its own
// ([Manager.Alone]), of which that node gets all in one run before it gets parts again.
//
// A copy counts as whole ([State]) if no higher generation is known, and if its past holds the last term of the
// other node's data, as far as that has said so: when it was asked ([Manager.AskPeer]), or when it sent a run.
//
// # What is trusted of the peer
//
// Nothing that is not compared with the own configuration: the peer names a set and a path, and the
// receiving side builds rsync's arguments from its own file.
//
// # What a run sees
//
// A file counts as unchanged if its size and its time in nanoseconds are those of the copy. Before
// Linux 6.13 two changes within one tick (1 to 10 ms) leave the same time: where the size is the same
// too and a run looked in between, the second change is copied with the file's next one. The same holds, on
// any kernel, for a file that two nodes which served apart have written last within one tick, to the same size.
package mirror
