// SPDX-License-Identifier: Apache-2.0

// Package tickle lets a client of an identity notice at once that its TCP connection is gone with the earlier
// owner, instead of when it sends next, or its keep-alive ends.
//
// It owns the list of an identity's established connections, how the owner tells the other candidates of it
// (by package line), what of their word is kept and for how long, and the segments that are sent to the
// clients. It must not know the kernel side: it is told who owns what, and which ports can be connected to.
//
// A connection lives on the node that died: nobody can go on with it. Its client is
// sent one segment of it with numbers that cannot be right (sequence and
// acknowledgment 0). The client answers with what it expects (RFC 9293, section
// 3.10.7.4: an unacceptable segment is answered with an acknowledgment), and to that
// the new owner's stack, which has no such connection, says reset (section 3.5.2).
// So nothing has to be known of a connection but its two ends, and nobody's numbers
// have to be guessed: a list that is out of date resets nobody who is still served,
// for a living connection's owner takes the client's answer for the duplicate that it is.
// Therefore clients are told after a hand-over too, where most connections have been closed before.
//
// It is best effort: a connection that was made after the last list is not known, a
// segment that is lost is sent once more, and a firewall that drops what belongs to
// no connection drops these.
package tickle
