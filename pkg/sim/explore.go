// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
)

// Found is what an exhaustive check comes to.
type Found struct {
	States int  // that are different, the first one included
	Depth  int  // to which all are known: how many steps from the first one
	Whole  bool // there are no others, at any depth
	// Wrong is what must not be, or "": nothing is; Story are the steps that lead to it.
	Wrong string
	Story []string
}

// state is one that can be explored.
type state[S any] interface {
	encode(b []byte) []byte
	moves(list []move) []move
	do(m move)
	name(m move) string
	clone() S
	failure() string
}

// failed is a state in which something is wrong, by its predecessor and the last move.
type failed struct {
	text string
	from uint64
	by   move
}

// Limits end an exploration, by the depth or at the first depth with more states.
type Limits struct{ Depth, States int }

type step struct {
	from uint64
	m    move
}

// shard is a part of the states that are known, by their hash, with how each is reached.
type shard struct {
	sync.Mutex
	known map[uint64]step
}

// explore looks at every state that can be reached, in the order of its depth.
func explore[S state[S]](first S, l Limits) Found {
	seed := maphash.MakeSeed()
	var known [64]shard
	for i := range known {
		known[i].known = map[uint64]step{}
	}
	learn := func(h uint64, s step) bool {
		k := &known[h%64]
		k.Lock()
		defer k.Unlock()
		if _, old := k.known[h]; old {
			return false
		}
		k.known[h] = s
		return true
	}
	root := maphash.Bytes(seed, first.encode(nil))
	learn(root, step{})
	found := Found{States: 1, Wrong: first.failure()} // of what came before, if of anything
	if found.Wrong != "" {
		return found
	}
	type reached struct {
		s S
		h uint64
	}
	level := []reached{{first, root}}
	for len(level) > 0 && found.Depth < l.Depth && found.States < l.States {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var next []reached
		var wrong *failed
		parts := runtime.NumCPU()
		for part := range parts {
			wg.Go(func() {
				var mine []reached
				var buf []byte
				var list []move
				for i := part; i < len(level); i += parts {
					at := level[i]
					list = at.s.moves(list)
					for _, m := range list {
						s := at.s.clone()
						s.do(m)
						buf = s.encode(buf)
						h := maphash.Bytes(seed, buf)
						if s.failure() != "" { // whether or not such a state is known without it
							mu.Lock()
							wrong = &failed{s.failure(), at.h, m}
							mu.Unlock()
							return
						}
						if learn(h, step{at.h, m}) {
							mine = append(mine, reached{s, h})
						}
					}
				}
				mu.Lock()
				next = append(next, mine...)
				mu.Unlock()
			})
		}
		wg.Wait()
		found.Depth++
		found.States += len(next)
		if wrong != nil {
			found.Wrong = wrong.text
			way := []move{wrong.by}
			for h := wrong.from; h != root; {
				s := known[h%64].known[h]
				way, h = append(way, s.m), s.from
			}
			slices.Reverse(way)
			s := first.clone()
			for _, m := range way {
				found.Story = append(found.Story, s.name(m))
				s.do(m)
			}
			return found
		}
		level = next
	}
	found.Whole = len(level) == 0
	return found
}
