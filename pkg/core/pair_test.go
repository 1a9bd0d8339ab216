// SPDX-License-Identifier: Apache-2.0

package core

import (
	"flag"
	"fmt"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the two-machine tests with this seed only")
	seedsFlag = flag.Uint64("seeds", 12, "how many seeds each two-machine test runs")
)

func pair(t *testing.T, lossy, lapses bool) {
	first, last := uint64(1), *seedsFlag
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := newSim(t, seed, lossy, lapses)
			s.run(20000)
			if s.changes < 4 {
				t.Fatalf("only %d changes of owner: the test tests nothing", s.changes)
			}
		})
	}
}

// While every frame arrives: one owner at every instant, each generation used
// once and in order, exclusive services never on both nodes.
func TestNeverTwoOwnersWhileFramesArrive(t *testing.T) { pair(t, false, false) }

// The same, but for services, with daemons that hang, are killed and return.
func TestNeverTwoOwnersWhileDaemonsFail(t *testing.T) { pair(t, false, true) }

// With loss, delay, reordering and one-way cuts: one owner again afterwards.
func TestConvergesAfterNetworkFaults(t *testing.T) { pair(t, true, true) }
