// SPDX-License-Identifier: Apache-2.0

package node

import (
	"math"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/service"
)

func TestUseIsMeasuredBetweenReadingsOfOneRun(t *testing.T) {
	var u uses
	at, cpu, bytes := time.Unix(0, 0), time.Duration(0), uint64(0)
	read := func(more, moreCPU time.Duration, moreBytes, memory uint64) {
		at, cpu, bytes = at.Add(more), cpu+moreCPU, bytes+moreBytes
		u.note(service.Usage{Service: "samba", CPU: cpu, Memory: memory, IO: &service.IOUsage{ReadBytes: bytes}}, at)
	}
	read(0, 5*time.Second, 1000, 10) // before it was watched
	read(10*time.Second, 2*time.Second, 100, 30)
	read(10*time.Second, 8*time.Second, 900, 20)
	cpu, bytes = 0, 0
	read(10*time.Second, time.Second, 5, 5) // started anew: nothing is known of the time between
	read(10*time.Second, 2*time.Second, 0, 5)
	read(time.Hour, time.Hour, 0, 5) // the daemon stood still
	s := u.of["samba"]
	if s.measured != 30*time.Second || s.cpu != 12 || s.io != 1000 || s.memory != 30 {
		t.Errorf("%+v", s)
	}
	if math.Abs(s.cpuPeak-0.8) > 1e-9 || s.ioPeak != 90 {
		t.Errorf("peaks of %v processors and %v bytes a second", s.cpuPeak, s.ioPeak)
	}
}

func TestThisHostHasMemory(t *testing.T) {
	if m := memoryTotal(); m < 1<<26 {
		t.Errorf("%d bytes", m)
	}
}
