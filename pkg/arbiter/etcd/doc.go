// SPDX-License-Identifier: Apache-2.0

// Package etcd wins, keeps and gives up the identities' keys in an etcd cluster, and tells until
// when each is surely held.
//
// It owns the node's lease, the connections and the two keys of each identity. It must not know
// the kernel, the peer, or why a key is wanted; generations come from its caller, it stores and
// compares them. Nothing here blocks its caller, and every request is bounded in time.
//
// # Keys
//
//	<prefix>/<cluster>/<identity>/owner       leased: node, generation and boot of who holds it
//	<prefix>/<cluster>/<identity>/generation  never leased: the highest generation that ever held it
//
// One transaction takes an identity: the owner's key is as it was read (absent, or of this very
// boot), the generation's key is unchanged since, and the new generation is none below it; then
// both are written. An owner's key of an earlier boot of this node is a stranger's: its gates may
// have been open a moment ago, so it is waited for until it expires.
//
// # Until when a key is surely held
//
// etcd removes a key with its lease. The lease lives for at least the granted time after its
// leader renewed it, on the leader's clock; a new leader starts the time anew. The renewal was
// sent before that, so with t the send time on this node's clock, T the granted time, ρ the error
// of a clock's rate and ε the time for which a frame lingers behind the gate, the key is held for
// all d with
//
//	d/(1-ρ) + ε ≤ T/(1+ρ)   after t:   d = (T/(1+ρ) - ε)·(1-ρ)
//
// The leader's clock may run fast, this one slow, and a frame may linger: all of it is inside.
// Nobody else writes the owner's key meanwhile, so nobody else holds it. If etcd is slow, or not
// reached, the time is not extended and runs out here first; the kernel compares it with the clock
// for every packet, so a stopped process changes nothing.
//
// A renewal counts only when a linearizable reading, or a transaction of ours, has shown after it
// that the key stands with this lease: one that has not applied a revocation yet may confirm a lease
// that is gone, and cannot confirm the key then. A leader that has been replaced without knowing it may
// confirm a renewal of a lease that stands, of which the new leader does not know. What covers that
// is etcd's own margin: a leader that hears no majority for an election timeout steps down, and a new
// one adds an election timeout to every lease (lessor.Promote). It does not cover a leader that stood
// still, goes on, and is cut off from the other members in that moment but not from this node.
//
// # Requests whose answer is lost
//
// They may be carried out at any later time. A late taking finds the generation's key changed, or
// puts a key that nobody counts on, which is then removed. A late removal names the revision that it
// removes: a key of that revision is never counted on again, it is first written anew.
package etcd
