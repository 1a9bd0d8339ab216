// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/xdpha/xdpha/bpf"
)

// arbitrated is a node that owns and takes only with the identity's key in etcd, and whose peer has
// just fallen silent.
func arbitrated(v *truth) {
	v.config.Verdict, v.config.ServeNs = bpf.XdphaXdVerdictVERDICT_ETCD, serveFor
	v.peer.Paths[0].HeardNs, v.peer.HeardNs = now(), now()
}

// holds is the daemon's word on the key of an identity.
func (n *node) holds(identity int, generation, until uint64) {
	n.t.Helper()
	m, err := n.objs.Control.Memory()
	n.must(err)
	for _, w := range []struct {
		field uintptr
		v     uint64
	}{{unsafe.Offsetof(bpf.XdphaXdControl{}.LeaveNs), 0}, {unsafe.Offsetof(bpf.XdphaXdControl{}.LeaveGen), generation}, {unsafe.Offsetof(bpf.XdphaXdControl{}.LeaveNs), until}} {
		_, err = m.WriteAt(binary.NativeEndian.AppendUint64(nil, w.v), int64(w.field)+int64(8*identity))
		n.must(err)
	}
}

func TestADeadPeersIdentityIsTakenWithItsKeyAndGenerationOnly(t *testing.T) {
	n := watched(t, func(v *truth) { arbitrated(v); v.words[0] = 5 })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.holds(0, 6, now()+hour) // of another identity
	n.quiet()
	n.holds(1, 8, now()+hour) // at another generation
	n.quiet()
	n.holds(1, 6, now()-1) // no longer
	n.quiet()
	n.wantWords(5, ready|5)
	n.holds(1, 6, now()+hour)
	if e := n.expect(eventTakeover); e[0].A != owner|6 || e[0].Identity != 1 {
		t.Errorf("event %+v", e[0])
	}
	n.wantWords(5, owner|6)
}

// Nobody has granted anything for long, and listed hosts are none.
func TestAnOwnerOfAKeyServesAndOneWithoutIsCutOff(t *testing.T) {
	n := watched(t, func(v *truth) { arbitrated(v); v.words[1] = 5; v.control.LeaveNs[0] = now() + hour })
	n.probed(8, now())
	n.expect(eventSuspect, eventDead)
	n.quiet() // it is not told that it is cut off
	n.holds(0, 5, now())
	n.expect(eventIsolated)
	n.holds(0, 5, now()+hour)
	n.expect(eventRejoined)
	n.wantWords(owner|5, 5)
}
