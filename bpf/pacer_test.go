// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
)

const (
	tcRedirect = 7
	tokenBytes = 42 + 72 + 16*8 + 8
	tokenMark  = 0x70
)

// aTick is a frame as user space sends it into the pair.
func aTick(mark byte) []byte {
	b := make([]byte, tokenBytes)
	b[5], b[12] = mark, 8
	return b
}

func TestATokenComesBackAndAPulseDoesNot(t *testing.T) {
	n := newBench(t).newNode(t, 0)
	ago := func(d uint64) func(*truth) {
		return func(v *truth) { v.state.TokenNs = now() - d }
	}
	after := func(d uint64) func(*truth) { // the last probes
		return func(v *truth) { ago(hour)(v); v.state.Ticks[v.state.Seq%8] = now() - d }
	}
	for name, c := range map[string]struct {
		mark    byte
		given   func(*truth)
		verdict uint32
		counted string
	}{
		"a pulse":                                                 {0xff, ago(hour), tcShot, "- tick-sent"},
		"a pulse beside a token":                                  {0xff, ago(0), tcShot, "- tick-sent"},
		"a token":                                                 {tokenMark, ago(hour), tcRedirect, "- tick-sent"},
		"the first token":                                         {tokenMark, func(*truth) {}, tcRedirect, "- tick-sent"},
		"a token that was held up before":                         {tokenMark, ago(0), tcRedirect, "- tick-sent"},
		"one token after the other, too early":                    {tokenMark, func(v *truth) { ago(0)(v); v.state.TokenStrikes = 4 }, tcShot, "- token-unpaced"},
		"a token in time after early ones":                        {tokenMark, func(v *truth) { ago(hour)(v); v.state.TokenStrikes = 4 }, tcRedirect, "- tick-sent"},
		"a token where a thread paces":                            {tokenMark, func(v *truth) { v.control.Pace = bpf.XdphaXdPacePACE_THREAD }, tcShot, "- tick-sent"},
		"a token without a ring":                                  {tokenMark, func(v *truth) { v.control.RingIfindex = 0 }, tcShot, "- tick-sent"},
		"a token just after a pulse":                              {tokenMark, after(0), tcRedirect, "- tick-early"},
		"a token between two probes":                              {tokenMark, after(hour / 4), tcRedirect, "- tick-between"},
		"a token in time for the next":                            {tokenMark, after(hour / 2), tcRedirect, "- tick-sent"},
		"a token between two probes, while the peer is suspected": {tokenMark, func(v *truth) { after(hour / 4)(v); v.peer.State = suspect }, tcRedirect, "- tick-sent"},
		"a token between two probes, with something to announce":  {tokenMark, func(v *truth) { after(hour / 4)(v); v.state.ToAnnounce = 2 }, tcRedirect, "- tick-between"},
		"a pulse just after another":                              {0xff, after(0), tcShot, "- tick-early"},
		"an urgent pulse just after another":                      {0x71, after(0), tcShot, "- tick-sent"},
		"a pulse between two probes":                              {0xff, after(hour / 4), tcShot, "- tick-sent"},
		"a token whose time fq is to be told":                     {tokenMark, func(v *truth) { v.control.Pace = bpf.XdphaXdPacePACE_FQ }, tcRedirect, "- tick-sent"},
	} {
		t.Run(name, func(t *testing.T) {
			v := n.atWork()
			v.config.ProbeNs, v.control.LapNs = hour/2, hour/4
			v.control.Pace, v.control.RingIfindex = bpf.XdphaXdPacePACE_TBF, uint32(n.nic[1][none])
			c.given(v)
			n.put(v)
			before := n.counters()
			verdict, out := n.run(n.objs.XdphaTick, aTick(c.mark), nil)
			if verdict != c.verdict {
				t.Errorf("verdict %d, want %d", verdict, c.verdict)
			}
			if moved := n.moved(before); moved != c.counted {
				t.Errorf("counted %q, want %q", moved, c.counted)
			}
			if verdict == tcRedirect && (len(out) != tokenBytes || out[5] != tokenMark || out[12] != 8 || out[13] != 0) {
				t.Errorf("the token comes back as %d bytes, %x", len(out), out[:14])
			}
		})
	}
}

// ring is a private pair whose end ticks and whose start is a delay line.
type ring struct {
	n     *node
	start netlink.Link
}

func (n *node) ring(v *truth, every time.Duration) *ring {
	n.t.Helper()
	r := &ring{n: n}
	var err error
	n.in(func() {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tick"}, PeerName: "tock"}
		if err = netlink.LinkAdd(pair); err != nil {
			return
		}
		var end netlink.Link
		for name, l := range map[string]*netlink.Link{"tick": &r.start, "tock": &end} {
			if *l, err = netlink.LinkByName(name); err == nil {
				err = netlink.LinkSetUp(*l)
			}
			if err != nil {
				return
			}
		}
		var l link.Link
		if l, err = link.AttachTCX(link.TCXOptions{Interface: end.Attrs().Index, Program: n.objs.XdphaTick, Attach: ebpf.AttachTCXIngress}); err == nil {
			n.t.Cleanup(func() { l.Close() })
		}
	})
	n.must(err)
	v.config.ProbeNs, v.control.LapNs = uint64(every), uint64(every)
	v.control.Pace, v.control.RingIfindex = bpf.XdphaXdPacePACE_TBF, uint32(r.start.Attrs().Index)
	for i := range v.config.Links {
		v.config.Links[i].Ifindex = 0 // nothing but the ring is looked at
	}
	n.put(v)
	return r
}

func (r *ring) delayLine(every time.Duration) {
	r.n.t.Helper()
	r.n.in(func() {
		r.n.must(netlink.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: r.start.Attrs().Index, Parent: netlink.HANDLE_ROOT},
			Rate:       tokenBytes * uint64(time.Second/every), Buffer: uint32(every * 5 / 4 / 64), Limit: 2 * tokenBytes,
		}))
	})
}

// seed sends tokens through the delay line.
func (r *ring) seed(count int) {
	r.n.t.Helper()
	fd := r.n.listen(r.n.t, r.start.Attrs().Index)
	for range count {
		err := unix.Sendto(fd, aTick(tokenMark), 0, &unix.SockaddrLinklayer{Ifindex: r.start.Attrs().Index, Protocol: 8})
		if !errors.Is(err, unix.ENOBUFS) { // two are in the line already
			r.n.must(err)
		}
	}
}

// awaitTicks returns how long so many more of them took.
func (r *ring) awaitTicks(count uint64) time.Duration {
	r.n.t.Helper()
	start := time.Now()
	first := r.n.state().Seq
	for r.n.state().Seq < first+count {
		if time.Since(start) > patience {
			r.n.t.Fatalf("%d ticks in %v, want %d", r.n.state().Seq-first, patience, count)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

// One token and ten make the same ticks; without its delay line the ring stands still at once,
// and goes on with another token.
func TestTheRing(t *testing.T) {
	const every = 2 * time.Millisecond
	n := newBench(t).newNode(t, 0)
	r := n.ring(n.atWork(), every)
	r.delayLine(every)
	r.seed(1)
	if took := r.awaitTicks(50); took < 50*every*3/4 {
		t.Errorf("50 ticks took %v, less than the delay line allows", took)
	}
	r.seed(10)
	if took := r.awaitTicks(50); took < 50*every*3/4 {
		t.Errorf("of eleven tokens 50 ticks took %v, less than the delay line allows", took)
	}

	before := n.counters()
	r.n.in(func() { n.must(netlink.LinkSetDown(r.start)); n.must(netlink.LinkSetUp(r.start)) }) // what is in the queue is lost
	r.n.in(func() {
		n.must(netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: r.start.Attrs().Index, Parent: netlink.HANDLE_ROOT}}))
	})
	r.seed(5)
	stood := n.state().Seq
	time.Sleep(20 * every) // nothing is to happen: there is no event to await
	if ticks := n.state().Seq - stood; ticks > 12 {
		t.Errorf("%d ticks by five tokens and those of before without a delay line", ticks)
	}
	if ended := n.counters()["- token-unpaced"] - before["- token-unpaced"]; ended < 1 || ended > 14 { // each may have left a copy behind it
		t.Errorf("%d tokens were ended, of five and those of before", ended)
	}
	r.delayLine(every)
	r.seed(1)
	r.awaitTicks(50)
}
