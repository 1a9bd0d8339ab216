// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
)

func TestTheClientMeasuresByIPv6Too(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, c := range []struct{ addr, node string }{{"2001:db8::11", Serv1}, {"2001:db8::12", Serv2}} {
		p, err := l.StartProber(ctx, netip.MustParseAddr(c.addr), ProbeOptions{})
		must(t, err)
		must(t, p.AwaitAnswer(ctx, c.node, NowNs()+50e6))
		cut := NowNs()
		must(t, l.Cut(c.node, LAN))
		cutDone := NowNs()
		<-time.After(20 * time.Millisecond)
		mend := NowNs()
		must(t, l.Mend(c.node, LAN))
		must(t, p.AwaitAnswer(ctx, c.node, NowNs()+50e6))
		r := p.Stop()
		s := Analyze(r, Window{})
		if s.Before != c.node || s.After != c.node || s.DualAnswers != 0 || s.Duplicates != 0 || !s.Restored || p.SendErrors() != 0 {
			t.Errorf("%s: %+v, %d send errors", c.addr, s, p.SendErrors())
		}
		if s.OutageNs < mend-cutDone-s.StalledNs || s.FromNs > cutDone || s.ToNs < mend {
			t.Errorf("%s was cut for %d ns, the client saw %+v", c.addr, mend-cutDone, s)
		}
		if before := Analyze(r, Window{ToNs: cut - 1e6}); before.Lost != 0 || before.Sent < 100 {
			t.Errorf("%s before the cut: %+v", c.addr, before)
		}
		if e, err := l.ARP(p.Target); err != nil || !sameMAC(e.MAC, p.MAC) {
			t.Errorf("%s: entry %v, %v; want %x", c.addr, e, err, p.MAC)
		}
	}
}

func TestAProbersFilterTakesOnlyWhatIsForIt(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, to := range []string{"192.0.2.12", "2001:db8::12"} {
		target := netip.MustParseAddr(to)
		p, err := l.StartProber(ctx, target, ProbeOptions{})
		must(t, err)
		must(t, p.AwaitAnswer(ctx, Serv2, NowNs()))
		must(t, l.Cut(Serv2, LAN))
		good := answerFrom(t, l, target, p.MAC)
		bad := map[string]int{"of another protocol": p.echo.ttlAt + 1, "another kind": p.echo.icmpAt, "another's": p.echo.icmpAt + 5, "from elsewhere": p.echo.ttlAt + 7}
		if target.Is6() {
			bad["of another protocol"], bad["from elsewhere"] = ethLen+6, ethLen+8+15
		}
		must(t, l.awaitSilence(ctx, p))
		before := p.Live().Answered
		for _, at := range bad {
			f := append([]byte(nil), good...)
			f[at] ^= 1
			send(t, l, Hosts1, "eth0", f)
		}
		send(t, l, Hosts1, "eth0", good)
		must(t, p.AwaitAnswer(ctx, "", NowNs()-1e9))
		for p.Live().Answered == before {
			<-time.After(time.Millisecond)
			must(t, ctx.Err())
		}
		must(t, l.Mend(Serv2, LAN))
		r := p.Stop()
		last := 0
		for _, a := range r.Answers {
			if a.Seq == 0x01020304 {
				last++
			}
		}
		if last != 1 {
			t.Errorf("%s: took %d of one good answer and of %d that were not", to, last, len(bad))
		}
	}
}

// awaitSilence returns when nothing has come to the prober for a while.
func (l *Lab) awaitSilence(ctx context.Context, p *Prober) error {
	for p.Live().LastAnswerNs > NowNs()-20e6 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// answerFrom is a reply to the client's prober, with a sequence number that it does not use.
func answerFrom(t *testing.T, l *Lab, from netip.Addr, src [6]byte) []byte {
	t.Helper()
	nic, err := l.clientNIC()
	must(t, err)
	e := newEcho([6]byte(nic.HardwareAddr), src, from, clientAddr(from))
	e.frame[e.icmpAt] = 0
	if from.Is6() {
		e.frame[e.icmpAt] = 129
	}
	e.number(0x01020304)
	return e.frame[:e.size]
}

func TestTheJudgeTellsNeighbourDiscoveryFromOtherIPv6(t *testing.T) {
	l := newLab(t)
	vip := Identities[0]
	must(t, l.Judge(true))
	for _, kind := range []byte{135, 136, 128} {
		f := request([6]byte{0x33, 0x33, 0, 0, 0, 1}, vip.MAC, vip.Addr6)
		f[ethLen+ip6Len] = kind
		send(t, l, Serv1, "eth0", f)
	}
	trail, err := l.JudgeTrail()
	must(t, err)
	var kinds []string
	for _, r := range trail {
		kinds = append(kinds, fmt.Sprint(r.Kind))
	}
	want := fmt.Sprint(loader.LabND, loader.LabND, loader.LabIPv6)
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("kinds %s, want %s", got, want)
	}
}

// TestAnIdentitysIPv6AddressIsResolved has a node's kernel stand in for xdpha, by a macvlan with the identity's MAC.
func TestAnIdentitysIPv6AddressIsResolved(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	vip := Identities[1]
	n := l.space(Serv2)
	lan, err := n.nl.LinkByName("eth0")
	must(t, err)
	a := upAttrs("vip")
	a.ParentIndex, a.HardwareAddr = lan.Attrs().Index, vip.MAC[:]
	must(t, n.nl.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	link, err := n.nl.LinkByName("vip")
	must(t, err)
	addr, err := netlink.ParseAddr(vip.Addr6.String() + "/64")
	must(t, err)
	addr.Flags = unix.IFA_F_NODAD
	must(t, n.nl.AddrAdd(link, addr))
	mac, err := l.Resolve(ctx, vip.Addr6)
	must(t, err)
	if mac != vip.MAC {
		t.Errorf("resolved to %x, want %x", mac, vip.MAC)
	}
}
