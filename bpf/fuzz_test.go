// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
)

var (
	fuzzFrames = flag.Int("frames", 200_000, "how `many` frames the fuzzer sends")
	fuzzSeed   = flag.Uint64("seed", 1, "the `seed` of the fuzzer's frames")
)

// shotsPerScene frames meet a node one after the other before it is another node.
const shotsPerScene = 64

// program is one of those that a frame can meet.
type program int

const (
	ingress program = iota
	egress
	ticked
)

// shot is a frame on its way to a program.
type shot struct {
	what  string // what the frame was made from
	to    program
	nic   int
	frame []byte
}

// moment is all that the programs can write, but for the counters.
type moment struct {
	state     bpf.XdphaXdState
	peers     [2]bpf.XdphaXdPeer
	control   bpf.XdphaXdControl
	words     [16]uint64
	timelines [16]bpf.XdphaXdTimeline
}

// result is what came of a shot.
type result struct {
	verdict      uint32
	out          []byte
	began, ended uint64 // when it was
	reason       uint32
	row          int // of the counter that moved: the link
}

// gun runs frames through loaded programs and sees all of their maps without asking the kernel.
type gun struct {
	*node
	state     *bpf.XdphaXdState
	peers     *[16]bpf.XdphaXdPeer
	control   *bpf.XdphaXdControl
	words     *[16]uint64
	timelines *[16]bpf.XdphaXdTimeline
	counters  []uint64
	counted   []uint64
	attr      *testRun
	ctx, out  []byte
}

// testRun is BPF_PROG_TEST_RUN's part of union bpf_attr (linux/bpf.h).
type testRun struct {
	fd, verdict, bytesIn, bytesOut uint32
	in, out                        uint64
	repeat, duration               uint32
	ctxBytesIn, ctxBytesOut        uint32
	ctxIn, ctxOut                  uint64
	flags, cpu, batch, pad         uint32
}

const progTestRun = 10 // of enum bpf_cmd

// newGun loads the programs as they are, but with counters in memory that can be mapped: what
// counts is then seen after every single frame.
func newGun(t *testing.T) *gun {
	t.Helper()
	spec, err := bpf.LoadXdpha()
	if err != nil {
		t.Fatal(err)
	}
	counters := spec.Maps[bpf.XdphaMapCounters]
	counters.Type, counters.Flags = ebpf.Array, counters.Flags|unix.BPF_F_MMAPABLE
	g := &gun{node: newBench(t).nodeOf(t, 0, spec), attr: &testRun{}, ctx: make([]byte, 44), out: make([]byte, 4096)}
	m := &g.objs.XdphaMaps
	g.state = mapped[bpf.XdphaXdState](t, m.State)
	g.peers = mapped[[16]bpf.XdphaXdPeer](t, m.Peers)
	g.control = mapped[bpf.XdphaXdControl](t, m.Control)
	g.words = mapped[[16]uint64](t, m.Words)
	g.timelines = mapped[[16]bpf.XdphaXdTimeline](t, m.Timelines)
	g.counters = mapped[[4 * bpf.XdphaXdReasonREASON_COUNT]uint64](t, m.Counters)[:]
	g.counted = slices.Clone(g.counters)
	for id := range uint32(identities) {
		g.must(m.Ports.Put(bpf.XdphaXdPort{Identity: id, PortBe: bits.ReverseBytes16(445)}, uint64(1<<48))) // of no word
	}
	return g
}

// mapped is the memory of a map of which T is the whole.
func mapped[T any](t *testing.T, m *ebpf.Map) *T {
	t.Helper()
	var whole T
	page := unix.Getpagesize()
	size := (int(unsafe.Sizeof(whole)) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("map the memory of %v: %v", m, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return (*T)(unsafe.Pointer(&b[0]))
}

func (g *gun) moment() moment {
	return moment{*g.state, [2]bpf.XdphaXdPeer(g.peers[:2]), *g.control, *g.words, *g.timelines}
}

// other is what is known of the other node.
func (m *moment) other(cfg *bpf.XdphaXdConfig) *bpf.XdphaXdPeer { return &m.peers[1-cfg.Self] }

func (g *gun) restore(m *moment) {
	*g.state, *g.control, *g.words, *g.timelines = m.state, m.control, m.words, m.timelines
	copy(g.peers[:], m.peers[:])
}

// fire runs one frame, on the namespace's thread. The result's out is good until the next shot.
func (g *gun) fire(s shot) (result, error) {
	a := g.attr
	*a = testRun{bytesIn: uint32(len(s.frame)), bytesOut: uint32(len(g.out)), repeat: 1,
		in: uint64(uintptr(unsafe.Pointer(&s.frame[0]))), out: uint64(uintptr(unsafe.Pointer(&g.out[0])))}
	clear(g.ctx)
	ctx := unsafe.Slice((*uint32)(unsafe.Pointer(&g.ctx[0])), 11)
	switch s.to {
	case ingress: // struct xdp_md
		a.fd, ctx[1], ctx[3], a.ctxBytesIn = uint32(g.objs.XdphaIn.FD()), a.bytesIn, uint32(g.nic[0][s.nic]), 24
	case egress: // struct __sk_buff up to ifindex
		a.fd, ctx[10], a.ctxBytesIn = uint32(g.objs.XdphaOut.FD()), uint32(g.nic[0][s.nic]), 44
	case ticked:
		a.fd = uint32(g.objs.XdphaTick.FD())
	}
	if a.ctxBytesIn != 0 {
		a.ctxIn = uint64(uintptr(unsafe.Pointer(&g.ctx[0])))
	}
	r := result{began: now()}
	_, _, errno := unix.Syscall(unix.SYS_BPF, progTestRun, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	r.ended = now()
	if errno != 0 {
		return r, fmt.Errorf("run %d bytes: %w", len(s.frame), errno)
	}
	r.verdict, r.out = a.verdict, g.out[:a.bytesOut]
	return r, g.count(&r)
}

// count finds the one counter that moved, by one.
func (g *gun) count(r *result) error {
	moved := 0
	for i, c := range g.counters {
		if d := c - g.counted[i]; d != 0 {
			moved += int(d)
			r.row, r.reason = i/int(bpf.XdphaXdReasonREASON_COUNT), uint32(i)%uint32(bpf.XdphaXdReasonREASON_COUNT)
		}
	}
	copy(g.counted, g.counters)
	if moved != 1 {
		return fmt.Errorf("counted %d times", moved)
	}
	return nil
}

// tally is how often each reason was given, by program and verdict.
type tally map[[3]uint32]int

func (t tally) String() string {
	var lines []string
	for k, n := range t {
		verdicts := map[uint32]string{xdpDrop: "drop", xdpPass: "pass", xdpTX: "tx"}
		if program(k[0]) != ingress {
			verdicts = map[uint32]string{tcUnspec: "on", tcShot: "shot", tcRedirect: "round"}
		}
		lines = append(lines, fmt.Sprintf("%-20s %-5s %11d", reasonNames[k[1]], verdicts[k[2]], n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// unreached are the reasons that no frame was given, of those that a frame can be given: internal
// is for what cannot happen.
func (t tally) unreached() (names []string) {
	for reason, name := range reasonNames {
		seen := false
		for k := range t {
			seen = seen || k[1] == uint32(reason)
		}
		if !seen && name != "internal" {
			names = append(names, name)
		}
	}
	return names
}

// Frames of every kind, sound and spoiled, meet nodes in every state. What must hold after each is
// written down in fuzz_rules_test.go.
func TestNoFrameFromOutsideBreaksTheRules(t *testing.T) {
	g := newGun(t)
	got := tally{}
	var broken error
	began := time.Now()
	g.in(func() { broken = g.fuzz(*fuzzSeed, *fuzzFrames, got) })
	if broken != nil {
		t.Fatal(broken)
	}
	took := time.Since(began)
	t.Logf("%d frames of seed %d in %.1f s, %.0f per second; reason, verdict, frames:\n%v",
		*fuzzFrames, *fuzzSeed, took.Seconds(), float64(*fuzzFrames)/took.Seconds(), got)
	if names := got.unreached(); len(names) > 0 {
		t.Errorf("never reached: %v", names)
	}
}

// fuzz sends frames, scene after scene. A scene depends on the seed and its number alone.
func (g *gun) fuzz(seed uint64, frames int, got tally) error {
	var before moment
	for scene := range uint64(frames+shotsPerScene-1) / shotsPerScene {
		r := rand.New(rand.NewPCG(seed, scene))
		v := g.scene(r)
		if err := g.set(v); err != nil {
			return err
		}
		m := &maker{Rand: r, cfg: &v.config, state: g.state, peer: &g.peers[1-v.config.Self]}
		for i := range shotsPerScene {
			before = g.moment()
			s := m.shot()
			res, err := g.fire(s)
			if err == nil {
				err = g.judge(&v.config, &before, s, res)
			}
			if err != nil {
				return fmt.Errorf("seed %d, scene %d, shot %d: %w", seed, scene, i, g.explain(v, &before, s, err))
			}
			got[[3]uint32{uint32(s.to), res.reason, res.verdict}]++
			m.remember(s, res)
		}
	}
	return nil
}

// set puts a scene into the maps.
func (g *gun) set(v *truth) error {
	if err := g.objs.Config.Put(uint32(0), &v.config); err != nil {
		return err
	}
	m := moment{state: v.state, control: v.control}
	m.peers[1-v.config.Self] = v.peer
	copy(m.words[:], v.words[:])
	g.restore(&m)
	return nil
}

// explain shrinks a frame that broke a rule, and prints it beside the state that it met.
func (g *gun) explain(v *truth, before *moment, s shot, first error) error {
	breaks := func(frame []byte) error {
		g.restore(before)
		try := s
		try.frame = frame
		res, err := g.fire(try)
		if err != nil {
			return err
		}
		return g.judge(&v.config, before, try, res)
	}
	small := slices.Clone(s.frame)
	for len(small) > s.least() && breaks(small[:len(small)-1]) != nil {
		small = small[:len(small)-1]
	}
	for i := range small {
		was := small[i]
		if small[i] = 0; breaks(small) == nil {
			small[i] = was
		}
	}
	again, _, _ := strings.Cut(fmt.Sprint(breaks(small)), "\n")
	return fmt.Errorf("%w\n%s by NIC %d:\n%s\nshrunk (%s):\n%x\nconfig: %s\nstate: %s\ncontrol: %+v\nwords: %x",
		first, s.what, s.nic, hex.Dump(s.frame), again, small, brief(v.config), said(&before.state)+said(before.other(&v.config)), before.control, before.words[:identities])
}

// brief is a configuration without what all scenes have in common.
func brief(c bpf.XdphaXdConfig) string {
	return fmt.Sprintf("self %d, hosts %d, solo kept %d, serve %d ns, carriers %d and %d of NICs %v", c.Self, c.N_reach, c.SoloKeep,
		c.ServeNs, c.Identities[0].Carrier, c.Identities[1].Carrier, [3]uint32{c.Links[0].Ifindex, c.Links[1].Ifindex, c.Links[2].Ifindex})
}

// said prints what is not zero of a state, or of what is known of a peer.
func said[T any](s *T) string {
	var b strings.Builder
	for i, v := range fields(s) {
		if v != 0 {
			fmt.Fprintf(&b, " %s=%#x", fieldName[T](i), v)
		}
	}
	return b.String()
}
