// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// localExperiment is IEEE 802's EtherType for experiments (RFC 9542).
const localExperiment = 0x88b5

// lap is a tick pair with a socket at either end.
type lap struct {
	t          testing.TB
	index      int
	start, end *packet.Conn
	frame      []byte
}

func newLap(t testing.TB, s *scene, token int) *lap {
	t.Helper()
	// Frames without a time of departure pass fq at once: here it is always tbf that is measured.
	s.host.qdiscs = withoutFq{s.host.nl}
	a, _, err := s.host.EnsureTickPair("xdtick")
	must(t, err)
	l := &lap{t: t, index: a, frame: make([]byte, token)}
	for i, conn := range []**packet.Conn{&l.start, &l.end} {
		ifi, err := net.InterfaceByName([]string{"xdtick0", "xdtick1"}[i])
		must(t, err)
		*conn, err = packet.Listen(ifi, packet.Raw, localExperiment, nil)
		must(t, err)
		c := *conn
		t.Cleanup(func() { c.Close() })
	}
	must(t, l.end.SetReadDeadline(time.Now().Add(20*time.Second)))
	copy(l.frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, localExperiment >> 8, localExperiment & 0xff})
	return l
}

// send tells whether the queue took a frame.
func (l *lap) send() bool {
	l.t.Helper()
	_, err := l.start.WriteTo(l.frame, &packet.Addr{HardwareAddr: l.frame[:6]})
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		l.t.Fatal(err)
	}
	return err == nil
}

func (l *lap) receive() {
	l.t.Helper()
	buf := make([]byte, 2048)
	n, _, err := l.end.ReadFrom(buf)
	must(l.t, err)
	if n != len(l.frame) {
		l.t.Fatalf("a frame of %d bytes came, want %d", n, len(l.frame))
	}
}

func rootOf(t testing.TB, index int) netlink.Qdisc {
	t.Helper()
	list, err := netlink.QdiscList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
	must(t, err)
	for _, q := range list {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return q
		}
	}
	return nil
}

func TestOneFramePassesInAPaceHoweverManyAreSent(t *testing.T) {
	s := newScene(t)
	const token, every, frames = 442, 2 * time.Millisecond, 50
	l := newLap(t, s, token)
	mode, err := s.host.SetPace(l.index, token, every)
	must(t, err)
	if mode != PaceTbf {
		t.Fatalf("mode is %s", mode)
	}
	began := time.Now()
	l.send()
	l.send()
	l.send()
	for range frames {
		l.receive()
		// Two for one: the queue is never empty, and the surplus is dropped.
		l.send()
		l.send()
	}
	took := time.Since(began)
	t.Logf("%d frames in %v, %v each, of %v", frames, took, took/(frames-1), every)
	if least := (frames - 1) * every * 7 / 10; took < least {
		t.Errorf("%d frames took %v, want at least %v", frames, took, least)
	}
}

func TestAThirdFrameInTheQueueIsDropped(t *testing.T) {
	s := newScene(t)
	const token, every, frames = 442, time.Second, 20
	l := newLap(t, s, token)
	_, err := s.host.SetPace(l.index, token, every)
	must(t, err)
	began := time.Now()
	taken := 0
	for range frames {
		if l.send() {
			taken++
		}
	}
	stats := rootOf(t, l.index).Attrs().Statistics
	passed := 2 + int(time.Since(began)/every) // 1.25 at once, then one in each period
	if taken > passed+maxTokens || int(stats.Queue.Drops) != frames-taken {
		t.Errorf("%d of %d frames taken, want no more than %d waiting and %d passed; %d counted as dropped", taken, frames, maxTokens, passed, stats.Queue.Drops)
	}
	if taken < maxTokens || stats.Queue.Backlog > maxTokens*token {
		t.Errorf("%d frames taken, %d bytes wait, want at least %d frames and at most %d bytes", taken, stats.Queue.Backlog, maxTokens, maxTokens*token)
	}
}

func TestARightPaceIsLeftAloneAndAnotherKeepsTheFrame(t *testing.T) {
	s := newScene(t)
	const token = 442
	l := newLap(t, s, token)
	pace := func(token int, every time.Duration) netlink.Qdisc {
		t.Helper()
		mode, err := s.host.SetPace(l.index, token, every)
		must(t, err)
		q := rootOf(t, l.index)
		if q == nil || q.Type() != mode {
			t.Fatalf("the root qdisc is %v, want %s", q, mode)
		}
		return q
	}
	first := pace(token, time.Second)
	for l.send() {
	}
	waiting := rootOf(t, l.index).Attrs().Statistics.Queue.Qlen
	if waiting == 0 {
		t.Fatal("no frame waits: the queue took none")
	}
	again := pace(token, time.Second)
	if again.Attrs().Handle != first.Attrs().Handle || again.Attrs().Statistics.Queue.Drops == 0 {
		t.Errorf("set again, the qdisc was replaced: %v, then %v", first, again)
	}
	other := pace(token+8, 250*time.Millisecond)
	if other.Attrs().Handle != first.Attrs().Handle {
		t.Errorf("another pace replaced the qdisc: %v, then %v", first, other)
	}
	if tbf, ok := other.(*netlink.Tbf); ok && (tbf.Rate != 4*(token+8) || tbf.Limit != 2*(token+8) || tbf.Buffer != 4882812) {
		t.Errorf("the new pace is %+v", tbf)
	}
	for range waiting {
		l.receive() // none was lost by the changes
	}

	must(t, s.host.RemovePace(l.index))
	must(t, s.host.RemovePace(l.index))
	if q := rootOf(t, l.index); q != nil && q.Type() != "noqueue" {
		t.Errorf("after RemovePace the root qdisc is %v", q)
	}
}

func TestPaceIsRefusedWhereItCannotBe(t *testing.T) {
	s := newScene(t)
	l := newLap(t, s, 60)
	for _, test := range []struct {
		token int
		every time.Duration
	}{{59, time.Millisecond}, {1515, time.Millisecond}, {442, 99 * time.Microsecond}, {442, time.Second + 1}} {
		if _, err := s.host.SetPace(l.index, test.token, test.every); err == nil {
			t.Errorf("%d bytes every %v were accepted", test.token, test.every)
		}
	}
	if _, err := s.host.SetPace(s.nic.Index, 442, time.Millisecond); !errors.Is(err, ErrForeign) {
		t.Errorf("pace for the host's own NIC: %v, want ErrForeign", err)
	}
	if err := s.host.RemovePace(s.nic.Index); !errors.Is(err, ErrForeign) {
		t.Errorf("remove pace of the host's own NIC: %v, want ErrForeign", err)
	}
	must(t, s.host.RemovePace(1<<20))
}

// withoutFq is a kernel without fq.
type withoutFq struct{ qdiscs }

func (q withoutFq) QdiscReplace(want netlink.Qdisc) error {
	if want.Type() == PaceFq {
		return unix.ENOENT
	}
	return q.qdiscs.QdiscReplace(want)
}

// kernel is one that has only some kinds of qdisc.
type kernel struct {
	kinds map[string]bool
	fault error // of every change
	root  netlink.Qdisc
	tried []string
}

func (k *kernel) QdiscList(netlink.Link) ([]netlink.Qdisc, error) {
	if k.root == nil {
		return nil, nil
	}
	return []netlink.Qdisc{k.root}, nil
}

func (k *kernel) QdiscReplace(q netlink.Qdisc) error {
	k.tried = append(k.tried, q.Type())
	if k.fault != nil {
		return k.fault
	}
	if !k.kinds[q.Type()] {
		return unix.ENOENT
	}
	k.root = q
	return nil
}

func (k *kernel) QdiscDel(netlink.Qdisc) error { k.root = nil; return nil }

func TestFqIsPreferredAndTbfServesWithoutIt(t *testing.T) {
	const token, every = 442, time.Millisecond
	choices := paceChoices(7, token, every)
	for _, test := range []struct {
		name  string
		k     kernel
		want  string
		tried string
	}{
		{"both", kernel{kinds: map[string]bool{"fq": true, "tbf": true}}, PaceFq, "fq"},
		{"tbf alone", kernel{kinds: map[string]bool{"tbf": true}}, PaceTbf, "fq tbf"},
		{"fq is there", kernel{root: choices[0]}, PaceFq, ""},
		{"tbf is there", kernel{kinds: map[string]bool{"fq": true}, root: choices[1]}, PaceTbf, ""},
		{"another tbf is there", kernel{kinds: map[string]bool{"tbf": true}, root: paceChoices(7, token, 2*every)[1]}, PaceTbf, "fq tbf"},
		{"somebody's noqueue", kernel{kinds: map[string]bool{"fq": true}, root: &netlink.GenericQdisc{QdiscAttrs: choices[0].(*netlink.Fq).QdiscAttrs, QdiscType: "noqueue"}}, PaceFq, "fq"},
	} {
		mode, err := setPace(&test.k, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 7}}, token, every)
		if got := strings.Join(test.k.tried, " "); err != nil || mode != test.want || got != test.tried {
			t.Errorf("%s: mode %q, %v, after trying %q; want %q after %q", test.name, mode, err, got, test.want, test.tried)
		}
	}
	_, err := setPace(&kernel{}, &netlink.Veth{}, token, every)
	for _, want := range []string{"CONFIG_NET_SCH_FQ", "CONFIG_NET_SCH_TBF", "pacer: thread"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with neither qdisc: %v, want %q in it", err, want)
		}
	}
	_, err = setPace(&kernel{kinds: map[string]bool{"fq": true, "tbf": true}, fault: unix.EPERM}, &netlink.Veth{}, token, every)
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("without privilege: %v, want EPERM", err)
	}
}

func TestFqHasNoPaceOfItsOwn(t *testing.T) {
	fq := paceChoices(7, 442, time.Second)[0].(*netlink.Fq)
	if fq.Pacing != 0 || fq.FlowMaxRate != 0 || fq.PacketLimit != maxTokens || time.Duration(fq.Horizon)*time.Microsecond <= maxPace {
		t.Errorf("fq is %v", fq)
	}
}
