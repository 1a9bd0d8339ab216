// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Numbers of the frame, as in bpf/abi.h and bpf/limits.h.
const (
	Port          = 7364
	Version       = 2
	TTL           = 255 // has crossed no router: RFC 5082
	MaxIdentities = 16

	magic      = 0x4458 // "XD"
	ethBytes   = 14
	ipBytes    = 20
	udpBytes   = 8
	headOffset = ethBytes + ipBytes + udpBytes
	headBytes  = 72
	tagBytes   = 8
	classCS6   = 0xc0 // DSCP of network control: RFC 4594
	dontSplit  = 0x4000
)

// Offsets of the head's fields within the whole frame, for tests and tools that change one.
const (
	OffsetTTL        = ethBytes + 8
	OffsetMagic      = headOffset
	OffsetVersion    = headOffset + 2
	OffsetDirection  = headOffset + 3
	OffsetSender     = headOffset + 4
	OffsetLink       = headOffset + 5
	OffsetKeyID      = headOffset + 6
	OffsetIdentities = headOffset + 7
	OffsetCluster    = headOffset + 8
	OffsetWords      = headOffset + headBytes
)

// Size returns the bytes of a whole frame with n words.
func Size(n int) int { return headOffset + headBytes + 8*n + tagBytes }

// What can be wrong with a frame, in the order in which Parse looks.
var (
	ErrNotHeartbeat = errors.New("not a heartbeat")
	ErrTruncated    = errors.New("truncated")
	ErrBadMagic     = errors.New("bad magic")
	ErrBadVersion   = errors.New("bad version")
	ErrBadShape     = errors.New("bad shape")
	ErrOversized    = errors.New("oversized")
	ErrBadTTL       = errors.New("bad TTL")
	ErrBadChecksum  = errors.New("bad IPv4 header checksum")
	ErrUnknownKey   = errors.New("unknown key")
	ErrBadTag       = errors.New("bad tag")
)

// Direction tells a probe from a reply. A reply is never answered.
type Direction uint8

// The directions.
const (
	Probe Direction = iota
	Reply
)

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is every station's MAC.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Key signs frames. ID tells the receiver which of its keys to use.
type Key struct {
	ID     uint8
	K0, K1 uint64
}

// Frame is one heartbeat. Words are ownership words, one an identity.
type Frame struct {
	SrcMAC, DstMAC   MAC
	SrcIP, DstIP     netip.Addr // IPv4
	SrcPort, DstPort uint16
	TTL              uint8

	Direction Direction
	Sender    uint8
	Link      uint8
	KeyID     uint8
	ClusterID uint32
	AgeUS     uint32 // of the sender's supervisor lease
	BootID    uint64
	Nonce     uint64 // the sender's
	Echo      uint64 // the receiver's nonce, as the sender heard it
	Seq       uint64 // of the probe
	SentNS    uint64 // of this frame, on its sender's clock
	GrantNS   uint64 // when the receiver's frame left, on its clock, that the sender counts as life; 0: none
	Flags     uint32
	Digest    uint32
	Words     []uint64
}

// Marshal returns the whole frame, signed. Zero ports and TTL become the
// protocol's; the key's ID goes into the frame.
func (f Frame) Marshal(key Key) ([]byte, error) {
	if !f.SrcIP.Is4() || !f.DstIP.Is4() {
		return nil, fmt.Errorf("marshal heartbeat: addresses %v and %v: both must be IPv4", f.SrcIP, f.DstIP)
	}
	if len(f.Words) > MaxIdentities {
		return nil, fmt.Errorf("marshal heartbeat: %d words: at most %d fit", len(f.Words), MaxIdentities)
	}
	b := make([]byte, 0, Size(len(f.Words)))
	b = f.appendOuter(b)
	b = f.appendHead(b, key.ID)
	for _, w := range f.Words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	b = binary.LittleEndian.AppendUint64(b, 0)
	return b, Seal(b, key)
}

func (f Frame) appendOuter(b []byte) []byte {
	be := binary.BigEndian
	total := Size(len(f.Words)) - ethBytes
	b = append(append(b, f.DstMAC[:]...), f.SrcMAC[:]...)
	b = append(b, 0x08, 0x00)
	ip := append(make([]byte, 0, ipBytes), 0x45, classCS6)
	ip = be.AppendUint16(ip, uint16(total))
	ip = be.AppendUint16(ip, 0)
	ip = be.AppendUint16(ip, dontSplit)
	ip = append(ip, cmp.Or(f.TTL, TTL), 17, 0, 0)
	ip = append(append(ip, f.SrcIP.AsSlice()...), f.DstIP.AsSlice()...)
	be.PutUint16(ip[10:], ^onesSum(ip))
	b = append(b, ip...)
	b = be.AppendUint16(b, cmp.Or(f.SrcPort, Port))
	b = be.AppendUint16(b, cmp.Or(f.DstPort, Port))
	b = be.AppendUint16(b, uint16(total-ipBytes))
	return be.AppendUint16(b, 0) // no checksum: RFC 768; the tag covers more
}

func (f Frame) appendHead(b []byte, keyID uint8) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, magic)
	b = append(b, Version, byte(f.Direction), f.Sender, f.Link, keyID, byte(len(f.Words)))
	b = le.AppendUint32(b, f.ClusterID)
	b = le.AppendUint32(b, f.AgeUS)
	for _, v := range [...]uint64{f.BootID, f.Nonce, f.Echo, f.Seq, f.SentNS, f.GrantNS} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, f.Flags)
	return le.AppendUint32(b, f.Digest)
}

// Parse reads a whole frame and checks it with the key whose ID it bears. The
// error is one of this package's, wrapped. What the frame claims about cluster,
// sender, link and time is not judged.
func Parse(b []byte, keys ...Key) (Frame, error) {
	f, err := parse(b, keys)
	if err != nil {
		return Frame{}, fmt.Errorf("parse heartbeat of %d bytes: %w", len(b), err)
	}
	return f, nil
}

func parse(b []byte, keys []Key) (Frame, error) {
	if err := checkShape(b); err != nil {
		return Frame{}, err
	}
	f := decode(b)
	at := slices.IndexFunc(keys, func(k Key) bool { return k.ID == f.KeyID })
	if at < 0 {
		return Frame{}, fmt.Errorf("key %d: %w", f.KeyID, ErrUnknownKey)
	}
	if !tagged(b, keys[at]) {
		return Frame{}, ErrBadTag
	}
	return f, nil
}

// checkShape tells whether all fields are there and where they belong.
func checkShape(b []byte) error {
	be := binary.BigEndian
	if len(b) < headOffset || be.Uint16(b[12:]) != 0x0800 || b[14] != 0x45 || b[14+9] != 17 || be.Uint16(b[36:]) != Port {
		return ErrNotHeartbeat
	}
	if len(b) < headOffset+headBytes {
		return ErrTruncated
	}
	if binary.LittleEndian.Uint16(b[OffsetMagic:]) != magic {
		return ErrBadMagic
	}
	if b[OffsetVersion] != Version {
		return ErrBadVersion
	}
	n := int(b[OffsetIdentities])
	if n > MaxIdentities || b[OffsetDirection] > byte(Reply) {
		return ErrBadShape
	}
	if len(b) < Size(n) {
		return ErrTruncated
	}
	if len(b) > Size(n) {
		return ErrOversized
	}
	const fragment = 0x3fff // more fragments, or not the first
	if int(be.Uint16(b[16:])) != len(b)-ethBytes || int(be.Uint16(b[38:])) != len(b)-ethBytes-ipBytes ||
		be.Uint16(b[20:])&fragment != 0 {
		return ErrBadShape
	}
	if b[OffsetTTL] != TTL {
		return ErrBadTTL
	}
	if onesSum(b[ethBytes:ethBytes+ipBytes]) != 0xffff {
		return ErrBadChecksum
	}
	return nil
}

// decode reads a frame of checked shape.
func decode(b []byte) Frame {
	be, le := binary.BigEndian, binary.LittleEndian
	h := b[headOffset:]
	f := Frame{
		DstMAC: MAC(b[0:6]), SrcMAC: MAC(b[6:12]),
		SrcIP: netip.AddrFrom4([4]byte(b[26:30])), DstIP: netip.AddrFrom4([4]byte(b[30:34])),
		SrcPort: be.Uint16(b[34:]), DstPort: be.Uint16(b[36:]), TTL: b[OffsetTTL],
		Direction: Direction(h[3]), Sender: h[4], Link: h[5], KeyID: h[6],
		ClusterID: le.Uint32(h[8:]), AgeUS: le.Uint32(h[12:]),
		BootID: le.Uint64(h[16:]), Nonce: le.Uint64(h[24:]), Echo: le.Uint64(h[32:]),
		Seq: le.Uint64(h[40:]), SentNS: le.Uint64(h[48:]), GrantNS: le.Uint64(h[56:]),
		Flags: le.Uint32(h[64:]), Digest: le.Uint32(h[68:]),
	}
	for i := range int(h[7]) {
		f.Words = append(f.Words, le.Uint64(h[headBytes+8*i:]))
	}
	return f
}

// Seal signs a frame anew, for tests and tools that changed a part of it. The
// tag covers everything behind UDP and stands in the last eight bytes.
func Seal(b []byte, key Key) error {
	if len(b) < headOffset+tagBytes {
		return fmt.Errorf("seal heartbeat of %d bytes: %w", len(b), ErrTruncated)
	}
	end := len(b) - tagBytes
	binary.LittleEndian.PutUint64(b[end:], sipHash24(key.K0, key.K1, b[headOffset:end]))
	return nil
}

func tagged(b []byte, key Key) bool {
	end := len(b) - tagBytes
	want := binary.LittleEndian.AppendUint64(nil, sipHash24(key.K0, key.K1, b[headOffset:end]))
	return subtle.ConstantTimeCompare(want, b[end:]) == 1
}

// Answer returns the reply to a probe with self as its sender: addresses and
// MACs exchanged, the probe's sequence kept, its send time granted, its nonce echoed.
// What self says of itself is taken from there.
func (f Frame) Answer(self Frame) Frame {
	r := f
	r.SrcMAC, r.DstMAC = f.DstMAC, f.SrcMAC
	if f.DstMAC[0]&1 != 0 { // it did not know the receiver's MAC yet
		r.SrcMAC = self.SrcMAC
	}
	r.SrcIP, r.DstIP = f.DstIP, f.SrcIP
	r.Direction, r.Echo, r.GrantNS, r.SentNS = Reply, f.Nonce, f.SentNS, self.SentNS
	r.Sender, r.KeyID, r.AgeUS, r.BootID, r.Nonce = self.Sender, self.KeyID, self.AgeUS, self.BootID, self.Nonce
	r.Flags, r.Digest = self.Flags, self.Digest
	r.Words = slices.Clone(self.Words)
	return r
}

// onesSum is the one's complement sum of RFC 1071 over an even number of bytes.
func onesSum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
