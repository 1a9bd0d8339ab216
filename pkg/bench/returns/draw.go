// SPDX-License-Identifier: Apache-2.0

package returns

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// Moment is a point of a return, from which the time to the second fault counts.
type Moment string

// The moments, in the order in which they come.
const (
	Back    Moment = "back"    // what had failed is healed: a node without power begins to boot
	Copying Moment = "copying" // data is on its way to the home
	Asked   Moment = "asked"   // the order to give back was taken
	Stopped Moment = "stopped" // the service is off on the other node
	Started Moment = "started" // and runs at home
)

var moments = []Moment{Back, Copying, Asked, Stopped, Started}

// first are the faults after which the other node takes over.
var first = []lab.Fault{lab.FaultPower, lab.FaultHang, lab.FaultPanic, lab.FaultReboot, lab.FaultDaemonStop, lab.FaultIsolate}

// second are those that hit the return.
var second = []lab.Fault{
	lab.FaultPower, lab.FaultHang, lab.FaultPanic, lab.FaultPause, lab.FaultReboot, lab.FaultBootBoth, lab.FaultDaemonKill,
	lab.FaultDaemonStop, lab.FaultCrossover, lab.FaultLAN, lab.FaultIsolate, lab.FaultPartition,
}

// Bounds of what is drawn.
const (
	afterWithin = 400 * time.Millisecond
	lastAtLeast = 20 * time.Millisecond
	lastWithin  = 2 * time.Second
)

// Round is one return: what was drawn of it, and what came of it.
type Round struct {
	Number  int
	Seed    uint64
	First   lab.Fault // at the home
	Moment  Moment
	AfterNs int64 // it
	Second  lab.Fault
	At      lab.Identity // whose home the second fault hits
	LastsNs int64

	Phase  string // in which the second fault fell
	Starts int
	Handed int // of them, by hand-over
	Taken  int // from a node that had failed
	TookNs int64
	Wrong  []string

	beganNs int64
}

// draw is a round; it follows from its arguments alone, so that each can be had again.
func draw(seed uint64, number int) Round {
	rnd := rand.New(rand.NewPCG(seed, uint64(number)))
	return Round{
		Number: number, Seed: seed,
		First: first[rnd.IntN(len(first))], Moment: moments[rnd.IntN(len(moments))], AfterNs: rnd.Int64N(int64(afterWithin)),
		Second: second[rnd.IntN(len(second))], At: lab.Identities[rnd.IntN(len(lab.Identities))],
		LastsNs: int64(lastAtLeast) + rnd.Int64N(int64(lastWithin-lastAtLeast)),
	}
}

func (r Round) String() string {
	return fmt.Sprintf("round %d: %s at %s; %s and %d ms: %s at %s for %d ms",
		r.Number, r.First, home, r.Moment, r.AfterNs/1e6, r.Second, r.At.Home, r.LastsNs/1e6)
}
