// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	signing = Key{ID: 7, K0: 0x0706050403020100, K1: 0x0f0e0d0c0b0a0908}
	retired = Key{ID: 6, K0: 1, K1: 2}
)

func probe() Frame {
	return Frame{
		SrcMAC: MAC{2, 0, 0, 0, 0, 1}, DstMAC: MAC{2, 0, 0, 0, 0, 2},
		SrcIP: netip.MustParseAddr("192.168.111.1"), DstIP: netip.MustParseAddr("192.168.111.2"),
		SrcPort: Port, DstPort: Port, TTL: TTL,
		Sender: 0, Link: 1, KeyID: signing.ID, ClusterID: 0xc1c2c3c4, AgeUS: 1234,
		BootID: 11, Nonce: 22, Echo: 33, Seq: 44, SentNS: 55, GrantNS: 88, Flags: 66, Digest: 77,
		Words: []uint64{1<<63 | 5, 1<<61 | 6},
	}
}

func marshal(t testing.TB, f Frame, k Key) []byte {
	t.Helper()
	b, err := f.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The file holds the 64 results that the authors publish: key 00 01 … 0f, message 00 01 … of each length.
func TestSipHashGivesTheAuthorsResults(t *testing.T) {
	file, err := os.Open("../../testdata/frames/siphash-2-4.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	message := []byte{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		got := sipHash24(signing.K0, signing.K1, message)
		bytes := make([]byte, 8)
		for i := range bytes {
			bytes[i] = byte(got >> (8 * i))
		}
		if hex.EncodeToString(bytes) != lines.Text() {
			t.Errorf("message of %d bytes: %x, want %s", len(message), bytes, lines.Text())
		}
		message = append(message, byte(len(message)))
	}
	if len(message) != 64 {
		t.Fatalf("%d results read, want 64", len(message))
	}
}

// The golden file was written out by hand from abi.h.
func TestAFrameStandsOnTheWireAsTheABISays(t *testing.T) {
	text, err := os.ReadFile("../../testdata/frames/probe.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		b, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	got := marshal(t, probe(), signing)
	if diff := cmp.Diff(hex.Dump(want), hex.Dump(got[:len(got)-8])); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsMarshalledParses(t *testing.T) {
	for n := range MaxIdentities + 1 {
		f := probe()
		f.Words = slices.Repeat([]uint64{1 << 63}, n)
		got, err := Parse(marshal(t, f, signing), retired, signing)
		if diff := cmp.Diff(f, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%d words: %v\n%s", n, err, diff)
		}
	}
}

func TestMarshalRefusesWhatNoFrameHolds(t *testing.T) {
	f := probe()
	f.DstIP = netip.MustParseAddr("2001:db8::1")
	if _, err := f.Marshal(signing); err == nil {
		t.Error("an IPv6 address was marshalled")
	}
	f = probe()
	f.Words = make([]uint64, MaxIdentities+1)
	if _, err := f.Marshal(signing); err == nil {
		t.Error("too many words were marshalled")
	}
	if err := Seal(make([]byte, headOffset), signing); !errors.Is(err, ErrTruncated) {
		t.Errorf("sealing a frame without room for a tag: %v", err)
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	for _, c := range []struct {
		name   string
		mutate func([]byte) []byte
		sealed bool // signed anew, so that nothing but the change is wrong
		want   error
	}{
		{"not IPv4", set(12, 0x86), true, ErrNotHeartbeat},
		{"IPv4 options", set(14, 0x46), true, ErrNotHeartbeat},
		{"TCP", set(23, 6), true, ErrNotHeartbeat},
		{"another port", set(37, 1), true, ErrNotHeartbeat},
		{"magic", set(OffsetMagic, 0), true, ErrBadMagic},
		{"version", set(OffsetVersion, 1), true, ErrBadVersion},
		{"direction", set(OffsetDirection, 2), true, ErrBadShape},
		{"too many words", set(OffsetIdentities, MaxIdentities+1), true, ErrBadShape},
		{"more words than are there", set(OffsetIdentities, 3), true, ErrTruncated},
		{"fewer words than are there", set(OffsetIdentities, 1), true, ErrOversized},
		{"one byte more", func(b []byte) []byte { return append(b, 0) }, false, ErrOversized},
		{"IPv4 length", set(17, 0), true, ErrBadShape},
		{"UDP length", set(39, 0), true, ErrBadShape},
		{"fragment", set(20, 0x20), true, ErrBadShape},
		{"TTL", set(OffsetTTL, 254), true, ErrBadTTL},
		{"IPv4 checksum", set(15, 0), true, ErrBadChecksum},
		{"key", set(OffsetKeyID, 9), true, ErrUnknownKey},
		{"another key's tag", set(OffsetKeyID, retired.ID), true, ErrBadTag},
		{"a word", set(OffsetWords, 0xff), false, ErrBadTag},
		{"the tag", func(b []byte) []byte { b[len(b)-1] ^= 0x80; return b }, false, ErrBadTag},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.mutate(marshal(t, probe(), signing))
			if c.sealed {
				if err := Seal(b, signing); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Parse(b, signing, retired); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNoPartOfAFrameParses(t *testing.T) {
	whole := marshal(t, probe(), signing)
	for n := range whole {
		want := ErrTruncated
		if n < headOffset {
			want = ErrNotHeartbeat
		}
		if _, err := Parse(whole[:n], signing); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestEveryBitUnderTheTagCounts(t *testing.T) {
	whole := marshal(t, probe(), signing)
	for bit := 8 * headOffset; bit < 8*len(whole); bit++ {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := Parse(b, signing); err == nil {
			t.Errorf("bit %d turned: it parsed", bit)
		}
	}
}

func TestAnAnswerEchoesTheProbe(t *testing.T) {
	self := Frame{SrcMAC: MAC{2, 9}, Sender: 1, KeyID: 6, AgeUS: 9, BootID: 8, Nonce: 7, SentNS: 99, Flags: 6, Digest: 5, Words: []uint64{4}}
	p := probe()
	p.DstMAC = Broadcast
	want := p
	want.SrcMAC, want.DstMAC, want.SrcIP, want.DstIP = MAC{2, 9}, p.SrcMAC, p.DstIP, p.SrcIP
	want.Direction, want.Echo, want.Sender, want.KeyID = Reply, p.Nonce, 1, 6
	want.GrantNS, want.SentNS = p.SentNS, 99
	want.AgeUS, want.BootID, want.Nonce, want.Flags, want.Digest, want.Words = 9, 8, 7, 6, 5, []uint64{4}
	if diff := cmp.Diff(want, p.Answer(self), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// Whatever parses, parses to the same again after it was marshalled.
func FuzzParse(f *testing.F) {
	f.Add(marshal(f, probe(), signing))
	f.Add(marshal(f, probe().Answer(probe()), retired))
	f.Add([]byte{})
	noPort := marshal(f, probe(), signing)
	noPort[34], noPort[35] = 0, 0 // RFC 768: it need not be given
	f.Add(noPort)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sealed := range []bool{false, true} {
			b := slices.Clone(b)
			if sealed && Seal(b, signing) != nil {
				return
			}
			got, err := Parse(b, signing, retired)
			if err != nil {
				continue
			}
			key := signing
			if got.KeyID == retired.ID {
				key = retired
			}
			again, err := Parse(marshal(t, got, key), key)
			if got.SrcPort == 0 {
				got.SrcPort = Port // as 0 is written
			}
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Errorf("%v\n%v\n%v", err, got, again)
			}
		}
	})
}

// head is the ABI's struct hb_head, read by its types alone.
type head struct {
	Magic                              uint16
	Version, Direction                 uint8
	Sender, Link, KeyID, Words         uint8
	Cluster, AgeUS                     uint32
	Boot, Nonce, Echo, Seq, Sent, Gave uint64
	Flags, Digest                      uint32
}

// Whatever a frame says stands on the wire where the ABI wants it, and is read again as it was said;
// another frame, were it another by one bit under the tag, is not read.
func FuzzMarshal(f *testing.F) {
	f.Add([]byte{}, uint8(0), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 200), uint8(MaxIdentities), uint16(77))
	f.Add([]byte{1}, uint8(2), uint16(8*(headBytes+2*8+tagBytes)-1)) // the last bit of the tag
	f.Add([]byte("one after the other, these are the values of all fields, of which there are many, and of the words"), uint8(2), uint16(1000))
	f.Fuzz(func(t *testing.T, values []byte, words uint8, bit uint16) {
		var h head
		said := make([]uint64, words%(MaxIdentities+1))
		fill := bytes.NewReader(append(values, make([]byte, binary.Size(h)+binary.Size(said))...))
		if err := errors.Join(binary.Read(fill, binary.LittleEndian, &h), binary.Read(fill, binary.LittleEndian, said)); err != nil {
			t.Fatal(err)
		}
		h.Magic, h.Version, h.Direction, h.KeyID, h.Words = 0x4458, 2, h.Direction&1, signing.ID, uint8(len(said))
		frame := Frame{SrcIP: netip.AddrFrom4([4]byte{192, 0, 2, h.Sender}), DstIP: netip.AddrFrom4([4]byte{192, 0, 2, h.Link}),
			Direction: Direction(h.Direction), Sender: h.Sender, Link: h.Link, KeyID: h.KeyID, ClusterID: h.Cluster, AgeUS: h.AgeUS, BootID: h.Boot, Nonce: h.Nonce,
			Echo: h.Echo, Seq: h.Seq, SentNS: h.Sent, GrantNS: h.Gave, Flags: h.Flags, Digest: h.Digest, Words: said}
		b := marshal(t, frame, signing)
		var want bytes.Buffer
		if err := errors.Join(binary.Write(&want, binary.LittleEndian, h), binary.Write(&want, binary.LittleEndian, said)); err != nil {
			t.Fatal(err)
		}
		if got := b[headOffset : len(b)-tagBytes]; !bytes.Equal(got, want.Bytes()) || len(b) != Size(len(said)) {
			t.Fatalf("on the wire\n%swant\n%s", hex.Dump(got), hex.Dump(want.Bytes()))
		}
		frame.SrcPort, frame.DstPort, frame.TTL = Port, Port, TTL
		again, err := Parse(b, retired, signing)
		if diff := cmp.Diff(frame, again, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
		at := 8*headOffset + int(bit)%(8*(len(b)-headOffset))
		b[at/8] ^= 1 << (at % 8)
		if _, err := Parse(b, retired, signing); err == nil {
			t.Fatalf("bit %d turned: it is read", at)
		}
	})
}
