// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
)

// As in bpf/abi.h.
const (
	wordRuns     = 1 << 50
	runningEnded = 1 << 63
)

// SetRunning says that services of an identity which must run once may run here from now on, of which
// nothing is known yet: frames say so until SetEnded.
func (d *Datapath) SetRunning(identity int) {
	atomic.StoreUint64(&d.control.Running[identity], uint64(Now()))
}

// AddRunning says that one more may. What a guard has ended is not forgotten by it.
func (d *Datapath) AddRunning(identity int) {
	at := &d.control.Running[identity]
	for {
		old := atomic.LoadUint64(at)
		if atomic.CompareAndSwapUint64(at, old, uint64(Now())|old&runningEnded) {
			return
		}
	}
}

// SetEnded says that none of them runs here.
func (d *Datapath) SetEnded(identity int) { atomic.StoreUint64(&d.control.Running[identity], 0) }

// Guarded reports that a guard has ended services of an identity since SetEnded.
func (d *Datapath) Guarded(identity int) bool {
	return atomic.LoadUint64(&d.control.Running[identity])&runningEnded != 0
}

// sharedMaps are those that a guard reads, in the order in which it is given them.
func (d *Datapath) sharedMaps() []int {
	o := &d.objs
	return []int{o.Config.FD(), o.Control.FD(), o.State.FD(), o.Peers.FD(), o.Words.FD()}
}

// Share returns descriptors of what OpenShared needs, for another process to inherit. The caller
// closes them.
func (d *Datapath) Share() (files []*os.File, err error) {
	for _, fd := range d.sharedMaps() {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("share maps: %w", err)
		}
		files = append(files, os.NewFile(uintptr(dup), "map"))
	}
	return files, nil
}

// Shared is what another process sees of a datapath. By descriptors that it has inherited it needs no
// privilege for that, and it goes on when the process that gave them to it has ended.
type Shared struct{ memory }

// OpenShared maps what Share gave; first is the number of the first of the descriptors, which are in a row.
func OpenShared(first int) (*Shared, error) {
	s, cfg := &Shared{}, (*bpf.XdphaXdConfig)(nil)
	for i, m := range []struct {
		name string
		size uintptr
		put  func(unsafe.Pointer)
	}{
		{"config", unsafe.Sizeof(s.cfg), func(p unsafe.Pointer) { cfg = (*bpf.XdphaXdConfig)(p) }},
		{"control", unsafe.Sizeof(*s.control), func(p unsafe.Pointer) { s.control = (*bpf.XdphaXdControl)(p) }},
		{"state", unsafe.Sizeof(*s.state), func(p unsafe.Pointer) { s.state = (*bpf.XdphaXdState)(p) }},
		{"peers", unsafe.Sizeof(*s.peers), func(p unsafe.Pointer) { s.peers = (*[MaxNodes]bpf.XdphaXdPeer)(p) }},
		{"words", unsafe.Sizeof(*s.words), func(p unsafe.Pointer) { s.words = (*[MaxIdentities]uint64)(p) }},
	} {
		b, err := mapMap(first+i, int(m.size))
		if err != nil {
			return nil, fmt.Errorf("map memory of %s by descriptor %d: %w", m.name, first+i, err)
		}
		m.put(unsafe.Pointer(&b[0]))
	}
	if cfg.Abi != ABI {
		return nil, fmt.Errorf("read the datapath's configuration: its version is %d, this build's is %d", cfg.Abi, ABI)
	}
	s.cfg = *cfg
	return s, nil
}

// RenewedNS is when the supervisor renewed its lease last.
func (s *Shared) RenewedNS() int64 { return int64(atomic.LoadUint64(&s.control.RenewedNs)) }

// Frozen reports that the daemon was told to leave everything where it is.
func (s *Shared) Frozen() bool { return atomic.LoadUint64(&s.control.Flags)&flagFrozen != 0 }

// RightUntil is until when an identity may be served here, once it is owned, by the rule of
// bpf/gate.h; 0: it was not let since it came here.
func (s *memory) RightUntil(identity int) int64 {
	if s.cfg.ServeNs == 0 {
		return math.MaxInt64
	}
	until := s.grantedUntil(identity)
	if s.cfg.Verdict == bpf.XdphaXdVerdictVERDICT_ETCD {
		until = max(until, int64(atomic.LoadUint64(&s.control.LeaveNs[identity])))
	}
	return until
}

// Running is not 0 while services of an identity which must run once may run here; each start makes it
// another value.
func (s *memory) Running(identity int) uint64 {
	return atomic.LoadUint64(&s.control.Running[identity]) &^ runningEnded
}

// Ended says that what ran when Running had that value was ended. all: and that nothing runs, unless
// more was started since.
func (s *Shared) Ended(identity int, running uint64, all bool) {
	at := &s.control.Running[identity]
	for {
		old := atomic.LoadUint64(at)
		next := old | runningEnded
		if all && old&^runningEnded == running {
			next = runningEnded
		}
		if old == 0 || atomic.CompareAndSwapUint64(at, old, next) {
			return // 0: the daemon knows already
		}
	}
}
