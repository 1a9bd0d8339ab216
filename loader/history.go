// SPDX-License-Identifier: Apache-2.0

package loader

import "sync/atomic"

// StartedNS is when the detector began; what it counts, it counts since.
func (d *Datapath) StartedNS() int64 { return int64(atomic.LoadUint64(&d.state.StartedNs)) }

// LastTickNS is when the last own probe left, whoever paces; 0: none yet.
func (d *Datapath) LastTickNS() int64 {
	seq := atomic.LoadUint64(&d.state.Seq)
	if seq == 0 {
		return 0
	}
	return int64(atomic.LoadUint64(&d.state.Ticks[seq%uint64(len(d.state.Ticks))]))
}

// Flags is what the frames say now; an earlier process may have set it.
func (d *Datapath) Flags() Flags { return parseFlags(atomic.LoadUint64(&d.control.Flags)) }
