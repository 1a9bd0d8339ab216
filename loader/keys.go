// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/xdpha/xdpha/bpf"
)

// Key is a SipHash key and the byte that names it in frames.
type Key struct {
	K0, K1 uint64
	ID     uint8
}

// ErrKeyNumber says that a key bears the number of another one that the kernel holds.
var ErrKeyNumber = errors.New("another key of that number has been in force")

// keysSet is KEYS_SET of bpf/abi.h.
const keysSet = 1 << 16

func checkKeys(keys []Key) error {
	if len(keys) < 1 || len(keys) > 2 {
		return fmt.Errorf("configure datapath: %d keys, it takes 1 or 2", len(keys))
	}
	return nil
}

func keysWord(keys []Key) uint64 {
	return keysSet | uint64(keys[0].ID) | uint64(keys[len(keys)-1].ID)<<8
}

// SetKeys puts keys in force in the place of those before, while frames come and go: the first
// signs from the next frame on, and both are accepted. Numbers are not used again: a program may
// still be reading what a key that has gone has left in its slot.
func (d *Datapath) SetKeys(keys []Key) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	for _, k := range keys {
		if err := slotFits(d.objs.Keys, k); err != nil {
			return err
		}
	}
	for _, k := range keys {
		v := bpf.XdphaXdKey{K0: k.K0, K1: k.K1}
		if err := d.objs.Keys.Put(uint32(k.ID), &v); err != nil {
			return fmt.Errorf("write key %d: %w", k.ID, err)
		}
	}
	atomic.StoreUint64(&d.control.Keys, keysWord(keys))
	return nil
}

// slotFits tells whether a key's slot is free or its own.
func slotFits(slots *ebpf.Map, k Key) error {
	var have bpf.XdphaXdKey
	if err := slots.Lookup(uint32(k.ID), &have); err != nil {
		return fmt.Errorf("read key %d: %w", k.ID, err)
	}
	if have != (bpf.XdphaXdKey{}) && !same(have, k) {
		return fmt.Errorf("write key %d: %w", k.ID, ErrKeyNumber)
	}
	return nil
}

// same takes as long for one key as for another.
func same(have bpf.XdphaXdKey, k Key) bool {
	diff := have.K0 ^ k.K0 | have.K1 ^ k.K1
	return subtle.ConstantTimeEq(int32(diff), 0)&subtle.ConstantTimeEq(int32(diff>>32), 0) == 1
}

// succeed tells whether keys can take the place of what an earlier process left in force without
// the peer noticing: all have their slots, and one is in force already.
func succeed(slots, control *ebpf.Map, keys []Key) (bool, error) {
	var c bpf.XdphaXdControl
	if err := control.Lookup(uint32(0), &c); err != nil {
		return false, fmt.Errorf("read control map: %w", err)
	}
	shared := false
	for _, k := range keys {
		switch err := slotFits(slots, k); {
		case errors.Is(err, ErrKeyNumber):
			return false, nil
		case err != nil:
			return false, err
		}
		shared = shared || c.Keys&keysSet != 0 && (k.ID == uint8(c.Keys) || k.ID == uint8(c.Keys>>8))
	}
	return shared, nil
}
